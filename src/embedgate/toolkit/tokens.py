"""Token counts of any stretch of a text: each different word is tokenized once, and sums give the rest.

Measured on Markdown with the tokenizer of all-MiniLM-L6-v2, this is ten times as fast as tokenizing each candidate.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from operator import add
from typing import Protocol, runtime_checkable

from embedgate.core.ports import TokenCounter

_MAX_WORDS = 200_000
"""Words whose counts are remembered: some 20 MB."""
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Scripts that write no spaces: each of their letters is taken for a word."""
_LINE_ENDS = r"(?:[ \t\r\n]*\n)?"
_WORD = re.compile(rf"([ \t\r]*)([{_UNSPACED}]|[^ \t\r\n{_UNSPACED}]+)({_LINE_ENDS}[ \t\r]*$|{_LINE_ENDS})")
"""Indentation or spaces, a word, and the line ends after it: a line begins with its indentation."""


@runtime_checkable
class CountsMany(Protocol):
    """A token counter that is faster for many texts at once, and knows whether the words of a text add up."""

    def count_many(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, special tokens included."""
        ...

    @property
    def adds_up(self) -> bool:
        """Whether the tokens of a text are exactly those of its words."""
        ...


class Tokens:
    """Token counts by one counter, remembered by word. Not thread-safe."""

    def __init__(self, counter: TokenCounter) -> None:
        """counter: of the model that will embed the texts."""
        self._counter = counter
        self._counts: dict[str, int] = {}
        self.n_special = counter.count("a") - 1 if counter.is_exact else counter.count("")
        """Tokens that are put around every text."""
        self.adds_up = isinstance(counter, CountsMany) and counter.adds_up
        """Whether sums are exact. If not, they are close, and what must hold exactly is counted."""

    def count(self, text: str) -> int:
        """Tokens of one text as the model sees it, special tokens included."""
        return self._counter.count(text)

    def of_words(self, words: Sequence[str]) -> Iterator[int]:
        """Tokens of each word, without special tokens."""
        counts = self._counts
        new = [word for word in set(words) if word not in counts]
        if len(counts) + len(new) > _MAX_WORDS:
            counts.clear()
            new = list(set(words))
        counter = self._counter
        found = counter.count_many(new) if isinstance(counter, CountsMany) else [counter.count(word) for word in new]
        counts.update(zip(new, (n - self.n_special for n in found), strict=True))
        return map(counts.__getitem__, words)


class MeasuredText:
    """A text with the place of every word and the tokens before it: counts of any stretch, without tokenizing it."""

    def __init__(self, text: str, tokens: Tokens) -> None:
        """Raises InvalidInput if the text is not valid Unicode."""
        self.text = text
        self.n_special = tokens.n_special
        self._tokens = tokens
        self._exact: dict[tuple[int, int], int] = {}
        found: list[tuple[str, str, str]] = _WORD.findall(text)
        words = [word for _, word, _ in found]
        if tokens.adds_up:
            counts = tokens.of_words(words)
        else:
            # To tokenizers of bytes a word after a space is another one, and line ends are tokens, too.
            spaced = [" " + word if before else word for before, word, _ in found]
            counts = map(add, tokens.of_words(spaced), tokens.of_words([end for _, _, end in found]))
        sizes = [len(before) + len(word) + len(after) for before, word, after in found]
        self.starts = list(accumulate(sizes, initial=len(text) - sum(sizes)))
        """Where words begin, in characters, and the end of the text. The first has all that stands before it."""
        self.starts[0] = 0
        self._before = list(accumulate(counts, initial=0))

    def tokens(self, start: int, end: int) -> int:
        """Tokens between two places, without special tokens; close to exact. A word that a place cuts counts whole."""
        return self._before[bisect_left(self.starts, end)] - self._before[bisect_right(self.starts, start) - 1]

    def exact(self, start: int, end: int) -> int:
        """Tokens between two places as the model sees them, special tokens included."""
        if self._tokens.adds_up and self._is_start(start) and self._is_start(end):
            return self.tokens(start, end) + self.n_special
        found = self._exact.get((start, end))
        if found is None:
            found = self._exact[start, end] = self._tokens.count(self.text[start:end])
        return found

    def farthest(self, start: int, max_tokens: int) -> int:
        """The last start of a word up to which `max_tokens` go."""
        before = self._before[bisect_right(self.starts, start) - 1]
        return self.starts[bisect_right(self._before, before + max_tokens) - 1]

    def earliest(self, end: int, max_tokens: int) -> int:
        """The first start of a word from which `max_tokens` lead up to `end`."""
        last = bisect_left(self.starts, end)
        return self.starts[min(bisect_left(self._before, self._before[last] - max_tokens), last)]

    def words(self, start: int, end: int) -> list[int]:
        """The starts of words inside a stretch."""
        return self.starts[bisect_right(self.starts, start) : bisect_left(self.starts, end)]

    def _is_start(self, place: int) -> bool:
        return self.starts[bisect_left(self.starts, place)] == place
