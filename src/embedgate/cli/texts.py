"""The texts of a command: from its arguments, or one per line from a file or standard input."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from embedgate.core.errors import InvalidInput

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts in order. `positions` says where each stood among all arguments or lines, counted from 0.

    `kind` and `origin` are for messages: `line` of `notes.txt`, or `text` of the command line.
    """

    values: tuple[str, ...]
    positions: tuple[int, ...]
    kind: str
    origin: str

    def place(self, index: int) -> str:
        """Where a text came from, as people count: `line 3 of notes.txt`."""
        return f"{self.kind} {self.positions[index] + 1} of {self.origin}"


def from_arguments(values: Sequence[str], *, skip_empty: bool) -> Texts:
    """The texts on the command line. Raises InvalidInput if one is empty, or none is left."""
    return _kept(values, "text", "the command line", skip_empty=skip_empty)


def from_lines(stream: BinaryIO, origin: str, *, skip_empty: bool) -> Texts:
    r"""One text per line of UTF-8; `\r\n` ends a line as `\n` does. origin: the name of the stream, for messages.

    Raises InvalidInput if a line is empty or blank, bytes are not UTF-8, or no text is left.
    """
    raw = stream.read().removeprefix(_BYTE_ORDER_MARK)
    try:
        lines = raw.decode().split("\n")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InvalidInput(f"line {line} of {origin} is not UTF-8. Convert the file first.") from error
    if not lines[-1]:
        lines.pop()  # what follows the last line end is no line
    return _kept([line.removesuffix("\r") for line in lines], "line", origin, skip_empty=skip_empty)


def _kept(values: Sequence[str], kind: str, origin: str, *, skip_empty: bool) -> Texts:
    kept = [(position, value) for position, value in enumerate(values) if value.strip()]
    if len(kept) < len(values) and not skip_empty:
        empty = next(position for position, value in enumerate(values) if not value.strip())
        raise InvalidInput(f"{kind} {empty + 1} of {origin} is empty. Leave empty ones out with --skip-empty.")
    if not kept:
        raise InvalidInput(f"There are no texts in {origin}.")
    return Texts(tuple(value for _, value in kept), tuple(position for position, _ in kept), kind, origin)
