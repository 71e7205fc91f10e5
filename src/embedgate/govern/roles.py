"""Roles: names that users have and policies give rights to. Policies alone decide what a role may do."""

from collections.abc import Collection
from typing import Annotated

import sqlalchemy as sa
from msgspec import Meta, Struct
from sqlalchemy.exc import IntegrityError

from embedgate.core.errors import Conflict, UnknownEntity
from embedgate.govern.change import Change, Reading
from embedgate.govern.fields import check_name, check_text, findable
from embedgate.govern.lists import Listed, Listing, ListQuery, read_page
from embedgate.govern.near_names import near_name
from embedgate.govern.operation import Facts, changes, reads
from embedgate.storage import schema

RoleName = Annotated[str, Meta(description="Name of the role.", examples=["analyst"])]

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


class Role(Struct, frozen=True):
    """A role."""

    name: str
    description: str
    users: Annotated[int, Meta(description="How many have it.")] = 0


class NewRole(Struct, forbid_unknown_fields=True):
    """A role to be made."""

    name: str
    description: Annotated[str, Meta(description="What the role is for.")] = ""


class RoleQuery(ListQuery):
    """Which roles."""

    sort: Annotated[str, _LISTING.sorts] = ""


class WhichRole(Struct, forbid_unknown_fields=True):
    """A role."""

    role: RoleName


@reads("roles.list", "GET", "/api/roles", Facts("listRoles"))
def list_roles(reading: Reading, query: RoleQuery) -> Listed[Role]:
    """List the roles."""
    return read_page(reading, _ROLES, _LISTING, query, lambda rows: [Role(**row._mapping) for row in rows])


@changes(
    "roles.create",
    "POST",
    "/api/roles",
    Facts(
        "createRole",
        status=201,
        example={"name": "analyst", "description": "May embed whatever the policies say."},
    ),
)
def create_role(change: Change, new: NewRole) -> Role:
    """Add a role."""
    check_name(new.name, "role name")
    check_text(new.description, "description", param="description")
    try:
        change.connection.execute(schema.roles.insert().values(name=new.name, description=new.description))
    except IntegrityError as error:
        raise Conflict(f"There is already a role {new.name!r}. Choose another name.", param="name") from error
    change.note("roles.create", new.name)
    return Role(new.name, new.description)


@changes("roles.delete", "DELETE", "/api/roles/{role}", Facts("deleteRole"))
def delete_role(change: Change, which: WhichRole) -> None:
    """Delete a role.

    Everybody who has it loses it.
    """
    row = change.connection.execute(_ROLES.where(schema.roles.c.name == findable(which.role))).one_or_none()
    if row is None:
        raise unknown_role(change, which.role)
    change.connection.execute(schema.roles.delete().where(schema.roles.c.name == which.role))
    change.touched.every_key |= row.users > 0
    change.note("roles.delete", which.role, users=row.users)


def set_roles(change: Change, user_id: str, names: Collection[str]) -> None:
    """Give a user these roles and no others. Raises UnknownEntity if one of them does not exist."""
    wanted = set(names)
    is_wanted = schema.roles.c.name.in_(map(findable, wanted))
    known = set(change.connection.execute(sa.select(schema.roles.c.name).where(is_wanted)).scalars())
    if wanted - known:
        raise unknown_role(change, min(wanted - known))
    change.connection.execute(schema.user_roles.delete().where(schema.user_roles.c.user_id == user_id))
    if wanted:
        rows = [{"user_id": user_id, "role": name} for name in sorted(wanted)]
        change.connection.execute(schema.user_roles.insert(), rows)


def unknown_role(reading: Reading, name: str) -> UnknownEntity:
    """The error for a role that there is not."""
    near = near_name(reading, schema.roles.c.name, name)
    return UnknownEntity(f"There is no role {name!r}. {near}List the roles, or create it first.", param="role")


OPERATIONS = (list_roles, create_role, delete_role)
