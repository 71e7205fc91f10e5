"""`embedgate roles`: names that policies give rights to. `embedgate users` gives them to users."""

from typing import Annotated

import typer

from embedgate.cli import asking
from embedgate.cli.commands import Commands, Form, Session
from embedgate.cli.output import Table, count
from embedgate.core.errors import UnknownEntity
from embedgate.core.near_names import did_you_mean
from embedgate.govern import roles

commands = Commands("Make and delete roles.")
app = commands.app

commands.add(
    "create",
    roles.create_role,
    lambda role: f"the role {role.name} is there",
    Form(arguments=("name",)),
)
commands.add_list(
    "list",
    roles.list_roles,
    lambda found: Table(
        ("role", "users", "description"),
        [(role.name, count(role.users), role.description) for role in found],
        right=("users",),
    ),
)


@commands.written("delete")
def delete_role(
    session: Session,
    role: Annotated[str, typer.Argument(metavar="ROLE", help="Name of the role.")],
    is_agreed: asking.Yes = False,
) -> None:
    """Delete a role, and take it from everybody who has it."""
    listed = session.every(roles.list_roles, roles.RoleQuery(search=role))
    found = next((known for known in listed.items if known.name == role), None)
    if found is None:
        known = [each.name for each in session.every(roles.list_roles, roles.RoleQuery()).items]
        near = did_you_mean(role, known)
        raise UnknownEntity(f"There is no role {role!r}. {near}List the roles, or create it first.", param="role")
    asking.confirm(f"Delete the role {role}, and take it from everybody?", is_agreed=is_agreed)
    session.call(roles.delete_role, roles.WhichRole(role))
    session.show(found, lambda: f"the role {found.name} is deleted; {found.users} had it")
