"""Roles: words that users have and policies give rights to. What a role may do is said by policies alone."""

from collections import defaultdict
from collections.abc import Collection, Iterable

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from embedgate.core.access import RoleRecord
from embedgate.core.errors import Conflict, UnknownEntity
from embedgate.core.pages import FIRST_PAGE, Page, PageQuery
from embedgate.storage import schema
from embedgate.storage.database import Database
from embedgate.storage.fields import check_name, check_text, findable
from embedgate.storage.paging import Listing, read_page

_USERS = (
    sa.select(sa.func.count())
    .where(schema.user_roles.c.role == schema.roles.c.name)
    .correlate(schema.roles)
    .scalar_subquery()
    .label("users")
)
_ROLES = sa.select(schema.roles.c.name, schema.roles.c.description, _USERS)
_LISTING = Listing(
    fields={"name": schema.roles.c.name, "users": _USERS},
    unique=schema.roles.c.name,
    searched=(schema.roles.c.name, schema.roles.c.description),
)


class SqlRoles:
    """Roles, blocking. Every method is one transaction, and raises InternalError if the database fails."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, name: str, description: str = "") -> RoleRecord:
        """A new role, which nobody has yet. Raises InvalidInput for an unfit name or text, Conflict if it is there."""
        check_name(name, "role name")
        check_text(description, "description", param="description")
        try:
            with self._database.write() as connection:
                connection.execute(schema.roles.insert().values(name=name, description=description))
        except IntegrityError as error:
            raise Conflict(f"There is already a role {name!r}. Choose another name.", param="name") from error
        return RoleRecord(name, description)

    def list(self, query: PageQuery = FIRST_PAGE) -> Page[RoleRecord]:
        """A page of the roles, by name; `sort` may be `name` or `users`. Raises InvalidInput as `read_page`."""
        with self._database.read() as connection:
            rows, total = read_page(connection, _ROLES, _LISTING, query)
            return Page(tuple(RoleRecord(**row._mapping) for row in rows), total)

    def delete(self, name: str) -> RoleRecord:
        """Take a role away, from everybody who has it. Returns it as it was. Raises UnknownEntity."""
        with self._database.write() as connection:
            row = connection.execute(_ROLES.where(schema.roles.c.name == findable(name))).one_or_none()
            if row is None:
                raise _unknown(name)
            connection.execute(schema.roles.delete().where(schema.roles.c.name == name))
            return RoleRecord(**row._mapping)


def roles_of(connection: sa.Connection, user_ids: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The roles of these users, sorted; a user without any is not in the answer. At most a page of users."""
    table = schema.user_roles
    query = sa.select(table.c.user_id, table.c.role).where(table.c.user_id.in_(set(user_ids))).order_by(table.c.role)
    found: dict[str, tuple[str, ...]] = defaultdict(tuple)
    for user_id, role in connection.execute(query):
        found[user_id] += (role,)
    return dict(found)


def set_roles(connection: sa.Connection, user_id: str, names: Collection[str]) -> None:
    """Give a user these roles and no others. Raises UnknownEntity if one of them does not exist."""
    wanted = set(names)
    known = set(
        connection.execute(
            sa.select(schema.roles.c.name).where(schema.roles.c.name.in_(map(findable, wanted)))
        ).scalars()
    )
    if wanted - known:
        raise _unknown(min(wanted - known))
    connection.execute(schema.user_roles.delete().where(schema.user_roles.c.user_id == user_id))
    if wanted:
        connection.execute(schema.user_roles.insert(), [{"user_id": user_id, "role": name} for name in sorted(wanted)])


def _unknown(name: str) -> UnknownEntity:
    return UnknownEntity(f"There is no role {name!r}. List the roles, or create it first.", param="role")
