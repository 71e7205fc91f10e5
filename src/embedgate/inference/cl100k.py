"""cl100k_base tokenizer: exact counts and decoding, offline.

Two engines with the same result: tiktoken with a rank file on the machine, or rs-bpe, which includes the
ranks. Special tokens are not recognised: `<|endoftext|>` in a text is ordinary text.
"""

import base64
import hashlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from embedgate.core.errors import ConfigError, DependencyMissing, InvalidInput
from embedgate.core.models import Side
from embedgate.inference.cutting import TokenizedText

RANK_FILE_SHA256 = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
VOCABULARY_SIZE = 100_256
"""Number of ids that stand for bytes; higher ones are special tokens, which no text contains."""

_SPLIT = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
    r"|\s+(?!\S)|\s"
)
_NOT_UNICODE = "is not valid Unicode: it has half of a surrogate pair."
_NOT_UTF8 = "is a list of token ids whose bytes are not UTF-8 text; send whole characters, or send text."


class Cl100k(Protocol):
    """cl100k_base tokenizer: counts, decodes, and finds the borders of tokens."""

    is_exact: bool

    def count(self, text: str) -> int:
        """Tokens of the text. Raises InvalidInput if it is not valid Unicode."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of the ids. Raises InvalidInput for an id outside the vocabulary or bytes that are not UTF-8."""
        ...

    def tokenized(self, text: str) -> TokenizedText:
        """A text and the borders of its tokens. Raises InvalidInput if it is not valid Unicode."""
        ...


def is_installed(rank_file: Path | None) -> bool:
    """Whether `load_cl100k` will find an engine, without loading it."""
    return rank_file is not None or importlib.util.find_spec("rs_bpe") is not None


def load_cl100k(rank_file: Path | None) -> Cl100k | None:
    """Load the installed engine; None without one.

    rank_file: cl100k_base.tiktoken, read by tiktoken; without it rs-bpe is used.
    Raises ConfigError if the file is another one, DependencyMissing if it is named and tiktoken is not installed.
    """
    if rank_file is not None:
        return _Tiktoken(rank_file)
    return _RsBpe() if is_installed(None) else None


class _Ids:
    """A text as its token ids."""

    def __init__(self, ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> None:
        self.n_tokens = len(ids)
        self._ids = ids
        self._decode = decode

    def kept(self, n_tokens: int, side: Side) -> str | None:
        """The text of so many tokens when the others are cut off at `side`; None if that cuts a character in two."""
        ids = self._ids[:n_tokens] if side == "end" else self._ids[len(self._ids) - n_tokens :]
        try:
            return self._decode(ids)
        except InvalidInput:
            return None


class _Tiktoken:
    is_exact = True

    def __init__(self, rank_file: Path) -> None:
        try:
            import tiktoken
        except ImportError as error:
            raise DependencyMissing("local.cl100k_file is read by tiktoken, which is not installed") from error
        try:
            raw = rank_file.expanduser().read_bytes()
        except OSError as error:
            raise ConfigError([f"local.cl100k_file {rank_file} cannot be read: {error.strerror or error}"]) from error
        seen = hashlib.sha256(raw).hexdigest()
        if seen != RANK_FILE_SHA256:
            raise ConfigError([f"local.cl100k_file {rank_file} has SHA-256 {seen}, not {RANK_FILE_SHA256}"])
        pairs = (line.split() for line in raw.splitlines())
        ranks = {base64.b64decode(token): int(rank) for token, rank in pairs}
        self._encoding: tiktoken.Encoding = tiktoken.Encoding(
            "cl100k_base", pat_str=_SPLIT, mergeable_ranks=ranks, special_tokens={}
        )

    def count(self, text: str) -> int:
        return len(self._encoding.encode_ordinary(text))

    def tokenized(self, text: str) -> TokenizedText:
        return _Ids(self._encoding.encode_ordinary(text), self.decode)

    def decode(self, tokens: Sequence[int]) -> str:
        _check_ids(tokens)
        try:
            return self._encoding.decode_bytes(tokens).decode()
        except UnicodeDecodeError:
            # The cause would contain the bytes of the input.
            raise InvalidInput(_NOT_UTF8) from None


class _RsBpe:
    is_exact = True

    def __init__(self) -> None:
        from rs_bpe.bpe import openai

        self._tokenizer: Any = openai.cl100k_base()

    def count(self, text: str) -> int:
        try:
            count: int = self._tokenizer.count(text)
        except UnicodeEncodeError:
            # The cause would contain the text itself.
            raise InvalidInput(_NOT_UNICODE) from None
        return count

    def tokenized(self, text: str) -> TokenizedText:
        try:
            return _Ids(self._tokenizer.encode(text), self.decode)
        except UnicodeEncodeError:
            raise InvalidInput(_NOT_UNICODE) from None

    def decode(self, tokens: Sequence[int]) -> str:
        # rs-bpe aborts the process on an id outside the vocabulary.
        _check_ids(tokens)
        text: str | None = self._tokenizer.decode(list(tokens))
        if text is None:
            raise InvalidInput(_NOT_UTF8)
        return text


def _check_ids(tokens: Sequence[int]) -> None:
    if tokens and not (min(tokens) >= 0 and max(tokens) < VOCABULARY_SIZE):
        raise InvalidInput(f"has a token id outside 0..{VOCABULARY_SIZE - 1}, the ids of cl100k_base.")
