"""Users: who owns keys and who may log in. Their passwords and sessions are in modules of their own."""

import re
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from embedgate.core.access import UserRecord
from embedgate.core.clock import utc_ms
from embedgate.core.errors import Conflict, InvalidInput, UnknownEntity
from embedgate.core.pages import FIRST_PAGE, Page, PageQuery
from embedgate.storage import schema
from embedgate.storage.database import Database
from embedgate.storage.fields import check_name, findable, new_id
from embedgate.storage.limits import drop_rules_of
from embedgate.storage.paging import Listing, read_page
from embedgate.storage.roles import roles_of, set_roles

_ID = re.compile(r"user_[0-9a-f]{16}")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_MAX_EMAIL_CHARACTERS = 254
_TABLE = schema.users
_USERS = sa.select(
    _TABLE.c.id,
    _TABLE.c.name,
    _TABLE.c.is_admin,
    _TABLE.c.created_at_ms,
    _TABLE.c.is_disabled,
    _TABLE.c.email,
    _TABLE.c.tenant,
    _TABLE.c.is_agent,
    _TABLE.c.password_hash.is_not(None).label("has_password"),
)
_LISTING = Listing(
    fields={
        "created_at_ms": _TABLE.c.created_at_ms,
        "name": sa.func.lower(_TABLE.c.name),
        "email": sa.func.lower(_TABLE.c.email),
        "tenant": _TABLE.c.tenant,
        "is_admin": _TABLE.c.is_admin,
        "is_disabled": _TABLE.c.is_disabled,
    },
    unique=_TABLE.c.id,
    searched=(_TABLE.c.name, _TABLE.c.email, _TABLE.c.id),
)


class SqlUsers:
    """Users, blocking. Every method is one transaction, and raises InternalError if the database fails.

    Where a user is meant, the name or the id is given; every such method raises UnknownEntity if there is none.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        name: str,
        *,
        is_admin: bool = False,
        email: str = "",
        tenant: str | None = None,
        is_agent: bool = False,
        roles: Collection[str] = (),
    ) -> UserRecord:
        """A new user, without key or password.

        Raises InvalidInput for an unfit field, Conflict if the name is taken, UnknownEntity for an unknown role.
        """
        user = UserRecord(
            id=new_id("user"),
            name=name,
            is_admin=is_admin,
            created_at_ms=utc_ms(),
            email=email,
            tenant=tenant or None,
            is_agent=is_agent,
            roles=tuple(sorted(set(roles))),
        )
        _check(user)
        try:
            with self._database.write() as connection:
                connection.execute(
                    _TABLE.insert().values(_columns(user) | {"id": user.id, "created_at_ms": user.created_at_ms})
                )
                set_roles(connection, user.id, user.roles)
        except IntegrityError as error:
            raise _taken(name) from error
        return user

    def get(self, user: str) -> UserRecord:
        """The user as stored."""
        with self._database.read() as connection:
            return find_user(connection, user)

    def list(self, query: PageQuery = FIRST_PAGE) -> Page[UserRecord]:
        """A page of the users, oldest first.

        `sort` may be `name`, `email`, `tenant`, `is_admin`, `is_disabled` or `created_at_ms`.
        Raises InvalidInput as `read_page`.
        """
        with self._database.read() as connection:
            rows, total = read_page(connection, _USERS, _LISTING, query)
            return Page(tuple(_records(connection, rows)), total)

    def update(
        self,
        user: str,
        *,
        name: str | None = None,
        is_admin: bool | None = None,
        is_disabled: bool | None = None,
        email: str | None = None,
        tenant: str | None = None,
        is_agent: bool | None = None,
        roles: Collection[str] | None = None,
    ) -> UserRecord:
        """Change what is given; an empty `email` or `tenant` takes it away, `roles` are all that there will be.

        A user who is disabled is logged out, and its keys are refused until it is enabled again.
        Raises as `create`, and Conflict if no enabled administrator would be left.
        """
        given = {
            "name": name,
            "is_admin": is_admin,
            "is_disabled": is_disabled,
            "email": email,
            "tenant": tenant,
            "is_agent": is_agent,
            "roles": None if roles is None else tuple(sorted(set(roles))),
        }
        try:
            with self._database.write() as connection:
                before = find_user(connection, user)
                changes: dict[str, Any] = {field: value for field, value in given.items() if value is not None}
                after = replace(before, **changes)
                after = replace(after, tenant=after.tenant or None)
                self._save(connection, before, after)
        except IntegrityError as error:
            raise _taken(name or "") from error
        return after

    def give_role(self, user: str, role: str) -> UserRecord:
        """Add a role; one that the user has already changes nothing. Raises UnknownEntity for an unknown role."""
        with self._database.write() as connection:
            before = find_user(connection, user)
            after = replace(before, roles=tuple(sorted({*before.roles, role})))
            set_roles(connection, after.id, after.roles)
        return after

    def take_role(self, user: str, role: str) -> UserRecord:
        """Take a role away; one that the user has not changes nothing."""
        with self._database.write() as connection:
            before = find_user(connection, user)
            after = replace(before, roles=tuple(name for name in before.roles if name != role))
            set_roles(connection, after.id, after.roles)
        return after

    def delete(self, user: str) -> UserRecord:
        """Delete a user with its keys, sessions, limits and budgets, and return it as it was.

        The ledger keeps what it spent. Raises Conflict if it is the last enabled administrator.
        """
        keys = schema.keys
        with self._database.write() as connection:
            found = find_user(connection, user)
            _keep_an_administrator(connection, found)
            deleted = keys.delete().where(keys.c.user_id == found.id).returning(keys.c.id)
            drop_rules_of(connection, "key", *connection.execute(deleted).scalars())
            drop_rules_of(connection, "user", found.id)
            connection.execute(_TABLE.delete().where(_TABLE.c.id == found.id))  # its roles and sessions go with it
        return found

    def _save(self, connection: sa.Connection, before: UserRecord, after: UserRecord) -> None:
        _check(after)
        if after.is_disabled or not after.is_admin:
            _keep_an_administrator(connection, before)
        connection.execute(_TABLE.update().where(_TABLE.c.id == after.id).values(_columns(after)))
        if after.roles != before.roles:
            set_roles(connection, after.id, after.roles)
        if after.is_disabled:
            end_sessions(connection, after.id)


def find_user(connection: sa.Connection, name_or_id: str) -> UserRecord:
    """The user of a name or an id. Raises UnknownEntity."""
    given = findable(name_or_id)
    found = _records(connection, connection.execute(_USERS.where(sa.or_(_TABLE.c.id == given, _TABLE.c.name == given))))
    if not found:
        raise UnknownEntity(
            f"There is no user {name_or_id!r}. List the users to see their names and ids.", param="user"
        )
    return found[0]


def end_sessions(connection: sa.Connection, user_id: str) -> None:
    """Log a user out everywhere, as part of a transaction."""
    connection.execute(schema.sessions.delete().where(schema.sessions.c.user_id == user_id))


def _records(connection: sa.Connection, rows: Iterable[sa.Row[Any]]) -> list[UserRecord]:
    users = [UserRecord(**row._mapping) for row in rows]
    roles = roles_of(connection, [user.id for user in users])
    return [replace(user, roles=roles.get(user.id, ())) for user in users]


def _keep_an_administrator(connection: sa.Connection, leaving: UserRecord) -> None:
    if leaving.is_disabled or not leaving.is_admin:
        return
    others = sa.select(_TABLE.c.id).where(_TABLE.c.is_admin, ~_TABLE.c.is_disabled, _TABLE.c.id != leaving.id).limit(1)
    if connection.execute(others).one_or_none() is None:
        raise Conflict(
            f"The user {leaving.name!r} is the last enabled administrator. Make another one first.", param="user"
        )


def _columns(user: UserRecord) -> dict[str, str | int | None]:
    """What of a user can be changed, and is kept in its row."""
    return {
        "name": user.name,
        "is_admin": user.is_admin,
        "is_disabled": user.is_disabled,
        "email": user.email,
        "tenant": user.tenant,
        "is_agent": user.is_agent,
    }


def _check(user: UserRecord) -> None:
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
