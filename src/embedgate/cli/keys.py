"""`embedgate keys`: credentials of callers.

A key is shown when it is made, and never again; it is taken from standard input, never from an argument.
"""

from typing import Annotated

import typer

from embedgate.cli import asking, moments
from embedgate.cli.commands import Commands, Form, Session
from embedgate.cli.output import Facts, Table, time_of
from embedgate.govern import keys, users
from embedgate.govern.keys import Key, KeyWithSecret

commands = Commands("Make, rotate, stop and delete keys.")
app = commands.app

KeyRef = Annotated[str, typer.Argument(metavar="KEY", help="Name or id of the key, or the key itself.")]
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


def _state(key: Key) -> str:
    """In words, with what it comes from."""
    if key.state == "revoked":
        return f"revoked {time_of(key.revoked_at)}"
    if key.state == "disabled":
        whose = "user " if key.user_is_disabled else "project " if key.project_is_disabled else ""
        return f"{whose}disabled"
    if key.expires_at is None:
        return key.state
    return f"{'expired' if key.state == 'expired' else 'active until'} {time_of(key.expires_at)}"


def _named(key: Key) -> str:
    return f"{key.id}, the key of {key.user_name} for {key.name},"


@commands.written("create")
def create_key(
    session: Session,
    user: Owner,
    name: Name,
    project: Project = None,
    expires_at_ms: Expires = None,
    models: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="ID", help="A model that it may use, if not all; repeatable."),
    ] = None,
    is_quiet: Quiet = False,
) -> None:
    """Make a key and print it. It is shown this once: only its digest is kept."""
    expires_at = None if expires_at_ms is None else moments.utc_datetime(expires_at_ms)
    made = session.call(
        keys.create_key, keys.KeyToMake(user, name, project, expires_at, tuple(models) if models else None)
    )
    _show_secret(session, made, f"a key of {made.key.user_name} for {name}", is_quiet=is_quiet)


commands.add_list(
    "list",
    keys.list_keys,
    lambda found: Table(
        ("id", "user", "name", "project", "key", "created", "last used", "state"),
        [
            (
                key.id,
                key.user_name,
                key.name,
                key.project_name or "",
                f"...{key.hint}",
                time_of(key.created_at),
                time_of(key.last_used_at, _NEVER),
                f"old secret, {_state(key)}" if key.replaced_by else _state(key),
            )
            for key in found
        ],
        least=("key", "created", "project", "user"),
    ),
    doc="List keys, revoked ones included, oldest first.",
)
commands.add(
    "show",
    keys.show_key,
    lambda key: Facts(
        [
            ("id", key.id),
            ("key", f"...{key.hint}"),
            ("name", key.name),
            ("user", f"{key.user_name} ({key.user_id})"),
            ("project", f"{key.project_name} ({key.project_id})" if key.project_id else ""),
            ("models", ", ".join(key.models or ()) if key.models is not None else ""),
            ("old secret of", key.replaced_by or ""),
            ("created", time_of(key.created_at)),
            ("last used", time_of(key.last_used_at, _NEVER)),
            ("expires", time_of(key.expires_at, _NEVER)),
            ("state", _state(key)),
        ]
    ),
    doc="Show all that is known of a key; the key itself is not.",
)


@commands.written("rotate")
def rotate_key(
    session: Session,
    key: KeyRef,
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
) -> None:
    """Exchange a key for a new one and print it. Its id, limits, budgets and all it has spent stay."""
    rotated = session.call(keys.rotate_key, keys.Rotation(key, overlap_s or 0))
    _show_secret(session, rotated, f"the key of {rotated.key.user_name}, has a new secret", is_quiet=is_quiet)


commands.add_delete(
    "revoke",
    keys.revoke_key,
    keys.show_key,
    lambda key: f"Stop {key.id}, the key of {key.user_name} for {key.name}, for good?",
    lambda key: f"{_named(key)} is revoked",
    "Revoke a key. A running gateway refuses it within a second.",
)


@commands.written("rename")
def rename_key(
    session: Session,
    key: KeyRef,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its new name.")],
) -> None:
    """Give a key another name. Nothing else of it changes."""
    renamed = session.call(keys.change_key, keys.KeyChange(key, name))
    session.show(renamed, lambda: f"{renamed.id}, the key of {renamed.user_name}, is now {renamed.name}")


for verb, is_disabled, help_text in (
    ("enable", False, "Let a disabled key be used again."),
    ("disable", True, "Refuse a key, until it is enabled again."),
):
    commands.add(
        verb,
        keys.change_key,
        lambda key: f"{_named(key)} is {'disabled' if key.is_disabled else 'enabled'}",
        Form(hidden=("name", "expires_at"), fixed={"is_disabled": is_disabled}),
        help_text,
    )


@commands.written("expire")
def expire_key(
    session: Session,
    key: KeyRef,
    when: Annotated[str, typer.Argument(metavar="WHEN", help="90d from now, a date or time, now, or never.")],
) -> None:
    """Say when a key ends."""
    expires_at = None if when == _NEVER else moments.utc_datetime(moments.future_ms(when))
    told = "never expires" if expires_at is None else f"expires at {time_of(expires_at)}"
    changed = session.call(keys.change_key, keys.KeyChange(key, expires_at=expires_at))
    session.show(changed, lambda: f"{_named(changed)} {told}")


@commands.written("import")
def import_key(
    session: Session,
    user: Owner,
    name: Name,
    project: Project = None,
    expires_at_ms: Expires = None,
    hint: Annotated[str, typer.Option(metavar="TEXT", help="Last 4 characters of the key; only for a digest.")] = "",
) -> None:
    """Import a key that exists, so that its owner can keep it.

    Standard input is the whole key, or its SHA-256 as 64 hexadecimal digits.
    """
    session.call(users.show_user, users.WhichUser(user))  # before anybody types a key
    expires_at = None if expires_at_ms is None else moments.utc_datetime(expires_at_ms)
    given = keys.KeyToImport(user, name, asking.read_secret("Key"), hint, project, expires_at)
    taken = session.call(keys.import_key, given)
    session.show(taken, lambda: f"{taken.id}, a key of {taken.user_name} for {taken.name}, is taken over")


commands.add_delete(
    "delete",
    keys.delete_key,
    keys.show_key,
    lambda key: f"Delete {key.id}, the key of {key.user_name} for {key.name}?",
    lambda key: f"{_named(key)} is deleted",
    "Delete a key with its limits and budgets. The ledger keeps what it spent.",
)


def _show_secret(session: Session, made: KeyWithSecret, told: str, *, is_quiet: bool) -> None:
    secret = made.secret if is_quiet else f"{made.key.id}, {told}. It is shown this once:\n{made.secret}"
    session.show(made, lambda: secret)
