"""Token counts: bounds, exact counts, and shares of a count. Tokenizers come in through a port.

Most requests are far below every limit, and a text never has more tokens than bytes (plus the special ones), so
the exact count is taken only where that bound does not already answer the question.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from msgspec import Struct

from embedgate.core.models import Route
from embedgate.core.ports import Tokenizers
from embedgate.core.rerank import RerankRequest
from embedgate.core.types import Input
from embedgate.observe import events, metrics

P = ParamSpec("P")
T = TypeVar("T")

SPECIAL_TOKENS = 4
"""At most this many tokens are added to a text by any tokenizer we know (`[CLS]`, `[SEP]`, a dummy prefix)."""
_COUNT_ON_WORKER_BYTES = 50_000
LARGE_CHARACTERS = 250_000
"""In UTF-8 so many take a third of a millisecond where they are not ASCII; of more, bytes are counted on a worker."""


_BYTES_PER_TOKEN = 4
MANY_TOKENS = 10_000
"""A provider that reports no more is believed."""
_BELIEVED_TIMES = 10
"""Of the most that can be, so many times more is believed: bounds leave out what some hosts count beside."""


class Count(Struct, frozen=True, gc=False):
    """Tokens of some inputs: `each` in their order. Not exact means an upper bound."""

    each: tuple[int, ...]
    is_exact: bool

    @property
    def total(self) -> int:
        """Tokens of all inputs together."""
        return sum(self.each)


def is_large(inputs: Sequence[Input]) -> bool:
    """Whether looking at every byte of the inputs holds the event loop for long."""
    return sum(map(len, inputs)) > LARGE_CHARACTERS


def size_bytes(text: str) -> int:
    """Bytes of a text in UTF-8. Of a large one it is found in pieces: a single call would keep the interpreter."""
    if text.isascii():
        return len(text)
    if len(text) <= LARGE_CHARACTERS:
        return len(text.encode())
    starts = range(0, len(text), LARGE_CHARACTERS)
    return sum(len(text[start : start + LARGE_CHARACTERS].encode()) for start in starts)


def bound(item: Input) -> int:
    """An upper bound of the tokens of one input, without tokenizing it."""
    return size_bytes(item) + SPECIAL_TOKENS if isinstance(item, str) else len(item)


def bounds(inputs: Sequence[Input]) -> list[int]:
    """The bound of each input."""
    return [bound(item) for item in inputs]


def total_bound(inputs: Sequence[Input]) -> int:
    """The bound of all inputs together."""
    total = 0
    for item in inputs:
        if isinstance(item, str):
            total += (len(item) if item.isascii() else size_bytes(item)) + SPECIAL_TOKENS
        else:
            total += len(item)
    return total


async def total_bound_aside(inputs: Sequence[Input]) -> int:
    """`total_bound`, on a worker thread where it takes more than about a millisecond."""
    return await asyncio.to_thread(total_bound, inputs) if is_large(inputs) else total_bound(inputs)


def believed(told: int | None, most: int, provider: str) -> int | None:
    """What a provider reports as used; None where that cannot be, so that it is counted here instead.

    most: what the call can have used. A report of a billion tokens would use up a budget that nobody has spent. Zero is
    what hosts write who have not counted: whatever was worked on has a token, and takes a search.
    """
    if not told:
        return None
    if told <= MANY_TOKENS + _BELIEVED_TIMES * most:
        return told
    metrics.usage_doubted(provider)
    events.USAGE_DOUBTED.emit(provider=provider, told=told, most=most)
    return None


def ranking_bound(request: RerankRequest) -> int:
    """An upper bound of the tokens of documents to be ordered: models read the query anew beside every one."""
    return bound(request.query) * len(request.documents) + total_bound(request.documents)


def count(inputs: Sequence[Input], route: Route, tokenizers: Tokenizers) -> Count:
    """The tokens of each input as the route's model counts them; a bound where its tokenizer is not here.

    Blocks for about a microsecond per 50 bytes of text: call it on a worker for large requests.
    """
    counter = tokenizers.counter(route)
    each = tuple(counter.count(item) if isinstance(item, str) else len(item) for item in inputs)
    return Count(each, counter.is_exact)


def guessed(inputs: Sequence[Input], counted: Count) -> tuple[int, ...]:
    """The tokens that each input is taken to have had in a good answer that does not say: counted, else by rule.

    The rule is the one of chat, four bytes to a token. It may be too low, so nothing is held or bounded by it.
    """
    if counted.is_exact:
        return counted.each
    return tuple([by_rule(size_bytes(item)) if isinstance(item, str) else len(item) for item in inputs])


def by_rule(n_bytes: int) -> int:
    """The tokens that a text of so many bytes is taken to have where nobody has counted."""
    return -(-n_bytes // _BYTES_PER_TOKEN)


def _is_slow(inputs: Sequence[Input]) -> bool:
    """Whether counting the tokens of the inputs takes more than about a millisecond."""
    return is_large(inputs) or total_bound(inputs) > _COUNT_ON_WORKER_BYTES


async def count_aside(inputs: Sequence[Input], route: Route, tokenizers: Tokenizers) -> Count:
    """`count`, on a worker thread where it takes more than about a millisecond."""
    return await aside(inputs, count, inputs, route, tokenizers)


async def aside(inputs: Sequence[Input], work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What some work on the tokens of inputs returns: on a worker thread where it takes more than a millisecond."""
    if _is_slow(inputs):
        return await asyncio.to_thread(work, *args, **kwargs)
    return work(*args, **kwargs)


def estimate(inputs: Sequence[Input], route: Route, tokenizers: Tokenizers) -> tuple[int, ...]:
    """The tokens of each input, at once: counted where that takes less than about a millisecond, else their bounds."""
    if _is_slow(inputs):
        return tuple(bounds(inputs))
    return count(inputs, route, tokenizers).each


def split(total: int, weights: Sequence[int]) -> tuple[int, ...]:
    """`total` shared out in proportion to `weights`: whole numbers that add up to it exactly (largest remainder).

    Weights that are all zero share equally.
    """
    whole = sum(weights)
    if whole == total:
        return tuple(weights)
    if whole == 0:
        weights, whole = [1] * len(weights), len(weights)
    shares = [total * weight // whole for weight in weights]
    missing = total - sum(shares)
    if missing:
        by_remainder = sorted(range(len(weights)), key=lambda i: -(total * weights[i] % whole))
        for position in by_remainder[:missing]:
            shares[position] += 1
    return tuple(shares)
