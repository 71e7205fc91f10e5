"""`embedgate roles`: the words that policies give rights to. Who has a role is said by `embedgate users`."""

from typing import Annotated

import typer

from embedgate.cli import asking, options
from embedgate.cli.output import count, print_json, print_table

app = typer.Typer(no_args_is_help=True, help="Make and delete roles.")

Role = Annotated[str, typer.Argument(metavar="ROLE", help="Name of the role.")]


@app.command("create")
def create_role(
    context: typer.Context,
    role: Role,
    description: Annotated[str, typer.Option(metavar="TEXT", help="What the role is for.")] = "",
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Make a role, which nobody has yet."""
    with options.administration(context, config_file) as opened:
        created = opened.roles.create(role, description)
    if as_json:
        print_json(created)
    else:
        typer.echo(f"the role {created.name} is there")


@app.command("list")
def list_roles(
    context: typer.Context,
    search: options.Search = "",
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """List roles by name, and how many users have each."""
    with options.administration(context, config_file) as opened:
        roles = options.every(opened.roles.list, search)
    if as_json:
        print_json(roles)
        return
    rows = [(role.name, count(role.users), role.description) for role in roles]
    print_table(("role", "users", "description"), rows, right=("users",))


@app.command("delete")
def delete_role(
    context: typer.Context,
    role: Role,
    is_agreed: asking.Yes = False,
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Delete a role, and take it from everybody who has it."""
    asking.confirm(f"Delete the role {role}, and take it from everybody?", is_agreed=is_agreed)
    with options.administration(context, config_file) as opened:
        deleted = opened.roles.delete(role)
    if as_json:
        print_json(deleted)
    else:
        typer.echo(f"the role {deleted.name} is deleted; {deleted.users} had it")
