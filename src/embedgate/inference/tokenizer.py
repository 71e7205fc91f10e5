"""Tokenizer of a local model, from its tokenizer.json: encodes, counts, and truncates.

Truncation and padding that the file enables are disabled: the length limit is the model card's, and the
caller decides about over-long texts; none is cut silently.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from embedgate.core.errors import ConfigError, InvalidInput
from embedgate.core.models import Side
from embedgate.inference.cutting import TokenizedText, is_mark
from embedgate.inference.extras import import_extra

if TYPE_CHECKING:
    import tokenizers

TokenRow = npt.NDArray[np.int32]
"""The ids of one text as the model reads them, special tokens included, shape (tokens,)."""


class Tokenizer:
    """Tokenizer of one file. Thread-safe."""

    is_exact = True

    def __init__(self, file: Path, *, adds_special_tokens: bool = True, lowercases: bool = False) -> None:
        """adds_special_tokens: as the file's template says. lowercases: texts are lower-cased before.

        Raises ConfigError if the file is no tokenizer, DependencyMissing without tokenizers.
        """
        library = import_extra("tokenizers", "local")
        try:
            tokenizer: tokenizers.Tokenizer = library.Tokenizer.from_file(str(file))
        except BaseException as error:  # the library raises no narrower class, and its panics are no Exception
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            raise ConfigError([f"tokenizer file {file} cannot be read: {error}"]) from error
        padding = tokenizer.padding
        self._pad_id: int | None = padding["pad_id"] if padding else None
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._adds_special_tokens = adds_special_tokens
        self._lowercases = lowercases
        self._n_before, self._n_after = self._special_tokens()

    @property
    def vocabulary_size(self) -> int:
        """One more than the largest id."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def n_special_tokens(self) -> int:
        """Tokens that are put around every text."""
        return self._n_before + self._n_after

    def padding_id(self, token: str | None, otherwise: int | None) -> int:
        """The id that pads shorter texts: that of `token`, else the one in this file, else `otherwise`, else 0."""
        found = None if token is None else self._tokenizer.token_to_id(token)
        for each in (found, self._pad_id, otherwise):
            if each is not None:
                return each
        return 0

    def count_prompt(self, prompt: str) -> int:
        """Tokens that a prompt takes at the start of a text, with the special ones before it."""
        return len(self.encode([prompt])[0]) - min(self._n_after, 1)

    def encode(self, texts: Sequence[str]) -> list[TokenRow]:
        """The ids of each text, in order. Runs on all cores, outside the interpreter lock.

        Raises InvalidInput with the position of a text that is not valid Unicode.
        """
        if self._lowercases:
            texts = [text.lower() for text in texts]
        try:
            encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=self._adds_special_tokens)
        except TypeError as error:
            # Only a str with a lone surrogate cannot be encoded as UTF-8.
            broken = next((row for row, text in enumerate(texts) if _has_lone_surrogate(text)), None)
            raise InvalidInput("is not valid Unicode: it has half of a surrogate pair.", index=broken) from error
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    def count(self, text: str) -> int:
        """Tokens of one text as the model sees it, special tokens included."""
        return len(self.encode([text])[0])

    def count_many(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text as the model sees it, special tokens included. Raises as `encode`."""
        return [len(row) for row in self.encode(texts)]

    def tokenized(self, text: str) -> TokenizedText:
        """A text and the borders of its tokens, without special ones. Raises InvalidInput if it is no valid Unicode."""
        read = text.lower() if self._lowercases else text
        if len(read) != len(text):
            text = read  # borders are those of the text that is read
        try:
            encoding = self._tokenizer.encode(read, add_special_tokens=False)
        except TypeError as error:
            raise InvalidInput("is not valid Unicode: it has half of a surrogate pair.") from error
        return _Spans(text, encoding.offsets)

    @property
    def adds_up(self) -> bool:
        """Whether the tokens of a text are exactly those of its words, which white space separates: WordPiece."""
        return type(self._tokenizer.model).__name__ == "WordPiece"

    def cut(self, row: TokenRow, max_tokens: int, side: Side) -> TokenRow:
        """Truncate a row to `max_tokens` at one side of the text; its special tokens stay.

        max_tokens: more than `n_special_tokens`.
        """
        if len(row) <= max_tokens:
            return row
        before, text, after = np.split(row, [self._n_before, len(row) - self._n_after])
        room = max_tokens - self.n_special_tokens
        return np.concatenate([before, text[:room] if side == "end" else text[len(text) - room :], after])

    def _special_tokens(self) -> tuple[int, int]:
        """Number of special tokens before and after a text, measured on a text of one letter."""
        if not self._adds_special_tokens:
            return 0, 0
        mask = self._tokenizer.encode("a").special_tokens_mask
        is_text = [place for place, is_special in enumerate(mask) if not is_special]
        return (is_text[0], len(mask) - 1 - is_text[-1]) if is_text else (len(mask), 0)


class _Spans:
    """A text with the place of each token in it."""

    def __init__(self, text: str, spans: Sequence[tuple[int, int]]) -> None:
        self.n_tokens = len(spans)
        self._text = text
        self._spans = spans

    def kept(self, n_tokens: int, side: Side) -> str | None:
        """The text of so many tokens when the others are cut off at `side`. Tokens of one character have its place."""
        if side == "start":
            return self._text[self._spans[len(self._spans) - n_tokens][0] :]
        end = self._spans[n_tokens - 1][1]
        while end < len(self._text) and is_mark(self._text[end]):  # accents that the tokenizer strips are in no token
            end += 1
        return self._text[:end]


def _has_lone_surrogate(text: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in text)
