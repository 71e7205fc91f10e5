"""Cutting of texts at the borders of tokens, so that what is left has at most so many of them.

The tokens of a part are not always the part of the tokens: white space is joined otherwise at an end, and a host puts
special tokens and a prefix around the text. So what is left is counted again, and cut further until it fits.
"""

import unicodedata
from typing import Protocol

from embedgate.core.models import Side

_MARKS = frozenset({"Mn", "Me", "Mc"})
_JOINER = "\u200d"
_MOST_STEPS = 64
"""Tokens that are given up so that a character stays whole with its marks. Longer rows of marks are no writing."""
_MOST_FLAG_LETTERS = 10_000
"""How far back flags are told apart."""


class TokenizedText(Protocol):
    """A text with the borders of its tokens."""

    n_tokens: int

    def kept(self, n_tokens: int, side: Side) -> str | None:
        """The text of so many tokens when the others are cut off at `side`; None if that cuts a character in two."""
        ...


class CuttingTokenizer(Protocol):
    """What a cutter needs of a tokenizer."""

    def count(self, text: str) -> int:
        """Tokens of a text as the model sees it, special tokens included."""
        ...

    def tokenized(self, text: str) -> TokenizedText:
        """A text and the borders of its tokens. Raises InvalidInput if it is not valid Unicode."""
        ...


class Cutter:
    """Implements the `TextCutter` port on one tokenizer. Thread-safe if that is."""

    def __init__(self, tokenizer: CuttingTokenizer) -> None:
        """tokenizer: of the model that reads the texts."""
        self._tokenizer = tokenizer

    def cut(self, text: str, max_tokens: int, side: Side, prefix: str = "") -> str:
        """The text, or what is left of it when as little as possible is cut off; empty if nothing fits.

        Raises InvalidInput if the text is not valid Unicode.
        """
        if self._tokenizer.count(prefix + text) <= max_tokens:
            return text
        tokenized = self._tokenizer.tokenized(text)
        n_tokens, step = min(tokenized.n_tokens, max_tokens), 1
        while n_tokens > 0:
            n_tokens, left = _whole(tokenized, text, n_tokens, side)
            excess = self._tokenizer.count(prefix + left) - max_tokens
            if excess <= 0:
                return left
            n_tokens -= max(excess, step)
            step *= 2  # a text that grows new tokens with each cut ends, too
        return ""


def _whole(tokenized: TokenizedText, text: str, n_tokens: int, side: Side) -> tuple[int, str]:
    """The longest part of at most so many tokens that ends with a whole character, and how many it has."""
    ends_in_a_character: tuple[int, str] | None = None
    for n in range(n_tokens, max(0, n_tokens - _MOST_STEPS), -1):
        left = tokenized.kept(n, side)
        if left is None:
            continue
        if not _is_split(text, len(left) if side == "end" else len(text) - len(left)):
            return n, left
        ends_in_a_character = ends_in_a_character or (n, left)
    return ends_in_a_character or (0, "")


def _is_split(text: str, at: int) -> bool:
    """Whether a cut there parts what is shown as one character: a letter and its accents, a joined emoji, a flag."""
    if not 0 < at < len(text):
        return False
    before, after = text[at - 1], text[at]
    if _JOINER in {before, after} or is_mark(after) or _is_modifier(after):
        return True
    if _is_flag_letter(before) and _is_flag_letter(after):
        start, least = at, max(0, at - _MOST_FLAG_LETTERS)
        while start > least and _is_flag_letter(text[start - 1]):
            start -= 1
        return (at - start) % 2 == 1
    return False


def is_mark(letter: str) -> bool:
    """Whether a character is shown together with the one before it, as an accent is."""
    return unicodedata.category(letter) in _MARKS


def _is_modifier(letter: str) -> bool:
    """A tone of skin, or a letter of the tag of a flag."""
    return "\U0001f3fb" <= letter <= "\U0001f3ff" or "\U000e0020" <= letter <= "\U000e007f"


def _is_flag_letter(letter: str) -> bool:
    return "\U0001f1e6" <= letter <= "\U0001f1ff"
