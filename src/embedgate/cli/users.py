"""`embedgate users`: who owns keys, logs in, and has roles."""

from typing import Annotated

import typer

from embedgate.cli import asking
from embedgate.cli.commands import Commands, Form, Session
from embedgate.cli.output import Facts, Table, time_of, yes_no
from embedgate.govern import users
from embedgate.govern.users import User

commands = Commands("Make, change and delete users.")
app = commands.app


def _kind(user: User) -> str:
    return "administrator" if user.is_admin else "agent" if user.is_agent else "user"


def _state(user: User) -> str:
    return "disabled" if user.is_disabled else "active"


def _roles(user: User) -> str:
    roles = ", ".join(user.roles)
    return f"{user.name} has the roles {roles}" if roles else f"{user.name} has no role"


commands.add(
    "create",
    users.create_user,
    lambda user: f"{user.id}  {user.name}",
    Form(arguments=("name",), options={"roles": "--role"}),
    "Make a user, who has no key and no password yet.",
)
commands.add_list(
    "list",
    users.list_users,
    lambda found: Table(
        ("id", "name", "kind", "tenant", "roles", "created", "state"),
        [
            (
                user.id,
                user.name,
                _kind(user),
                user.tenant or "",
                ", ".join(user.roles),
                time_of(user.created_at),
                _state(user),
            )
            for user in found
        ],
        least=("created", "roles", "tenant"),
    ),
)
commands.add(
    "show",
    users.show_user,
    lambda user: Facts(
        [
            ("id", user.id),
            ("name", user.name),
            ("kind", _kind(user)),
            ("agent", yes_no(user.is_agent)),
            ("e-mail", user.email),
            ("tenant", user.tenant or ""),
            ("roles", ", ".join(user.roles)),
            ("can log in", yes_no(user.has_password and not user.is_disabled)),
            ("created", time_of(user.created_at)),
            ("state", _state(user)),
        ]
    ),
)
commands.add(
    "update",
    users.change_user,
    lambda user: f"{user.name} is changed",
    Form(hidden=("is_disabled", "roles"), is_partial=True),
    "Change what is given. Keys and rules stay, since they go by the id.",
)
for verb, is_disabled, help_text in (
    ("enable", False, "Let a disabled user and its keys in again."),
    ("disable", True, "Log a user out, and refuse its keys until it is enabled."),
):
    commands.add(
        verb,
        users.change_user,
        lambda user: f"{user.name} is {'disabled' if user.is_disabled else 'enabled'}",
        Form(hidden=("name", "is_admin", "is_agent", "email", "tenant", "roles"), fixed={"is_disabled": is_disabled}),
        help_text,
    )
commands.add_delete(
    "delete",
    users.delete_user,
    users.show_user,
    lambda user: f"Delete the user {user.name} and all its keys?",
    lambda user: f"{user.name} is deleted",
    "Delete a user with its keys, limits and budgets. The ledger keeps what it spent.",
)
commands.add("give-role", users.give_role, _roles)
commands.add("take-role", users.take_role, _roles)


@commands.written("set-password")
def set_password(
    session: Session,
    user: Annotated[str, typer.Argument(metavar="USER", help="Name or id of the user.")],
    is_piped: Annotated[bool, typer.Option("--stdin", help="Read it from standard input, one line.")] = False,
) -> None:
    """Set a user's password, and log the user out everywhere. It has at least 12 characters.

    It is asked for without being shown.
    """
    found = session.call(users.show_user, users.WhichUser(user))
    password = asking.read_piped_secret("Password") if is_piped else asking.read_new_password()
    changed = session.call(users.set_password, users.NewPassword(found.id, password))
    session.show(changed, lambda: f"{changed.name} has a new password")
