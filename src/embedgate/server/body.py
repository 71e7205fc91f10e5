"""Body of a request: read on demand, within a size, a time, and the memory that requests may take together.

What a body takes is more than its bytes: texts become wider characters, and each value an object. `weight` says how
much; that is asked for before the body is read, or, for what only its content tells, before it is parsed.
"""

import asyncio
import io
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar

from msgspec import Struct, field

from embedgate.core.errors import BodyTooLarge, BodyTooSlow
from embedgate.server.compressed import decoded, decoded_size
from embedgate.server.exchange import Exchange
from embedgate.server.large_json import LARGE_BYTES
from embedgate.server.memory import SMALL_BYTES, Held, MemoryBudget
from embedgate.server.weight import UNREAD_FACTOR, weight_of

P = ParamSpec("P")
T = TypeVar("T")

Receive = Callable[[], Awaitable[dict[str, Any]]]
Enter = Callable[[], Awaitable[None]]
"""Asks for what a request needs before its body is read: a place among those of its caller."""

_AGE_S = 1.0
"""From when on the pace of a caller is told."""


class CallerGone(Exception):
    """The client closed the connection before its request had arrived."""


class BodyBounds(Struct, frozen=True):
    """Bounds of every body of a server."""

    max_bytes: int
    max_values: int
    timeout_s: float
    memory: MemoryBudget
    worker: ThreadPoolExecutor = field(
        default_factory=partial(ThreadPoolExecutor, 1, thread_name_prefix="embedgate-bodies")
    )
    """Large bodies are parsed there, one after the other. Shut it down at the end."""


class Body:
    """Body of one request, read on demand within its bounds; then watches for a disconnect."""

    def __init__(
        self, receive: Receive, headers: Mapping[bytes, bytes], bounds: BodyBounds, exchange: Exchange | None = None
    ) -> None:
        """bounds: a declared length over the limit is refused without reading."""
        self._receive = receive
        self._exchange = exchange
        self._declared = headers.get(b"content-length", b"")
        self._encoding = headers.get(b"content-encoding", b"")
        self._bounds = bounds
        self._max_bytes = bounds.max_bytes
        self._advice = "Send fewer inputs per request, or raise server.max_body_bytes."
        self._watch: asyncio.Task[None] | None = None
        self._gone: Callable[[], None] | None = None
        self._held: Held | None = None
        self.owner = ""
        self.is_busy = False
        """Whether there is something to `close`."""
        self._patience: asyncio.Timeout | None = None
        self._began_s = 0.0
        self._read_bytes = 0

    async def read(self, max_bytes: int | None = None, enter: Enter | None = None, owner: str = "") -> bytes:
        """The whole body. max_bytes: a tighter limit than the general one.

        enter: called before anything is read that has not come with the head. owner: in whose share of the memory it
        counts.
        Raises BodyTooLarge, BodyTooSlow, Overloaded for want of memory, CallerGone, or what `enter` raises.
        """
        self.owner = owner
        if max_bytes is not None:
            self._max_bytes = min(self._max_bytes, max_bytes)
            self._advice = "Send less in one request."
        declared = int(self._declared) if self._declared.isdigit() else None
        if declared is not None and declared > self._max_bytes:
            raise self._too_large(declared)
        if self._exchange is not None and (whole := self._exchange.take_body()) is not None:
            if self._encoding:
                whole = await self._decoded(self._bounded(whole))
            return whole if len(whole) <= SMALL_BYTES else await self._weighed(self._bounded(whole))
        if enter is not None:
            await enter()
        if declared is not None and declared > SMALL_BYTES:
            await self._holding().wait_for(self._affordable(declared * UNREAD_FACTOR))
        self._began_s = time.monotonic()
        self._bounds.memory.slow[self] = None
        try:
            whole = await self._read_to_end(is_declared=declared is not None)
        finally:
            self._bounds.memory.slow.pop(self, None)
        if self._encoding:
            whole = await self._decoded(whole)
        return whole if len(whole) <= SMALL_BYTES else await self._weighed(whole)

    async def _read_to_end(self, *, is_declared: bool) -> bytes:
        deadline_s = self._began_s + self._bounds.timeout_s
        chunk, has_more = await self._chunk(deadline_s)
        if not has_more:
            return self._bounded(chunk)
        whole = io.BytesIO(chunk)  # which grows in place: joining parts in the end would hold the event loop
        whole.seek(0, io.SEEK_END)
        self._read_bytes = len(chunk)
        while has_more:
            chunk, has_more = await self._chunk(deadline_s)
            whole.write(chunk)
            self._read_bytes += len(chunk)
            if self._read_bytes > self._max_bytes:
                raise self._too_large(self._read_bytes)
            if not is_declared and self._read_bytes > SMALL_BYTES:
                self._holding().grow(self._affordable(self._read_bytes * UNREAD_FACTOR))
        return whole.getvalue()

    async def _decoded(self, body: bytes) -> bytes:
        """The body without its content encoding, once there is room for it."""
        encoding = self._encoding.decode("latin-1").strip().lower()
        if encoding == "identity":
            return body
        size_bytes = await decoded_size(encoding, body, self._max_bytes)
        if size_bytes > self._max_bytes:
            raise self._too_large(size_bytes)
        if (needed := self._affordable(size_bytes * UNREAD_FACTOR)) > self.held_bytes and size_bytes > SMALL_BYTES:
            held = self._holding()
            await held.wait_for(needed) if held.size_bytes == 0 else held.grow(needed)
        return await decoded(encoding, body, size_bytes)

    async def _weighed(self, body: bytes) -> bytes:
        """The body, once there is room for what it becomes."""
        needed = await weight_of(body, self._bounds.max_values)
        held = self._holding()
        if held.size_bytes == 0:
            await held.wait_for(self._affordable(needed))
        elif needed > held.size_bytes:
            held.grow(self._affordable(needed))
        else:
            held.become(needed)
        return body

    async def parsed(
        self, parse: Callable[Concatenate[bytes, P], T], body: bytes, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """The body that was read, parsed by `parse`: on a worker if it is large. Raises what `parse` does."""
        if len(body) <= LARGE_BYTES:
            return parse(body, *args, **kwargs)
        whole = partial(parse, body, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._bounds.worker, whole)

    def hold_answer(self, size_bytes: int) -> None:
        """Hold what the answer takes until it is sent, in place of what the request took."""
        self._holding().become(size_bytes)

    def watch(self, gone: Callable[[], None]) -> None:
        """Call `gone` when the caller disconnects. Only once the body is read; until `close`."""
        self.is_busy = True
        if self._exchange is not None:
            self._gone = gone
            self._exchange.demand.watch(gone)
        else:
            self._watch = asyncio.get_running_loop().create_task(self._until_gone(gone))

    async def close(self) -> None:
        """Stop watching, and give back what was held: the answer is complete."""
        if self._held is not None:
            self._held.become(0)
        if self._gone is not None and self._exchange is not None:
            self._exchange.demand.unwatch(self._gone)
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])

    @property
    def held_bytes(self) -> int:
        """What the request holds of the memory budget."""
        return self._held.size_bytes if self._held else 0

    def pace(self) -> float | None:
        """Bytes per second since reading began; None at first."""
        age_s = time.monotonic() - self._began_s
        return self._read_bytes / age_s if age_s >= _AGE_S else None

    def cut(self) -> None:
        """End the wait for more of the body."""
        if self._patience is not None and not self._patience.expired():
            self._patience.reschedule(asyncio.get_running_loop().time())

    def _holding(self) -> Held:
        if self._held is None:
            self.is_busy = True
            self._held = Held(self._bounds.memory, self.owner)
            if self._exchange is not None:
                self._exchange.held = self._held
        return self._held

    async def _until_gone(self, gone: Callable[[], None]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        gone()

    async def _chunk(self, deadline_s: float) -> tuple[bytes, bool]:
        try:
            async with asyncio.timeout(deadline_s - time.monotonic()) as self._patience:
                message = await self._receive()
        except TimeoutError as error:
            raise BodyTooSlow(
                f"The body did not arrive within {self._bounds.timeout_s:g} seconds, or far too slowly while others "
                "needed the memory; send it faster or in smaller requests."
            ) from error
        if message["type"] == "http.disconnect":
            raise CallerGone
        return message.get("body", b""), message.get("more_body", False)

    def _bounded(self, body: bytes) -> bytes:
        if len(body) > self._max_bytes:
            raise self._too_large(len(body))
        return body

    def _affordable(self, needed_bytes: int) -> int:
        most_bytes = self._bounds.memory.most_bytes
        if needed_bytes > most_bytes:
            raise BodyTooLarge(
                f"The request would take {needed_bytes} bytes of memory; at most {most_bytes} are given to one. Send "
                "fewer inputs in one request, or raise server.max_memory_bytes."
            )
        return needed_bytes

    def _too_large(self, size_bytes: int) -> BodyTooLarge:
        return BodyTooLarge(
            f"The body has {size_bytes} bytes or more; at most {self._max_bytes} are taken. {self._advice}"
        )
