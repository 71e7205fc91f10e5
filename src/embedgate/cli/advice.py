"""Rewords the advice in error messages for the command line: they are written for callers of the API.

The engine and a gateway elsewhere say what a caller of the API can do; who runs a command has options instead.
"""

import re

from embedgate.core.errors import GatewayError

_SAID: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(api), command)
    for api, command in (
        (r'or send "truncate": "end"', "or cut it with --truncate end"),
        (r'Send "truncate": "end"', "Give --truncate end"),
        (r', or send "allow_space_change": true', ""),
        (r" If that is meant, send allow_space_change with true\.", ""),
        (r"Leave (dimensions|truncate) out", r"Leave --\1 out"),
        (r"(?<![\w-])dimensions is (?=-?\d)", "--dimensions is "),
        (r"See GET /v1/models for models that do\.", "`embedgate models list` shows models that do."),
        (r"GET /v1/models", "`embedgate models list`"),
        (r"List the models to see their ids\.", "`embedgate models list --all` shows those that are known."),
        (r"List the (\w+)(?: to see their [\w ]+)?\.", r"`embedgate \1 list` shows them."),
        (r"List the roles, or create it first\.", "`embedgate roles list` shows them."),
        (r"Send it as `Authorization: Bearer <key>`", "Give it with --api-key, or in EMBEDGATE_API_KEY"),
    )
)
"""What is said to callers of the API, and what is said here."""


def for_commands(message: str) -> str:
    """A message, its advice reworded for the command line; other messages unchanged."""
    for api, command in _SAID:
        message = api.sub(command, message)
    return message


def sentence(error: GatewayError | OSError) -> str:
    """What a command says of an error: the message of ours in its words, the file and the fault of the system's."""
    if isinstance(error, GatewayError):
        return for_commands(str(error))
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror or error}"
