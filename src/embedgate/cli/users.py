"""`embedgate users`: who may use the gateway. Works on the database, with or without a running gateway."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from embedgate.cli import asking, options
from embedgate.cli.output import print_facts, print_json, print_table, utc, yes_no

if TYPE_CHECKING:
    from embedgate.core.access import UserRecord

app = typer.Typer(no_args_is_help=True, help="Make, change and delete users, their roles and passwords.")

User = Annotated[str, typer.Argument(metavar="USER", help="Name or id of the user.")]
Email = Annotated[str | None, typer.Option(metavar="ADDRESS", help="E-mail address; policies can read it.")]
Tenant = Annotated[str | None, typer.Option(metavar="NAME", help="Part of the company; policies can read it.")]


@app.command("create")
def create_user(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Up to 64 characters.")],
    is_admin: Annotated[bool, typer.Option("--admin", help="May manage the gateway.")] = False,
    is_agent: Annotated[bool, typer.Option("--agent", help="A program that acts by itself; policies can ask.")] = False,
    email: Email = None,
    tenant: Tenant = None,
    roles: Annotated[list[str] | None, typer.Option("--role", metavar="ROLE", help="Role to give; repeatable.")] = None,
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Make a user, who has no key and no password yet."""
    with options.administration(context, config_file) as opened:
        user = opened.users.create(
            name, is_admin=is_admin, email=email or "", tenant=tenant, is_agent=is_agent, roles=roles or ()
        )
    if as_json:
        print_json(user)
    else:
        typer.echo(f"{user.id}  {user.name}")


@app.command("list")
def list_users(
    context: typer.Context,
    search: options.Search = "",
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """List users, oldest first."""
    with options.administration(context, config_file) as opened:
        users = options.every(opened.users.list, search)
    if as_json:
        print_json(users)
        return
    rows = [
        (
            user.id,
            user.name,
            _kind(user),
            user.tenant or "",
            ", ".join(user.roles),
            utc(user.created_at_ms),
            _state(user),
        )
        for user in users
    ]
    print_table(("id", "name", "kind", "tenant", "roles", "created", "state"), rows)


@app.command("show")
def show_user(
    context: typer.Context, user: User, as_json: options.AsJson = False, config_file: options.ConfigFile = None
) -> None:
    """Show all that is known of a user."""
    with options.administration(context, config_file) as opened:
        found = opened.users.get(user)
    if as_json:
        print_json(found)
        return
    print_facts(
        [
            ("id", found.id),
            ("name", found.name),
            ("kind", _kind(found)),
            ("agent", yes_no(found.is_agent)),
            ("e-mail", found.email),
            ("tenant", found.tenant or ""),
            ("roles", ", ".join(found.roles)),
            ("can log in", yes_no(found.has_password and not found.is_disabled)),
            ("created", utc(found.created_at_ms)),
            ("state", _state(found)),
        ]
    )


class _Changes(TypedDict, total=False):
    """What of a user a command changes."""

    name: str | None
    is_admin: bool | None
    is_disabled: bool | None
    email: str | None
    tenant: str | None
    is_agent: bool | None


@app.command("update")
def update_user(
    context: typer.Context,
    user: User,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="New name.")] = None,
    email: Annotated[str | None, typer.Option(metavar="ADDRESS", help="New address; '' takes it away.")] = None,
    tenant: Annotated[str | None, typer.Option(metavar="NAME", help="New tenant; '' takes it away.")] = None,
    is_admin: Annotated[bool | None, typer.Option("--admin/--no-admin", help="May manage the gateway.")] = None,
    is_agent: Annotated[bool | None, typer.Option("--agent/--no-agent", help="A program that acts by itself.")] = None,
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Change what is given. Keys and rules stay, since they go by the id."""
    changes = _Changes(name=name, email=email, tenant=tenant, is_admin=is_admin, is_agent=is_agent)
    options.require_some(changes)
    _update(context, user, changes, "is changed", as_json=as_json, config_file=config_file)


@app.command("enable")
def enable_user(
    context: typer.Context, user: User, as_json: options.AsJson = False, config_file: options.ConfigFile = None
) -> None:
    """Let a disabled user and its keys in again."""
    _update(context, user, _Changes(is_disabled=False), "is enabled", as_json=as_json, config_file=config_file)


@app.command("disable")
def disable_user(
    context: typer.Context, user: User, as_json: options.AsJson = False, config_file: options.ConfigFile = None
) -> None:
    """Log a user out and refuse its keys, until it is enabled again."""
    _update(context, user, _Changes(is_disabled=True), "is disabled", as_json=as_json, config_file=config_file)


@app.command("delete")
def delete_user(
    context: typer.Context,
    user: User,
    is_agreed: asking.Yes = False,
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Delete a user with its keys, limits and budgets. The ledger keeps what it spent."""
    with options.administration(context, config_file) as opened:
        found = opened.users.get(user)
        asking.confirm(f"Delete the user {found.name} and all its keys?", is_agreed=is_agreed)
        opened.users.delete(found.id)
    _tell(found, "is deleted", as_json=as_json)


@app.command("set-password")
def set_password(
    context: typer.Context,
    user: User,
    is_piped: Annotated[bool, typer.Option("--stdin", help="Read it from standard input, one line.")] = False,
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Give a user a password to log in with, at least 12 characters, and log it out everywhere.

    It is asked for without being shown.
    """
    with options.administration(context, config_file) as opened:
        found = opened.users.get(user)
        password = asking.read_piped_secret("Password") if is_piped else asking.read_new_password()
        changed = opened.users.set_password(found.id, password)
    _tell(changed, "has a new password", as_json=as_json)


@app.command("give-role")
def give_role(
    context: typer.Context,
    user: User,
    role: Annotated[str, typer.Argument(metavar="ROLE", help="Name of a role.")],
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Give a user a role, which policies can ask for."""
    with options.administration(context, config_file) as opened:
        changed = opened.users.give_role(user, role)
    _tell(changed, f"has the roles {', '.join(changed.roles)}", as_json=as_json)


@app.command("take-role")
def take_role(
    context: typer.Context,
    user: User,
    role: Annotated[str, typer.Argument(metavar="ROLE", help="Name of a role.")],
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Take a role away from a user."""
    with options.administration(context, config_file) as opened:
        changed = opened.users.take_role(user, role)
    roles = ", ".join(changed.roles)
    _tell(changed, f"has the roles {roles}" if roles else "has no role", as_json=as_json)


def _update(
    context: typer.Context, user: str, changes: _Changes, told: str, *, as_json: bool, config_file: Path | None
) -> None:
    with options.administration(context, config_file) as opened:
        changed = opened.users.update(user, **changes)
    _tell(changed, told, as_json=as_json)


def _tell(user: "UserRecord", told: str, *, as_json: bool) -> None:
    if as_json:
        print_json(user)
    else:
        typer.echo(f"{user.name} {told}")


def _kind(user: "UserRecord") -> str:
    return "administrator" if user.is_admin else "agent" if user.is_agent else "user"


def _state(user: "UserRecord") -> str:
    return "disabled" if user.is_disabled else "active"
