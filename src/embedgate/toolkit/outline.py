"""Outline of a text: where it may be cut, how well, and its headings. Markdown, code, prose; pure functions.

Cuts stand at the start of a line that is not blank: white space between two pieces ends the first one.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

Kind = Literal["markdown", "code", "prose"]

HEADING, STUCK = 51, 20
"""The least strength of a cut before a heading, and that between a heading and what it heads."""
_BLOCK, _ITEM, _LINE = 40, 36, 30

_LINES = re.compile(r"[^\n]*\n|[^\n]+")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ATX = re.compile(r" {0,3}(#{1,6})(?=[ \t\r\n]|$)")
_SETEXT = re.compile(r" {0,3}(=+|-+)[ \t\r\n]*$")
_LIST_ITEM = re.compile(r"[ \t]*(?:[-*+]|\d{1,9}[.)])[ \t]")
_TABLE_ROW = re.compile(r"[ \t]*\|")
_CLOSES = re.compile(r"[ \t]*(?:[)\]}>;,]+|end|else\b.*|elif\b.*|except\b.*|finally\b.*|fi|done|esac)[ \t\r\n]*$")
# Looking back keeps a long row of dots from being tried from each of them.
_SENTENCE_END = re.compile(
    r"(?:(?<![.!?…])[.!?…]+[\"'”’)\]*_]*[ \t\r\n]+(?=[^a-z\s])|(?<![。！？])[。！？]+(?![。！？])[”’」』）]*\s*(?=\S))"
)
_INDENT_WIDTH, _MAX_INDENT = 4, 9


class Cut(NamedTuple):
    """A place to cut at, in characters; the greater the strength, the better the place."""

    offset: int
    strength: int


class Heading(NamedTuple):
    """A heading: where its line begins, its level from 1, and its words."""

    offset: int
    level: int
    title: str


@dataclass(frozen=True, slots=True)
class Outline:
    """The cuts and headings of a text, in order."""

    cuts: list[Cut]
    headings: list[Heading]

    def path(self, offset: int) -> tuple[str, ...]:
        """The headings that a place stands under, outermost first."""
        path: list[Heading] = []
        for heading in self.headings:
            if heading.offset > offset:
                break
            while path and path[-1].level >= heading.level:
                path.pop()
            path.append(heading)
        return tuple(heading.title for heading in path)


def outline(text: str, kind: Kind) -> Outline:
    """The outline of a text."""
    if kind == "markdown":
        return _Markdown(text).outline()
    return Outline(list(_code(text) if kind == "code" else _prose(text)), [])


def sentences(text: str, start: int, end: int) -> list[int]:
    """The places inside a stretch where a sentence begins."""
    return [found.end() for found in _SENTENCE_END.finditer(text, start, end) if start < found.end() < end]


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines with their offsets."""
    for found in _LINES.finditer(text):
        yield found.start(), found.group()


def _prose(text: str) -> Iterator[Cut]:
    was_blank = True
    for offset, line in _lines(text):
        is_blank = not line.strip()
        if not is_blank and was_blank:
            yield Cut(offset, _BLOCK)
        was_blank = is_blank


def _code(text: str) -> Iterator[Cut]:
    """Lines of code: the less a line is indented the better, best after a blank one; never before what only closes."""
    was_blank = True
    for offset, line in _lines(text):
        is_blank = not line.strip()
        if not is_blank:
            width = len(line) - len(line.lstrip())
            indent = min(len(line[:width].expandtabs(_INDENT_WIDTH)) // _INDENT_WIDTH, _MAX_INDENT)
            is_closing = _CLOSES.match(line) is not None
            strength = _BLOCK + _MAX_INDENT if was_blank else _LINE
            yield Cut(offset, STUCK if is_closing else strength - indent)
        was_blank = is_blank


def _title(words: str) -> str:
    """The words of a heading without the marks that may close it."""
    words = words.strip()
    bare = words.rstrip("#")
    return bare.rstrip() if not bare or bare[-1] in " \t" else words


class _Markdown:
    """One pass over the lines of a Markdown text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._cuts: list[Cut] = []
        self._headings: list[Heading] = []
        self._fence: str | None = None
        self._was_blank = True
        self._after_heading = False
        self._block_lines: list[tuple[int, str]] = []

    def outline(self) -> Outline:
        lines = _lines(self._text)
        if self._text.startswith("---\n"):  # front matter is one block
            for offset, line in lines:
                if offset and line.rstrip() in ("---", "..."):
                    break
            self._was_blank = True
        for offset, line in lines:
            self._read(offset, line)
        return Outline(self._cuts, self._headings)

    def _read(self, offset: int, line: str) -> None:
        if self._fence is not None:
            self._read_fenced(offset, line)
        elif not line.strip():
            self._was_blank = True
            self._block_lines.clear()
        elif fence := _FENCE.match(line):
            self._cut(offset, _BLOCK)
            self._fence = fence[1]
            self._was_blank = False
        elif heading := _ATX.match(line):
            self._head(offset, len(heading[1]), _title(line[heading.end() :]))
        elif self._is_underline(line):
            start, title = self._block_lines[0]
            while self._cuts and self._cuts[-1].offset >= start:
                self._cuts.pop()
            self._head(start, 1 if "=" in line else 2, title.strip())
        else:
            self._read_text(offset, line)

    def _read_fenced(self, offset: int, line: str) -> None:
        fence = self._fence or ""
        if line.strip().startswith(fence) and not line.strip().strip(fence[0]):
            self._fence = None
            self._was_blank = True
            self._after_heading = False
            self._block_lines.clear()
        elif line.strip():
            self._cuts.append(Cut(offset, _LINE))

    def _is_underline(self, line: str) -> bool:
        return len(self._block_lines) == 1 and _SETEXT.match(line) is not None

    def _head(self, offset: int, level: int, title: str) -> None:
        # A heading under a heading goes with it: alone, the upper one would be a piece without content.
        self._cut(offset, HEADING + 6 - level)
        self._headings.append(Heading(offset, level, title))
        self._after_heading = True
        self._was_blank = True
        self._block_lines.clear()

    def _read_text(self, offset: int, line: str) -> None:
        is_item = _LIST_ITEM.match(line) is not None
        if self._was_blank:
            is_inside = is_item or line[0] in " \t"  # of a list, which holds together if it can
            self._cut(offset, _ITEM if is_inside else _BLOCK)
        elif is_item or _TABLE_ROW.match(line):
            self._cuts.append(Cut(offset, _LINE))
        self._was_blank = False
        self._after_heading = False
        self._block_lines.append((offset, line))

    def _cut(self, offset: int, strength: int) -> None:
        self._cuts.append(Cut(offset, STUCK if self._after_heading else strength))
        self._after_heading = False
