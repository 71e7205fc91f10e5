"""Users: who owns keys and who may log in. Logins and their sessions are in `logins`."""

import re
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
import sqlalchemy as sa
from msgspec import Meta, Struct
from sqlalchemy.exc import IntegrityError

from embedgate.core.errors import Conflict, InvalidInput, Overloaded, UnknownEntity
from embedgate.govern.change import Change, Invocation, Reading, differences, plain
from embedgate.govern.fields import check_name, findable, new_id
from embedgate.govern.lists import Listed, Listing, ListQuery, read_page
from embedgate.govern.near_names import near_name
from embedgate.govern.operation import Facts, changes, reads, runs
from embedgate.govern.orphans import drop_rules_of
from embedgate.govern.roles import RoleName, set_roles
from embedgate.govern.values import Moment, moment
from embedgate.storage import schema
from embedgate.storage.key_rows import roles_of

UserRef = Annotated[str, Meta(description="Name or id of the user.", examples=["alice"])]
NewPasswordText = Annotated[str, Meta(description="12 to 1,024 characters.")]

_ID = re.compile(r"user_[0-9a-f]{16}")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_MAX_EMAIL_CHARACTERS = 254
_TABLE = schema.users
_LISTING = Listing(
    fields={
        "created_at": _TABLE.c.created_at_ms,
        "name": sa.func.lower(_TABLE.c.name),
        "email": sa.func.lower(_TABLE.c.email),
        "tenant": _TABLE.c.tenant,
        "is_admin": _TABLE.c.is_admin,
        "is_disabled": _TABLE.c.is_disabled,
    },
    unique=_TABLE.c.id,
    searched=(_TABLE.c.name, _TABLE.c.email, _TABLE.c.id),
)


class User(Struct, frozen=True):
    """A user."""

    id: str
    name: str
    is_admin: bool
    is_disabled: Annotated[bool, Meta(description="Whether its keys and logins are refused.")]
    is_agent: Annotated[bool, Meta(description="Whether it is a program that acts on its own, for policies.")]
    email: Annotated[str, Meta(description="Empty if it is not known.")]
    tenant: Annotated[str | None, Meta(description="The customer or department it belongs to, for policies.")]
    roles: Annotated[tuple[str, ...], Meta(description="What policies know it by.")]
    has_password: Annotated[bool, Meta(description="Whether it can log in.")]
    created_at: Moment


class NewUser(Struct, forbid_unknown_fields=True):
    """A user to be made. It has no key and no password yet."""

    name: Annotated[str, Meta(description="Up to 64 characters.")]
    is_admin: Annotated[bool, Meta(description="May manage the gateway.")] = False
    is_agent: Annotated[bool, Meta(description="A program that acts by itself; policies can ask.")] = False
    email: Annotated[str, Meta(description="E-mail address.")] = ""
    tenant: Annotated[str | None, Meta(description="Customer or department, for policies.")] = None
    roles: Annotated[tuple[str, ...], Meta(description="Roles to give.")] = ()


class UserChange(Struct, forbid_unknown_fields=True):
    """The fields to change; those that are absent or null stay. An empty `email` or `tenant` takes it away."""

    user: UserRef
    name: Annotated[str | None, Meta(description="New name.")] = None
    is_admin: Annotated[bool | None, Meta(description="May manage the gateway.")] = None
    is_disabled: Annotated[bool | None, Meta(description="Whether its keys and logins are refused.")] = None
    is_agent: Annotated[bool | None, Meta(description="A program that acts by itself.")] = None
    email: Annotated[str | None, Meta(description="New address; an empty one takes it away.")] = None
    tenant: Annotated[str | None, Meta(description="New tenant; an empty one takes it away.")] = None
    roles: Annotated[tuple[str, ...] | None, Meta(description="All roles that there will be.")] = None


class NewPassword(Struct, forbid_unknown_fields=True):
    """A password."""

    user: UserRef
    password: NewPasswordText


class UserQuery(ListQuery):
    """Which users."""

    sort: Annotated[str, _LISTING.sorts] = ""


class WhichUser(Struct, forbid_unknown_fields=True):
    """A user."""

    user: UserRef


class RoleOfUser(Struct, forbid_unknown_fields=True):
    """A user and a role."""

    user: UserRef
    role: RoleName


@reads("users.list", "GET", "/api/users", Facts("listUsers"))
def list_users(reading: Reading, query: UserQuery) -> Listed[User]:
    """List the users."""
    return read_page(reading, _TABLE.select(), _LISTING, query, lambda rows: _users(reading, rows))


@changes(
    "users.create",
    "POST",
    "/api/users",
    Facts(
        "createUser",
        status=201,
        example={"name": "alice", "email": "alice@example.org", "roles": ["analyst"]},
        raises=(UnknownEntity,),
    ),
)
def create_user(change: Change, new: NewUser) -> User:
    """Add a user."""
    user = add_user(change, new)
    change.note("users.create", user.id, name=user.name, is_admin=user.is_admin, roles=plain(user.roles))
    return user


@reads("users.show", "GET", "/api/users/{user}", Facts("showUser"))
def show_user(reading: Reading, which: WhichUser) -> User:
    """Show a user."""
    return find_user(reading, which.user)


@changes("users.update", "PATCH", "/api/users/{user}", Facts("changeUser", example={"is_disabled": True}))
def change_user(change: Change, wanted: UserChange) -> User:
    """Change a user.

    A user that is disabled is logged out, and its keys are refused until it is enabled again.
    """
    before = find_user(change, wanted.user)
    given = {name: getattr(wanted, name) for name in wanted.__struct_fields__ if name not in ("user", "roles")}
    after = msgspec.structs.replace(before, **{name: value for name, value in given.items() if value is not None})
    roles = before.roles if wanted.roles is None else tuple(sorted(set(wanted.roles)))
    after = msgspec.structs.replace(after, tenant=after.tenant or None, roles=roles)
    _check(after)
    if after.is_disabled or not after.is_admin:
        _keep_an_administrator(change, before)
    try:
        change.connection.execute(_TABLE.update().where(_TABLE.c.id == after.id).values(_columns(after)))
    except IntegrityError as error:
        raise _taken(after.name) from error
    if after.roles != before.roles:
        set_roles(change, after.id, after.roles)
    if after.is_disabled:
        end_sessions(change, after.id)
    # The trail cannot be changed, so what a person may want forgotten is not in it.
    _note(change, "users.update", after.id, **differences(before, after, unsaid=("email",)))
    return after


@changes("users.delete", "DELETE", "/api/users/{user}", Facts("deleteUser"))
def delete_user(change: Change, which: WhichUser) -> None:
    """Delete a user.

    Its keys, limits and budgets go with it; the ledger keeps what it spent. The last administrator stays.
    """
    found = find_user(change, which.user)
    _keep_an_administrator(change, found)
    keys = schema.keys
    deleted = keys.delete().where(keys.c.user_id == found.id).returning(keys.c.id)
    drop_rules_of(change, "key", *change.connection.execute(deleted).scalars())
    drop_rules_of(change, "user", found.id)
    change.connection.execute(_TABLE.delete().where(_TABLE.c.id == found.id))  # its roles and sessions go with it
    _note(change, "users.delete", found.id, name=found.name)


@runs(
    "users.set_password",
    "PUT",
    "/api/users/{user}/password",
    Facts("setPassword", example={"password": "a long and unlikely phrase"}, raises=(Overloaded,)),
    is_change=True,
)
def set_password(invocation: Invocation, new: NewPassword) -> User:
    """Set a user's password.

    The user is logged out everywhere.
    """
    with invocation.read() as reading:
        user = find_user(reading, new.user)  # a password is not hashed for nobody
    password_hash = invocation.resources.passwords.hash(new.password, (user.name, user.email))
    with invocation.change() as change:
        return store_password(change, find_user(change, new.user).id, password_hash)


@changes("users.give_role", "PUT", "/api/users/{user}/roles/{role}", Facts("giveRole"))
def give_role(change: Change, wanted: RoleOfUser) -> User:
    """Give a user a role."""
    return _set_roles(change, "users.give_role", wanted, has_it=True)


@changes("users.take_role", "DELETE", "/api/users/{user}/roles/{role}", Facts("takeRole"))
def take_role(change: Change, wanted: RoleOfUser) -> User:
    """Take a role from a user."""
    return _set_roles(change, "users.take_role", wanted, has_it=False)


def find_user(reading: Reading, name_or_id: str) -> User:
    """The user of a name or an id. Raises UnknownEntity."""
    given = findable(name_or_id)
    is_meant = sa.or_(_TABLE.c.id == given, _TABLE.c.name == given)
    found = _users(reading, reading.connection.execute(_TABLE.select().where(is_meant)).all())
    if not found:
        near = near_name(reading, _TABLE.c.name, name_or_id)
        raise UnknownEntity(
            f"There is no user {name_or_id!r}. {near}List the users to see their names and ids.", param="user"
        )
    return found[0]


def add_user(change: Change, new: NewUser) -> User:
    """Store a new user; the event is the caller's. Raises InvalidInput, Conflict, UnknownEntity for a role."""
    user = User(
        id=new_id("user"),
        name=new.name,
        is_admin=new.is_admin,
        is_disabled=False,
        is_agent=new.is_agent,
        email=new.email,
        tenant=new.tenant or None,
        roles=tuple(sorted(set(new.roles))),
        has_password=False,
        created_at=moment(change.now_ms),
    )
    _check(user)
    row = _columns(user) | {"id": user.id, "created_at_ms": change.now_ms}
    try:
        change.connection.execute(_TABLE.insert().values(row))
    except IntegrityError as error:
        raise _taken(user.name) from error
    set_roles(change, user.id, user.roles)
    return user


def store_password(change: Change, user_id: str, password_hash: str) -> User:
    """Put the hash of a new password in the place of any other, and log the user out everywhere."""
    change.connection.execute(_TABLE.update().where(_TABLE.c.id == user_id).values(password_hash=password_hash))
    end_sessions(change, user_id)
    change.note("users.set_password", user_id)
    return find_user(change, user_id)


def end_sessions(change: Change, user_id: str) -> None:
    """Log a user out everywhere."""
    change.connection.execute(schema.sessions.delete().where(schema.sessions.c.user_id == user_id))


def _set_roles(change: Change, action: str, wanted: RoleOfUser, *, has_it: bool) -> User:
    user = find_user(change, wanted.user)
    roles = {*user.roles, wanted.role} if has_it else {*user.roles} - {wanted.role}
    after = msgspec.structs.replace(user, roles=tuple(sorted(roles)))
    set_roles(change, after.id, after.roles)
    _note(change, action, after.id, role=wanted.role)
    return after


def _note(change: Change, action: str, user_id: str, **detail: str | int | bool | None) -> None:
    change.touched.users.add(user_id)
    change.note(action, user_id, **detail)


def _users(reading: Reading, rows: Iterable[sa.Row[Any]]) -> list[User]:
    found = [
        User(
            id=row.id,
            name=row.name,
            is_admin=row.is_admin,
            is_disabled=row.is_disabled,
            is_agent=row.is_agent,
            email=row.email,
            tenant=row.tenant,
            roles=(),
            has_password=row.password_hash is not None,
            created_at=moment(row.created_at_ms),
        )
        for row in rows
    ]
    roles = roles_of(reading.connection, [user.id for user in found])
    return [msgspec.structs.replace(user, roles=roles.get(user.id, ())) for user in found]


def _keep_an_administrator(change: Change, leaving: User) -> None:
    if leaving.is_disabled or not leaving.is_admin:
        return
    others = sa.select(_TABLE.c.id).where(_TABLE.c.is_admin, ~_TABLE.c.is_disabled, _TABLE.c.id != leaving.id).limit(1)
    if change.connection.execute(others).one_or_none() is None:
        raise Conflict(
            f"The user {leaving.name!r} is the last enabled administrator. Make another one first.", param="user"
        )


def _columns(user: User) -> dict[str, str | int | None]:
    """What of a user can be changed, and is kept in its row."""
    return {
        "name": user.name,
        "is_admin": user.is_admin,
        "is_disabled": user.is_disabled,
        "email": user.email,
        "tenant": user.tenant,
        "is_agent": user.is_agent,
    }


def _check(user: User) -> None:
    check_name(user.name, "user name")
    if _ID.fullmatch(user.name):
        raise InvalidInput(f"The user name {user.name!r} has the form of an id. Choose another name.", param="name")
    if user.tenant is not None:
        check_name(user.tenant, "tenant", param="tenant")
    if user.email:
        check_name(user.email, "e-mail address", param="email", max_characters=_MAX_EMAIL_CHARACTERS)
        if not _EMAIL.fullmatch(user.email):
            raise InvalidInput(f"The e-mail address {user.email!r} is not of the form name@host.", param="email")


def _taken(name: str) -> Conflict:
    return Conflict(f"There is already a user named {name!r}. Choose another name.", param="name")


OPERATIONS = (
    list_users,
    create_user,
    show_user,
    change_user,
    delete_user,
    set_password,
    give_role,
    take_role,
)
