"""Routes for users: made, changed, deleted, given passwords and roles."""

from typing import Annotated

from msgspec import Meta, Struct

from embedgate.core.access import UserRecord
from embedgate.core.errors import Overloaded, UnknownEntity
from embedgate.server.admin.route import Asked, Route
from embedgate.server.admin.wire import Listed, ListQuery, Moment, listed, moment, sorts


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

    name: str
    is_admin: bool = False
    is_agent: bool = False
    email: str = ""
    tenant: str | None = None
    roles: tuple[str, ...] = ()


class UserChange(Struct, forbid_unknown_fields=True):
    """What is to be different; what is absent or null stays. An empty `email` or `tenant` takes it away."""

    name: str | None = None
    is_admin: bool | None = None
    is_disabled: bool | None = None
    is_agent: bool | None = None
    email: str | None = None
    tenant: str | None = None
    roles: Annotated[tuple[str, ...] | None, Meta(description="All roles that there will be.")] = None


class NewPassword(Struct, forbid_unknown_fields=True):
    """A password."""

    password: Annotated[str, Meta(description="12 to 1,024 characters.")]


class UserQuery(ListQuery):
    """Which users."""

    sort: Annotated[str, sorts("created_at", "name", "email", "tenant", "is_admin", "is_disabled")] = ""


def user_of(record: UserRecord) -> User:
    """A user as it is answered."""
    return User(
        id=record.id,
        name=record.name,
        is_admin=record.is_admin,
        is_disabled=record.is_disabled,
        is_agent=record.is_agent,
        email=record.email,
        tenant=record.tenant,
        roles=record.roles,
        has_password=record.has_password,
        created_at=moment(record.created_at_ms),
    )


def _list_users(asked: Asked) -> Listed:
    return listed(asked.administration.users.list(asked.query.page), asked.query, user_of)


def _show_user(asked: Asked) -> User:
    return user_of(asked.administration.users.get(asked.path["user"]))


def _create_user(asked: Asked) -> User:
    new: NewUser = asked.body
    return user_of(
        asked.administration.users.create(
            new.name,
            is_admin=new.is_admin,
            email=new.email,
            tenant=new.tenant,
            is_agent=new.is_agent,
            roles=new.roles,
        )
    )


def _change_user(asked: Asked) -> User:
    change: UserChange = asked.body
    return user_of(
        asked.administration.users.update(
            asked.path["user"],
            name=change.name,
            is_admin=change.is_admin,
            is_disabled=change.is_disabled,
            email=change.email,
            tenant=change.tenant,
            is_agent=change.is_agent,
            roles=change.roles,
        )
    )


def _delete_user(asked: Asked) -> None:
    asked.administration.users.delete(asked.path["user"])


def _set_password(asked: Asked) -> User:
    return user_of(asked.administration.users.set_password(asked.path["user"], asked.body.password))


def _give_role(asked: Asked) -> User:
    return user_of(asked.administration.users.give_role(asked.path["user"], asked.path["role"]))


def _take_role(asked: Asked) -> User:
    return user_of(asked.administration.users.take_role(asked.path["user"], asked.path["role"]))


_USER = "/api/users/{user}"

ROUTES = (
    Route("GET", "/api/users", "listUsers", "List the users", _list_users, User, query=UserQuery, is_list=True),
    Route(
        "POST",
        "/api/users",
        "createUser",
        "Add a user",
        _create_user,
        User,
        body=NewUser,
        example={"name": "alice", "email": "alice@example.org", "roles": ["analyst"]},
        status=201,
        is_change=True,
        raises=(UnknownEntity,),
    ),
    Route("GET", _USER, "showUser", "Show a user", _show_user, User),
    Route(
        "PATCH",
        _USER,
        "changeUser",
        "Change a user",
        _change_user,
        User,
        "A user that is disabled is logged out, and its keys are refused until it is enabled again.",
        body=UserChange,
        example={"is_disabled": True},
        is_change=True,
    ),
    Route(
        "DELETE",
        _USER,
        "deleteUser",
        "Delete a user",
        _delete_user,
        None,
        "Its keys, limits and budgets go with it; the ledger keeps what it spent. The last administrator stays.",
        is_change=True,
    ),
    Route(
        "PUT",
        f"{_USER}/password",
        "setPassword",
        "Set a user's password",
        _set_password,
        User,
        "The user is logged out everywhere.",
        body=NewPassword,
        example={"password": "a long and unlikely phrase"},
        is_change=True,
        raises=(Overloaded,),
    ),
    Route("PUT", f"{_USER}/roles/{{role}}", "giveRole", "Give a user a role", _give_role, User, is_change=True),
    Route("DELETE", f"{_USER}/roles/{{role}}", "takeRole", "Take a role from a user", _take_role, User, is_change=True),
)
