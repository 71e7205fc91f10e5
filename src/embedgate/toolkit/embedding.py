"""Embedding many texts: in calls within an embedder's limits, several at a time, in order, faulty texts left out."""

import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal

import numpy as np

from embedgate.client import batches
from embedgate.core.errors import GatewayError, GatewayRefused, InvalidInput, UpstreamGarbled, UpstreamRejected
from embedgate.core.ports import CallLimits, Embedder
from embedgate.core.types import InputType
from embedgate.core.vectors import Vectors

OnError = Literal["stop", "skip"]
Progress = Callable[[int, int], None]
"""Called with the number of texts that are done, and that of all."""
Call = Callable[[Sequence[str]], Vectors]
"""Embeds one batch."""

_OF_AN_INPUT = re.compile(r"input\[(\d{1,9})\] ")
"""How a gateway's messages about one text of a request begin."""
_AHEAD = 2
"""Calls that are done or running, for each that may run: one slow call must not leave the others idle."""
_ABOUT_A_TEXT = frozenset(
    {
        "body_too_large",
        "context_length_exceeded",
        "http_400",
        "http_413",
        "http_422",
        "invalid_input",
        "max_tokens_per_request",
        "upstream_rejected",
    }
)
"""Codes of refusals that may be the fault of one text; those with `http_` are of servers that give no code."""


class TextRefused(GatewayRefused):
    """A gateway elsewhere refused one text. index: its position among all texts. reason: why, without a position."""

    def __init__(self, refusal: GatewayRefused, index: int, reason: str, name: str | None = None) -> None:
        """refusal: as it came, about a position in its request. name: of the text, for the message."""
        super().__init__(
            f"{name or f'input[{index}]'} {reason}",
            status=refusal.status,
            code=refusal.code,
            request_id=refusal.request_id,
            retry_after_s=refusal.retry_after_s,
            may_retry=refusal.may_retry,
        )
        self.index = index
        self.reason = reason


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A text without a vector, by its position among the texts, and the reason."""

    position: int
    reason: str


@dataclass(frozen=True, slots=True)
class Part:
    """The result of one call. vectors: (n, d) float32, of the texts at `positions`; together they go on in order."""

    positions: Sequence[int]
    vectors: Vectors
    left_out: Sequence[LeftOut] = ()

    @property
    def n_done(self) -> int:
        """Texts that the call dealt with, left-out ones included."""
        return len(self.positions) + len(self.left_out)


def embed_in_parts(
    embedder: Embedder, texts: Sequence[str], input_type: InputType | None = None, *, on_error: OnError = "stop"
) -> Iterator[Part]:
    """Embed texts in calls within the embedder's limits, as many at a time as it takes; parts come in order.

    At most twice that many calls are ahead of what has been taken: memory stays bounded. on_error `skip` leaves out
    the texts that cannot be embedded, and finds them by halving a call that failed because of one.
    Raises InvalidInput with the position of a text among all, or what `embed` raises.
    """
    return call_in_parts(lambda batch: embedder.embed(batch, input_type), embedder.call_limits, texts, on_error)


def embed_all(
    embedder: Embedder,
    texts: Sequence[str],
    input_type: InputType | None = None,
    *,
    on_progress: Progress | None = None,
) -> Vectors:
    """The vectors of all texts, (n, d) float32, in order. Raises what `embed_in_parts` raises."""
    vectors = joined(embed_in_parts(embedder, texts, input_type), len(texts), on_progress)
    return np.empty((0, embedder.dim), dtype=np.float32) if vectors is None else vectors


def joined(parts: Iterable[Part], n: int, on_progress: Progress | None = None) -> Vectors | None:
    """The vectors of parts that leave nothing out, (n, d) float32; None if there are no parts."""
    vectors: Vectors | None = None
    done = 0
    for part in parts:
        if vectors is None:
            vectors = np.empty((n, part.vectors.shape[1]), dtype=np.float32)
        if part.vectors.shape[1] != vectors.shape[1]:
            raise UpstreamGarbled("the vectors have another length in one call than in the one before")
        vectors[done : done + len(part.vectors)] = part.vectors
        done += len(part.vectors)
        if on_progress is not None:
            on_progress(done, n)
    return vectors


def call_in_parts(call: Call, limits: CallLimits, texts: Sequence[str], on_error: OnError = "stop") -> Iterator[Part]:
    """As `embed_in_parts`, for a call that embeds a batch and its limits."""
    starts: list[tuple[int, Sequence[str]]] = []
    start = 0
    for batch in batches(texts, max_inputs=limits.max_inputs, max_tokens=limits.max_tokens):
        starts.append((start, batch))
        start += len(batch)

    def part_of(first: int, batch: Sequence[str]) -> Part:
        if on_error == "skip":
            return _all_but_faulty(call, batch, first)
        try:
            return Part(range(first, first + len(batch)), call(batch))
        except InvalidInput as error:
            if error.index is None:
                raise
            raise error.at(first + error.index) from error
        except GatewayError as error:
            if isinstance(error, GatewayRefused) and (found := _OF_AN_INPUT.match(error.message)):
                raise TextRefused(error, first + int(found[1]), error.message[found.end() :]) from error
            if len(starts) > 1:
                error.add_note(f"in the call for texts[{first}] to texts[{first + len(batch) - 1}]")
            raise

    if limits.parallel == 1 or len(starts) == 1:
        for first, batch in starts:
            yield part_of(first, batch)
    else:
        yield from _in_threads(part_of, starts, limits.parallel)


def _in_threads(
    part_of: Callable[[int, Sequence[str]], Part], starts: Sequence[tuple[int, Sequence[str]]], parallel: int
) -> Iterator[Part]:
    """The results of the calls, in order; at most `parallel` of them run at a time, in threads that end with them."""
    slots = threading.Semaphore(parallel)
    given_up = threading.Event()
    running: deque[Future[Part]] = deque()
    waiting = iter(starts)

    def start_next() -> None:
        found = next(waiting, None)
        if found is not None:
            running.append(_started(lambda: part_of(*found), slots, given_up))

    try:
        for _ in range(_AHEAD * parallel):
            start_next()
        while running:
            part = running[0].result()
            running.popleft()
            start_next()
            yield part
    finally:
        given_up.set()


def _started(work: Callable[[], Part], slots: threading.Semaphore, given_up: threading.Event) -> Future[Part]:
    """Run work in a thread of its own. It is a daemon: Ctrl-C does not wait for calls that nobody waits for."""
    outcome: Future[Part] = Future()

    def run() -> None:
        with slots:
            if given_up.is_set():
                outcome.cancel()
                return
            try:
                outcome.set_result(work())
            except BaseException as error:  # noqa: BLE001 - any exception is raised again in the waiting thread
                outcome.set_exception(error)

    threading.Thread(target=run, name="embedgate-embed", daemon=True).start()
    return outcome


def _all_but_faulty(call: Call, texts: Sequence[str], first: int) -> Part:
    """Embed a batch; halve what fails because of a text, until the faulty ones are alone."""
    positions: list[int] = []
    parts: list[Vectors] = []
    left_out: list[LeftOut] = []
    pending = [(first, texts)]
    while pending:
        start, batch = pending.pop()
        try:
            vectors = call(batch)
        except GatewayError as error:
            if not _is_about_a_text(error):
                raise
            if len(batch) == 1:
                left_out.append(LeftOut(start, _reason(error)))
            else:
                middle = len(batch) // 2
                pending += [(start + middle, batch[middle:]), (start, batch[:middle])]
            continue
        positions += range(start, start + len(batch))
        parts.append(vectors)
    return Part(positions, np.concatenate(parts) if parts else np.empty((0, 0), dtype=np.float32), left_out)


def _is_about_a_text(error: GatewayError) -> bool:
    if isinstance(error, GatewayRefused):
        return error.code in _ABOUT_A_TEXT
    return isinstance(error, (InvalidInput, UpstreamGarbled, UpstreamRejected))


def _reason(error: GatewayError) -> str:
    if isinstance(error, InvalidInput):
        return error.reason
    return error.message.removeprefix("input[0] ")
