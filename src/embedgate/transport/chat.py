"""Chat completion of a provider over HTTP: begun, passed on piece by piece, closed.

Bytes are passed on unchanged; only a usage event that the gateway itself has asked for is removed. An answer has begun
when its first event is here, or all of it where it is not streamed; until then, failover is possible. The
call is built in `chat_call`, JSON is read in `chat_usage`.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from embedgate.core.chat import EVENT_STREAM, media_type, told_early
from embedgate.core.errors import UpstreamError, UpstreamGarbled, UpstreamMismatch
from embedgate.core.hints import Observe
from embedgate.core.types import ChatUsage
from embedgate.transport.chat_events import MAX_EVENT_BYTES, EventReader
from embedgate.transport.chat_usage import Said, read_completion
from embedgate.transport.connection_pool import MAX_FAULT_BYTES, Incoming
from embedgate.transport.faults import classify, classify_late, said_instead
from embedgate.transport.rate_headers import read_hints
from embedgate.transport.records import HttpReply

_HEAD_TICK_S = 0.25
_HEAD_TICKS = 4
"""How long the head of a stream waits for its first event: until that is here, an error has a status of its own.

In ticks, so that a moment in which this process does not run is not taken for silence of the host.
"""
_END_S = 1.0
"""How long a stream may take to end after `[DONE]`, so that the connection can be kept."""
_JSON = ("application/json", "+json")


@dataclass(frozen=True, slots=True)
class AskedChat:
    """What reading an answer needs to know of its call.

    `provider` is its name in messages. `hides_usage`: only the gateway has asked for usage, so its event is removed.
    `secrets` returns what no message may show. `max_bytes` limits an answer that is not streamed. `observe` is called
    with the rate limits that the answer reports.
    """

    provider: str
    hides_usage: bool
    secrets: Callable[[], tuple[str, ...]]
    max_bytes: int
    observe: Observe


class IncomingChat:
    """Chat answer over one HTTP reply. Implements the port ChatReply."""

    def __init__(self, incoming: Incoming, on_close: Callable[[], None]) -> None:
        """on_close: called once, when the reply is closed."""
        self.content_type = incoming.headers.get("content-type", "")
        self.usage: ChatUsage | None = None
        self.output_bytes = 0
        self.fault: UpstreamError | None = None
        self.is_complete = True
        self._incoming = incoming
        self._on_close: Callable[[], None] | None = on_close
        self._head: deque[bytes] = deque()
        self._events: EventReader | None = None
        self._asked: AskedChat | None = None
        self._ticking: asyncio.TimerHandle | None = None

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body in pieces as they arrive. Can be read once.

        Raises UpstreamTimeout, or UpstreamFailed if it breaks off.
        """
        while self._head:
            yield self._head.popleft()
        if self._events is None:
            return
        while (chunk := await self._following(self._events)) is not None:
            piece = self._events.feed(chunk)
            self._count(self._events)
            if piece:
                yield piece
        piece = self._events.finish()
        self._count(self._events)
        self.is_complete = self._events.is_finished
        if piece:
            yield piece

    async def _following(self, events: EventReader) -> bytes | None:
        """The next bytes; None at the end, which is awaited only for a moment once `[DONE]` has come."""
        if not events.is_over:
            return await self._incoming.read()
        try:
            async with asyncio.timeout(_END_S):
                return await self._incoming.read()
        except TimeoutError:
            return None

    async def aclose(self) -> None:
        """Close the connection unless the answer is complete; also while it is being read."""
        try:
            await self._incoming.aclose()
        finally:
            on_close, self._on_close = self._on_close, None
            if on_close is not None:
                on_close()

    async def begin(self, asked: AskedChat) -> None:
        """Return once the first bytes of a good answer are here. Raises UpstreamError if it is none."""
        self._asked = asked
        asked.observe(read_hints(self._incoming.headers))
        if not self._incoming.is_success:
            raise classify(self._reply(asked, await self._read_fault()))
        sent_type = media_type(self.content_type)
        if sent_type == EVENT_STREAM:
            await self._begin_stream(asked)
        elif sent_type.endswith(_JSON):
            await self._read_whole(asked)
        else:
            sent = self._reply(asked, b"").quote(sent_type) or "something of no type"
            raise UpstreamMismatch(f"{asked.provider} sent {sent} in place of a completion; check base_url")

    async def _begin_stream(self, asked: AskedChat) -> None:
        """Wait for the first event: a failure before it is an error, though the status was good.

        Comments before it are told to who waits, and so is the head if nothing follows it.
        """
        self._events = events = EventReader(hides_usage=asked.hides_usage)
        tell = told_early.get()
        if tell is not None:
            self._tell_head(tell, _HEAD_TICKS)
        try:
            await self._first_event(asked, events, tell)
        finally:
            if self._ticking is not None:
                self._ticking.cancel()
        if events.first_said is not None:
            self._check(events.first_said, asked, events.first or b"")
        self._count(events)

    def _tell_head(self, tell: Callable[[bytes], None], ticks: int) -> None:
        """Tell that the head is here, so many ticks from now."""
        if not ticks:
            tell(b"")
            return
        self._ticking = asyncio.get_running_loop().call_later(_HEAD_TICK_S, self._tell_head, tell, ticks - 1)

    async def _first_event(self, asked: AskedChat, events: EventReader, tell: Callable[[bytes], None] | None) -> None:
        waiting_bytes = 0
        while events.first is None and waiting_bytes <= MAX_EVENT_BYTES:
            chunk = await self._incoming.read()
            piece = events.finish() if chunk is None else events.feed(chunk)
            waiting_bytes += len(piece)
            if piece and tell is not None and events.is_silent and not self._head:
                tell(piece)
            elif piece:
                self._head.append(piece)
            if chunk is None and events.first is None:
                raise UpstreamGarbled(f"{asked.provider} ended its answer before the first event")

    def _check(self, said: Said, asked: AskedChat, body: bytes) -> None:
        """Raise the error that stands in place of a completion, if one does."""
        if said.is_error:
            raise classify_late(self._reply(asked, body))
        if not said.has_choices and (fault := said_instead(self._reply(asked, body))) is not None:
            raise fault

    async def _read_whole(self, asked: AskedChat) -> None:
        body = b"".join([chunk async for chunk in self._chunks(asked.provider, asked.max_bytes)])
        said = read_completion(body)
        if said is None:
            raise UpstreamGarbled(f"{asked.provider} sent an answer that is not a JSON object")
        self._check(said, asked, body)
        if not said.has_choices:
            raise UpstreamMismatch(f"{asked.provider} sent an answer without choices")
        self.usage, self.output_bytes = said.usage, said.written_bytes
        self._head.append(body)

    async def _chunks(self, provider: str, max_bytes: int) -> AsyncIterator[bytes]:
        size_bytes = 0
        while (chunk := await self._incoming.read()) is not None:
            size_bytes += len(chunk)
            if size_bytes > max_bytes:
                raise UpstreamMismatch(f"{provider} sent more than {max_bytes} bytes (transport.max_reply_bytes)")
            yield chunk

    async def _read_fault(self) -> bytes:
        """The beginning of an error body: enough for any message."""
        body = b""
        while len(body) <= MAX_FAULT_BYTES and (chunk := await self._incoming.read()) is not None:
            body += chunk
        return body

    def _reply(self, asked: AskedChat, body: bytes) -> HttpReply:
        incoming = self._incoming
        return HttpReply(asked.provider, incoming.status, incoming.headers, body, asked.secrets())

    def _count(self, events: EventReader) -> None:
        self.usage = events.usage
        self.output_bytes = events.written_bytes
        if events.fault is not None and self.fault is None and self._asked is not None:
            self.fault = classify_late(self._reply(self._asked, events.fault))


async def begin_chat(incoming: Incoming, asked: AskedChat, on_close: Callable[[], None]) -> IncomingChat:
    """The chat answer in a reply, once it has begun. on_close: called once, when it is closed.

    Raises UpstreamError if there is none; the reply is then closed.
    """
    reply = IncomingChat(incoming, on_close)
    try:
        await reply.begin(asked)
    except BaseException:
        await reply.aclose()
        raise
    return reply
