"""Lexer of policy texts: tokens with their offsets.

Cedar reports mistakes without their place. To find it, the text is split into the same tokens
that Cedar sees.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_LEXEME = re.compile(
    r"""
    (?P<blank>(?:[^\S\x1c-\x1f]+|//[^\n\r]*)+)  # what Python calls blank and Unicode does not, Cedar does not either
  | "(?:\\.|[^"\\])*"
  | [A-Za-z_][A-Za-z0-9_]*
  | [0-9]+
  | \?[a-z]+
  | ::|==|!=|<=|>=|&&|\|\|
  | [@(){}\[\],;:.<>!+*=%/-]
    """,
    re.VERBOSE | re.DOTALL,
)


class Lexeme(NamedTuple):
    """One token: a name, a number, a quoted text with its quotes, or a sign."""

    text: str
    start: int

    @property
    def end(self) -> int:
        """Offset of its end."""
        return self.start + len(self.text)


def read_lexemes(text: str) -> tuple[list[Lexeme], int | None]:
    """The tokens of a text, without blanks and comments, and the offset of the first character that begins no token."""
    lexemes: list[Lexeme] = []
    offset = 0
    while offset < len(text):
        match = _LEXEME.match(text, offset)
        if match is None:
            return lexemes, offset
        if match["blank"] is None:
            lexemes.append(Lexeme(match[0], offset))
        offset = match.end()
    return lexemes, None


def line_and_column(text: str, offset: int) -> tuple[int, int]:
    """Line and column of an offset. Both count from 1; a column is a character."""
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


def closing(lexemes: Sequence[Lexeme], opening: int) -> int:
    """Index of the bracket that closes the one at index `opening`; the end of the sequence if none does."""
    depth = 0
    for index in range(opening, len(lexemes)):
        depth += (lexemes[index].text in {"(", "[", "{"}) - (lexemes[index].text in {")", "]", "}"})
        if depth == 0:
            return index
    return len(lexemes)


def annotations(lexemes: Sequence[Lexeme]) -> Iterator[tuple[Lexeme, Lexeme | None, int]]:
    """The leading annotations of a policy: the name, the quoted value if it has one, and the index after it."""
    index = 0
    while index + 1 < len(lexemes) and lexemes[index].text == "@":
        name, value, behind = lexemes[index + 1], None, index + 2
        if behind + 2 < len(lexemes) and lexemes[behind].text == "(":
            value, behind = lexemes[behind + 1], behind + 3
        yield name, value, behind
        index = behind
