"""`embedgate users` and `embedgate keys`: who may use the gateway. Works on the database, with or without a server."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedgate.cli import options
from embedgate.cli.output import print_json, print_table, utc

if TYPE_CHECKING:
    from embedgate.core.access import KeyRecord
    from embedgate.core.ports import KeyAdmin

keys_app = typer.Typer(no_args_is_help=True, help="Make, list and revoke keys.")
users_app = typer.Typer(no_args_is_help=True, help="Make and list users.")


@users_app.command("create")
def create_user(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Up to 64 characters.")],
    is_admin: Annotated[bool, typer.Option("--admin", help="May manage the gateway.")] = False,
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Make a user, who has no key yet."""
    with _open_keys(context, config_file) as admin:
        user = admin.create_user(name, is_admin=is_admin)
    if as_json:
        print_json(user)
    else:
        typer.echo(f"{user.id}  {user.name}")


@users_app.command("list")
def list_users(context: typer.Context, as_json: options.AsJson = False, config_file: options.ConfigFile = None) -> None:
    """List all users, oldest first."""
    with _open_keys(context, config_file) as admin:
        users = admin.list_users()
    if as_json:
        print_json(users)
        return
    rows = [
        (
            user.id,
            user.name,
            "administrator" if user.is_admin else "user",
            utc(user.created_at_ms),
            "disabled" if user.is_disabled else "active",
        )
        for user in users
    ]
    print_table(("id", "name", "role", "created", "state"), rows)


@keys_app.command("create")
def create_key(
    context: typer.Context,
    user: Annotated[str, typer.Option("--user", metavar="NAME", help="Name or id of the user.")],
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="What the key is for, to tell it from others.")],
    is_quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the key and nothing else.")] = False,
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Make a key and print it. It is shown this once: only its digest is kept."""
    with _open_keys(context, config_file) as admin:
        key, secret = admin.create_key(user, name)
    if as_json:
        print_json({"id": key.id, "user": key.user_name, "name": key.name, "key": secret})
    elif is_quiet:
        typer.echo(secret)
    else:
        typer.echo(f"{key.id}, a key of {key.user_name} for {key.name}. It is shown this once:\n{secret}")


@keys_app.command("list")
def list_keys(
    context: typer.Context,
    user: Annotated[
        str | None, typer.Option("--user", metavar="NAME", help="Only keys of this user, by name or id.")
    ] = None,
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """List keys, revoked ones included, oldest first."""
    with _open_keys(context, config_file) as admin:
        keys = admin.list_keys(user)
    if as_json:
        print_json(keys)
        return
    rows = [(key.id, key.user_name, key.name, f"...{key.hint}", utc(key.created_at_ms), _state(key)) for key in keys]
    print_table(("id", "user", "name", "key", "created", "state"), rows)


@keys_app.command("revoke")
def revoke_key(
    context: typer.Context,
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the key (key_...), or the key itself.")],
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Stop a key for good. A gateway that is running refuses it within a second."""
    with _open_keys(context, config_file) as admin:
        key = admin.revoke_key(key_id)
    if as_json:
        print_json(key)
    else:
        typer.echo(f"{key.id}, the key of {key.user_name} for {key.name}, is revoked")


@contextmanager
def _open_keys(context: typer.Context, config_file: Path | None) -> "Iterator[KeyAdmin]":
    from embedgate.wiring import open_keys  # brings the database and all that the gateway is made of

    with open_keys(options.load_settings(context, config_file)) as admin:
        yield admin


def _state(key: "KeyRecord") -> str:
    if key.revoked_at_ms is not None:
        return f"revoked {utc(key.revoked_at_ms)}"
    return "user disabled" if key.user_is_disabled else "active"
