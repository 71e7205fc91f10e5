"""Records: texts with an id, metadata, and the place that they came from. All commands of the toolkit share them.

They are made by the hundred thousand, and frozen dataclasses take four times as long to make. `msgspec.structs.replace`
makes a copy with another field.
"""

from collections.abc import Mapping

import msgspec

Scalar = str | int | float | bool | None
"""A value of metadata, as JSON has them; whatever is nested is kept as JSON text."""


class Origin(msgspec.Struct, frozen=True):
    """Where a text came from: `line 3 of notes.txt`. number: counted from 1; None for a whole file."""

    file: str
    number: int | None = None
    unit: str = "line"

    def __str__(self) -> str:
        """As people count, for messages."""
        return self.file if self.number is None else f"{self.unit} {self.number} of {self.file}"


class Record(msgspec.Struct, frozen=True):
    """One text. position: its place among all texts that were read, left-out ones included, counted from 0."""

    id: str
    text: str
    origin: Origin
    position: int
    metadata: Mapping[str, Scalar] = msgspec.field(default_factory=dict)
