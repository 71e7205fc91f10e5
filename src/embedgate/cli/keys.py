"""`embedgate keys`: credentials of callers. Works on the database, with or without a running gateway.

A key is shown when it is made, and never again; it is taken from standard input, never from an argument.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from embedgate.cli import asking, moments, options
from embedgate.cli.output import print_facts, print_json, print_table, utc
from embedgate.core.clock import utc_ms

if TYPE_CHECKING:
    from embedgate.administration import NewKey
    from embedgate.administration.keys import Keys
    from embedgate.core.access import KeyRecord

app = typer.Typer(no_args_is_help=True, help="Make, rotate, stop and delete keys.")

Key = Annotated[str, typer.Argument(metavar="ID", help="Id of the key (key_...), or the key itself.")]
Owner = Annotated[str, typer.Option("--user", metavar="NAME", help="Name or id of the user.")]
Name = Annotated[str, typer.Option("--name", metavar="NAME", help="What the key is for, to tell it from others.")]
Project = Annotated[
    str | None, typer.Option("--project", metavar="NAME", help="Bill it under this project, by name or id.")
]
Expires = Annotated[
    int | None,
    typer.Option("--expires", metavar="WHEN", parser=moments.future_ms, help="End: 90d from now, or a date or time."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the key and nothing else.")]

_NEVER = "never"


@app.command("create")
def create_key(
    context: typer.Context,
    user: Owner,
    name: Name,
    project: Project = None,
    expires_at_ms: Expires = None,
    is_quiet: Quiet = False,
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Make a key and print it. It is shown this once: only its digest is kept."""
    with options.administration(context, config_file) as opened:
        new = opened.keys.create(user, name, project=project, expires_at_ms=expires_at_ms)
    _print_secret(new, f"a key of {new.record.user_name} for {name}", is_quiet=is_quiet, as_json=as_json)


@app.command("list")
def list_keys(
    context: typer.Context,
    user: Annotated[
        str | None, typer.Option("--user", metavar="NAME", help="Only keys of this user, by name or id.")
    ] = None,
    project: Annotated[
        str | None, typer.Option("--project", metavar="NAME", help="Only keys of this project, by name or id.")
    ] = None,
    state: Annotated[
        Literal["active", "disabled", "expired", "revoked"] | None, typer.Option(help="Only keys in this state.")
    ] = None,
    search: options.Search = "",
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """List keys, revoked ones included, oldest first."""
    with options.administration(context, config_file) as opened:
        keys = options.every(lambda query: opened.keys.list(query, user=user, project=project, state=state), search)
    if as_json:
        print_json([_as_json(key) for key in keys])
        return
    rows = [
        (
            key.id,
            key.user_name,
            key.name,
            key.project_name or "",
            f"...{key.hint}",
            utc(key.created_at_ms),
            _utc_or(key.last_used_at_ms, "never"),
            f"old secret, {_state(key)}" if key.replaced_by else _state(key),
        )
        for key in keys
    ]
    print_table(("id", "user", "name", "project", "key", "created", "last used", "state"), rows)


@app.command("show")
def show_key(
    context: typer.Context, key: Key, as_json: options.AsJson = False, config_file: options.ConfigFile = None
) -> None:
    """Show all that is known of a key; the key itself is not."""
    with options.administration(context, config_file) as opened:
        found = opened.keys.get(key)
    if as_json:
        print_json(_as_json(found))
        return
    print_facts(
        [
            ("id", found.id),
            ("key", f"...{found.hint}"),
            ("name", found.name),
            ("user", f"{found.user_name} ({found.user_id})"),
            ("project", f"{found.project_name} ({found.project_id})" if found.project_id else ""),
            ("old secret of", found.replaced_by or ""),
            ("created", utc(found.created_at_ms)),
            ("last used", _utc_or(found.last_used_at_ms, "never")),
            ("expires", _utc_or(found.expires_at_ms, "never")),
            ("state", _state(found)),
        ]
    )


@app.command("rotate")
def rotate_key(
    context: typer.Context,
    key: Key,
    overlap_s: Annotated[
        int | None,
        typer.Option(
            "--overlap",
            metavar="DURATION",
            parser=moments.duration_s,
            help="How long the old key still works, such as 24h; at most 30d. If absent, it stops at once.",
        ),
    ] = None,
    is_quiet: Quiet = False,
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Exchange a key for a new one and print it. Its id, limits, budgets and all it has spent stay."""
    with options.administration(context, config_file) as opened:
        new = opened.keys.rotate(key, overlap_s=overlap_s or 0)
    _print_secret(new, f"the key of {new.record.user_name}, has a new secret", is_quiet=is_quiet, as_json=as_json)


@app.command("revoke")
def revoke_key(
    context: typer.Context, key_id: Key, as_json: options.AsJson = False, config_file: options.ConfigFile = None
) -> None:
    """Stop a key for good, without asking. A gateway that is running refuses it within a second."""
    _change(context, config_file, lambda keys: keys.revoke(key_id), "is revoked", as_json=as_json)


@app.command("enable")
def enable_key(
    context: typer.Context, key: Key, as_json: options.AsJson = False, config_file: options.ConfigFile = None
) -> None:
    """Let a disabled key be used again."""
    _change(context, config_file, lambda keys: keys.enable(key), "is enabled", as_json=as_json)


@app.command("disable")
def disable_key(
    context: typer.Context, key: Key, as_json: options.AsJson = False, config_file: options.ConfigFile = None
) -> None:
    """Refuse a key, until it is enabled again."""
    _change(context, config_file, lambda keys: keys.disable(key), "is disabled", as_json=as_json)


@app.command("expire")
def expire_key(
    context: typer.Context,
    key: Key,
    when: Annotated[str, typer.Argument(metavar="WHEN", help="90d from now, a date or time, now, or never.")],
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Say when a key ends."""
    at_ms = None if when == _NEVER else moments.future_ms(when)
    told = "never expires" if at_ms is None else f"expires at {utc(at_ms)}"
    _change(context, config_file, lambda keys: keys.expire(key, at_ms), told, as_json=as_json)


@app.command("import")
def import_key(
    context: typer.Context,
    user: Owner,
    name: Name,
    project: Project = None,
    expires_at_ms: Expires = None,
    hint: Annotated[str, typer.Option(metavar="TEXT", help="Last 4 characters of the key; only for a digest.")] = "",
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Take over a key that exists already, so that its owner need not change it.

    Standard input is the whole key, or its SHA-256 as 64 hexadecimal digits.
    """
    with options.administration(context, config_file) as opened:
        opened.users.get(user)  # before anybody types a key
        taken = opened.keys.take_over(
            user, name, asking.read_secret("Key"), hint=hint, project=project, expires_at_ms=expires_at_ms
        )
    if as_json:
        print_json(_as_json(taken))
    else:
        typer.echo(f"{taken.id}, a key of {taken.user_name} for {taken.name}, is taken over")


@app.command("delete")
def delete_key(
    context: typer.Context,
    key: Key,
    is_agreed: asking.Yes = False,
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Delete a key with its limits and budgets. The ledger keeps what it spent."""
    with options.administration(context, config_file) as opened:
        found = opened.keys.get(key)
        asking.confirm(f"Delete {found.id}, the key of {found.user_name} for {found.name}?", is_agreed=is_agreed)
        opened.keys.delete(found.id)
    _tell(found, "is deleted", as_json=as_json)


def _change(
    context: typer.Context,
    config_file: Path | None,
    change: "Callable[[Keys], KeyRecord]",
    told: str,
    *,
    as_json: bool,
) -> None:
    with options.administration(context, config_file) as opened:
        changed = change(opened.keys)
    _tell(changed, told, as_json=as_json)


def _tell(key: "KeyRecord", told: str, *, as_json: bool) -> None:
    if as_json:
        print_json(_as_json(key))
    else:
        typer.echo(f"{key.id}, the key of {key.user_name} for {key.name}, {told}")


def _print_secret(new: "NewKey", told: str, *, is_quiet: bool, as_json: bool) -> None:
    key = new.record
    if as_json:
        print_json(
            {
                "id": key.id,
                "user": key.user_name,
                "name": key.name,
                "project": key.project_name,
                "expires_at_ms": key.expires_at_ms,
                "key": new.secret,
            }
        )
    elif is_quiet:
        typer.echo(new.secret)
    else:
        typer.echo(f"{key.id}, {told}. It is shown this once:\n{new.secret}")


def _as_json(key: "KeyRecord") -> dict[str, Any]:
    from embedgate.administration import state_of  # brings the database

    return {**dataclasses.asdict(key), "state": state_of(key, utc_ms())}


def _state(key: "KeyRecord") -> str:
    """In words, with what it comes from."""
    from embedgate.administration import state_of  # brings the database

    state = state_of(key, utc_ms())
    if state == "revoked":
        return f"revoked {_utc_or(key.revoked_at_ms, '')}"
    if state == "disabled":
        return "user disabled" if key.user_is_disabled else "project disabled" if key.project_is_disabled else state
    if key.expires_at_ms is None:
        return state
    return f"{'expired' if state == 'expired' else 'active until'} {utc(key.expires_at_ms)}"


def _utc_or(at_ms: int | None, otherwise: str) -> str:
    return otherwise if at_ms is None else utc(at_ms)
