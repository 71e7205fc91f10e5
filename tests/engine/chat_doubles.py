"""Chat models of a provider that answers as it is told. Everything of ours around it is real."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from msgspec import structs

from doubles import SECRET, Bench, Words
from embedgate.core.chat import ChatResult, ChatStream
from embedgate.core.errors import GatewayError, UpstreamError
from embedgate.core.models import DimRange, Model, Price, Route
from embedgate.core.ports import TokenCounter
from embedgate.core.types import ChatRequest, ChatUsage, Origin
from embedgate.engine.chat.stream import StreamBuffer
from embedgate.inference.counters import ByteBound

MESSAGES = b'[{"role":"user","content":"Hello"}]'
USAGE = ChatUsage(input_tokens=10, output_tokens=4, cached_tokens=6)
PRICE = Price(5, output_picodollars_per_token=20, cached_input_picodollars_per_token=2)
COST = 4 * 5 + 6 * 2 + 4 * 20
"""What USAGE costs at PRICE."""
LAST_WORD = b"data: [DONE]\n\n"
EVENTS = (b'data: {"a":1}\n\n', b'data: {"b":2}\n\n', LAST_WORD)


@dataclass
class ScriptedReply:
    """An answer in pieces. `gate` must be open before each piece but the first; `error` breaks it off at the end."""

    parts: Sequence[bytes] = EVENTS
    reported: ChatUsage | None = USAGE
    error: GatewayError | None = None
    gate: asyncio.Event | None = None
    content_type: str = "text/event-stream"
    output_bytes: int = 0
    usage: ChatUsage | None = None
    fault: UpstreamError | None = None
    is_complete: bool = True
    n_read: int = 0
    is_closed: bool = False

    async def pieces(self) -> AsyncIterator[bytes]:
        """The parts."""
        for part in self.parts:
            if self.n_read and self.gate is not None:
                await self.gate.wait()
            self.n_read += 1
            self.output_bytes += len(part)
            yield part
        if self.error is not None:
            raise self.error
        self.usage = self.reported

    async def aclose(self) -> None:
        """Remember it."""
        self.is_closed = True


@dataclass
class ScriptedChat:
    """A provider. Each call takes the next step: an answer, an error, or an event to wait for in vain."""

    steps: list[ScriptedReply | GatewayError | asyncio.Event] = field(default_factory=list)
    requests: list[ChatRequest] = field(default_factory=list)
    replies: list[ScriptedReply] = field(default_factory=list)

    async def chat(self, request: ChatRequest, route: Route, deadline_s: float) -> ScriptedReply:
        """One call."""
        self.requests.append(request)
        step = self.steps.pop(0) if self.steps else ScriptedReply()
        if isinstance(step, asyncio.Event):
            await step.wait()
            step = ScriptedReply()
        if isinstance(step, GatewayError):
            raise step
        self.replies.append(step)
        return step


class Unknown(Words):
    """Tokenizers of models whose tokens nobody knows."""

    def counter(self, route: Route) -> TokenCounter:
        """A bound by bytes."""
        return ByteBound()


def chat_model(
    *providers: str,
    name: str = "acme/chat",
    price: Price | None = PRICE,
    max_output_tokens: int | None = 100,
    tokenizer: str = "unknown",
) -> Model:
    """A chat model with one route per provider."""
    no_dims = DimRange(0, 0, 0)
    routes = tuple(Route(provider, "c", no_dims, 1_000, tokenizer, price=price) for provider in providers)
    return Model(name, "chat", routes, max_input_tokens=1_000, max_output_tokens=max_output_tokens)


def request(**changes: object) -> ChatRequest:
    """A small request for a stream."""
    base = ChatRequest(
        model="acme/chat",
        fields={"messages": MESSAGES, "stream": b"true"},
        n_items=1,
        text_bytes=len(MESSAGES),
        is_stream=True,
    )
    return structs.replace(base, **changes)


class Asked:
    """One request and what becomes of it."""

    def __init__(self, bench: Bench, asked: ChatRequest, number: int = 0, max_bytes: int = 10) -> None:
        """max_bytes: of pieces that wait."""
        self.out = StreamBuffer(max_bytes)
        self.reads = 0
        self._bench = bench
        self._asked = asked
        self._origin = Origin(f"req_{number}", "openai", SECRET)

    async def answer(self) -> ChatResult | ChatStream:
        """The answer, whole or begun."""
        return await self._bench.pipeline.chat(self._origin, self._read, self.out)

    async def stream(self) -> ChatStream:
        """The answer to a request for a stream."""
        answer = await self.answer()
        assert isinstance(answer, ChatStream)
        return answer

    async def pieces(self) -> list[bytes]:
        """All pieces of the stream."""
        return [piece async for piece in (await self.stream()).pieces]

    async def _read(self) -> ChatRequest:
        self.reads += 1
        return self._asked


async def whole(bench: Bench, asked: ChatRequest, number: int = 0) -> ChatResult:
    """The answer to a request for no stream."""
    answer = await Asked(bench, structs.replace(asked, is_stream=False), number).answer()
    assert isinstance(answer, ChatResult)
    return answer
