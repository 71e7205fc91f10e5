"""Routes for roles: the words that policies give rights to."""

from typing import Annotated

from msgspec import Meta, Struct

from embedgate.core.access import RoleRecord
from embedgate.server.admin.route import Asked, Route
from embedgate.server.admin.wire import Listed, ListQuery, listed, sorts


class Role(Struct, frozen=True):
    """A role."""

    name: str
    description: str
    users: Annotated[int, Meta(description="How many have it.")]


class NewRole(Struct, forbid_unknown_fields=True):
    """A role to be made."""

    name: str
    description: str = ""


class RoleQuery(ListQuery):
    """Which roles."""

    sort: Annotated[str, sorts("name", "users")] = ""


def _role(record: RoleRecord) -> Role:
    return Role(record.name, record.description, record.users)


def _list_roles(asked: Asked) -> Listed:
    return listed(asked.administration.roles.list(asked.query.page), asked.query, _role)


def _create_role(asked: Asked) -> Role:
    return _role(asked.administration.roles.create(asked.body.name, asked.body.description))


def _delete_role(asked: Asked) -> None:
    asked.administration.roles.delete(asked.path["role"])


ROUTES = (
    Route("GET", "/api/roles", "listRoles", "List the roles", _list_roles, Role, query=RoleQuery, is_list=True),
    Route(
        "POST",
        "/api/roles",
        "createRole",
        "Add a role",
        _create_role,
        Role,
        body=NewRole,
        example={"name": "analyst", "description": "May embed whatever the policies say."},
        status=201,
    ),
    Route(
        "DELETE",
        "/api/roles/{role}",
        "deleteRole",
        "Delete a role",
        _delete_role,
        None,
        "Everybody who has it loses it.",
        is_change=True,
    ),
)
