"""What the fields of stored records may hold: names, texts, numbers; and new ids. Knows no table."""

import secrets
from typing import Literal

from embedgate.core.errors import InvalidInput

MAX_NAME_CHARACTERS = 64
MAX_TEXT_CHARACTERS = 1_000
MAX_INTEGER = 9_200_000_000_000_000_000
"""The greatest whole number that a column takes, rounded down to a memorable one."""
MAX_TIME_MS = 253_402_300_799_999
"""The end of the year 9999, the last that dates are made of."""


def new_id(kind: Literal["user", "project", "key"]) -> str:
    """A fresh id: `<kind>_` and 16 random hex digits."""
    return f"{kind}_{secrets.token_hex(8)}"


def findable(text: str) -> str:
    """`text` to look for in a table; what no table can hold becomes the empty text, which no id and no name is."""
    return text if text.isprintable() else ""


def check_name(name: str, what: str, *, param: str = "name", max_characters: int = MAX_NAME_CHARACTERS) -> None:
    """Raises InvalidInput unless the name has 1 to `max_characters` printable characters and no space at its ends."""
    if not 1 <= len(name) <= max_characters or not name.isprintable() or name != name.strip():
        raise InvalidInput(
            f"The {what} {name[:max_characters]!r} has {len(name)} characters; it must be 1 to "
            f"{max_characters} printable ones, with no space at either end.",
            param=param,
        )


def check_text(text: str, what: str, *, param: str, max_characters: int = MAX_TEXT_CHARACTERS) -> None:
    """Raises InvalidInput unless the text is short enough and every database can hold it. It may be empty."""
    if len(text) > max_characters:
        raise InvalidInput(
            f"The {what} has {len(text)} characters; at most {max_characters} are allowed. Shorten it.", param=param
        )
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise InvalidInput(f"The {what} is not plain text: it holds a zero byte or half of a character.", param=param)


def check_number(number: int, what: str, *, param: str, minimum: int, maximum: int = MAX_INTEGER) -> None:
    """Raises InvalidInput unless minimum <= number <= maximum."""
    if not minimum <= number <= maximum:
        raise InvalidInput(f"The {what} is {number}; it must be {minimum} to {maximum}.", param=param)
