"""Records: texts with an id, metadata, and the place that they came from. All commands of the toolkit share them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Scalar = str | int | float | bool | None
"""A value of metadata, as JSON has them; whatever is nested is kept as JSON text."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a text came from: `line 3 of notes.txt`. number: counted from 1; None for a whole file."""

    file: str
    number: int | None = None
    unit: str = "line"

    def __str__(self) -> str:
        """As people count, for messages."""
        return self.file if self.number is None else f"{self.unit} {self.number} of {self.file}"


@dataclass(frozen=True, slots=True)
class Record:
    """One text. position: its place among all texts that were read, left-out ones included, counted from 0."""

    id: str
    text: str
    origin: Origin
    position: int
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
