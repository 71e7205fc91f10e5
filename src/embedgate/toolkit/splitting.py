"""Splitting texts into pieces of a size in the model's own tokens, at the best places that allow it.

Sections are kept whole where they fit; else they are cut into blocks, items, lines, sentences, words. Neighbours that
fit together stay together. Pieces lie side by side: without their overlaps they are the text.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from embedgate.core.errors import InvalidInput
from embedgate.core.ports import Embedder, TokenCounter
from embedgate.toolkit.division import Division, Range
from embedgate.toolkit.meaning import drifts
from embedgate.toolkit.outline import Kind, Outline, outline, sentences
from embedgate.toolkit.reading import CODE_ENDINGS, MARKDOWN_ENDINGS
from embedgate.toolkit.records import Record
from embedgate.toolkit.tokens import MeasuredText, Tokens

DEFAULT_SIZE = 256
"""Tokens of a piece: a few paragraphs. Smaller ones are found more exactly, larger ones say more."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a text: `text[start:end]`, of which the first `overlap` characters are the end of the piece before.

    headings: of the section that it begins in, outermost first. n_tokens: as the model sees it, special ones included.
    """

    text: str
    start: int
    end: int
    overlap: int
    headings: tuple[str, ...]
    n_tokens: int


class Splitter:
    """Splits texts for one model. Not thread-safe."""

    def __init__(
        self,
        counter: TokenCounter,
        max_tokens: int,
        *,
        size: int | None = None,
        overlap: int = 0,
        embedder: Embedder | None = None,
    ) -> None:
        """counter, max_tokens: of the model. size: most tokens of a piece, special tokens included.

        overlap: tokens that a piece repeats of the one before, at most half the size. embedder: cut by meaning, where
        neighbouring sentences drift apart, instead of by paragraph. Raises InvalidInput for sizes that do not go
        together.
        """
        self.tokens = Tokens(counter)
        self.size = min(DEFAULT_SIZE, max_tokens) if size is None else size
        self._overlap = overlap
        self._embedder = embedder
        least = self.tokens.n_special + 8
        if not least <= self.size <= max_tokens:
            raise InvalidInput(
                f"pieces of {self.size} tokens are not possible; the model takes {least} to {max_tokens}."
            )
        if not 0 <= overlap <= (self.size - self.tokens.n_special) // 2:
            raise InvalidInput(f"an overlap of {overlap} tokens is more than half of a piece of {self.size}.")

    def split(self, text: str, kind: Kind = "prose") -> list[Piece]:
        """The pieces of a text, in order; none for a blank one. Raises InvalidInput if it is not valid Unicode."""
        if not text.strip():
            return []
        measured = MeasuredText(text, self.tokens)
        found = outline(text, kind)
        room = self.size - self.tokens.n_special - self._overlap
        if self._embedder is None:
            ranges = Division(measured, found.cuts, room).ranges()
        else:
            drifting = drifts(found, measured, self._embedder, self.size - self.tokens.n_special)
            ranges = Division(measured, drifting.cuts, room, drifting.always).ranges()
        return list(self._pieces(measured, found, ranges))

    def split_records(self, records: Iterable[Record]) -> Iterator[tuple[Record, list[Piece]]]:
        """Each record with its pieces; its file's ending says of what kind it is."""
        for record in records:
            yield record, self.split(record.text, kind_of(record.origin.file))

    def _pieces(self, measured: MeasuredText, found: Outline, ranges: Sequence[Range]) -> Iterator[Piece]:
        previous = 0
        for start, end in ranges:
            begin = self._begin(measured, previous, start, end)
            text = measured.text[begin:end]
            yield Piece(text, begin, end, start - begin, found.path(start), measured.exact(begin, end))
            previous = start

    def _begin(self, measured: MeasuredText, previous: int, start: int, end: int) -> int:
        """Where a piece begins with its overlap: at a sentence if one begins there, else at a word."""
        room = self._overlap
        while room > 0 and start > 0:
            earliest = min(start, max(previous, measured.earliest(start, room)))
            whole = sentences(measured.text, earliest, start)
            begin = whole[0] if whole else earliest
            if measured.exact(begin, end) <= self.size:
                return begin
            room //= 2
        return start


def kind_of(file: str) -> Kind:
    """How a file is cut, by its ending: as Markdown, as code, else as prose."""
    ending = PurePath(file).suffix.lower()
    if ending in MARKDOWN_ENDINGS:
        return "markdown"
    return "code" if ending in CODE_ENDINGS else "prose"


def as_records(record: Record, pieces: Sequence[Piece]) -> list[Record]:
    """The pieces as records of their own: ids `<id>#1`, and `start`, `end`, `headings` beside the record's metadata."""
    return [
        Record(
            f"{record.id}#{number}",
            piece.text,
            record.origin,
            record.position,
            {
                **record.metadata,
                "file": record.origin.file,
                "start": piece.start,
                "end": piece.end,
                "headings": " > ".join(piece.headings),
            },
        )
        for number, piece in enumerate(pieces, start=1)
    ]
