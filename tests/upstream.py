"""A provider of the OpenAI format on a loopback port, honest until told otherwise. For all tests that need a far side.

    with running_upstream() as upstream:
        upstream.script(error(429, "slow down", headers={"retry-after": "1"}), Answer(twist="shuffled"))
        ...                     # the first call is refused, the second answered out of order, the rest honestly
        upstream.requests[0].json["input"]

Vectors are those of the `fake` provider, unless `vector_of` is set: `upstream.vector(text, dim)` says what a test must
get back. `upstream.billed` is what the provider would put on its bill: the tokens of each call that it has answered.
"""

import asyncio
import base64
import gzip
import json
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np

from embedgate.core.vectors import Vectors
from embedgate.providers import fake
from loopback import LoopbackServer

Twist = Literal[
    "shuffled",  # items in reverse, each with its right index
    "no_index",
    "same_index",  # every index is 0
    "no_usage",
    "only_total",  # usage without prompt_tokens
    "one_missing",
    "one_extra",
    "short_vector",  # the last vector lacks one number
    "zeros",
    "nan",  # base64 only; as a list JSON has no such number
    "nested",  # every vector one level too deep
    "null_vector",
    "texts",  # numbers written as texts
    "booleans",
    "escaped_base64",  # with \/ for /
    "truncated_json",
]
"""One way in which an otherwise honest answer is odd or wrong."""

Ending = Literal["keep", "close", "half", "drop", "reset"]
"""keep: the connection stays open. close: closed after the answer. half: reset in the middle of the body.
drop, reset: ended or reset when the request has come, without an answer."""

CountTokens = Callable[[str | tuple[int, ...]], int]
"""What one input weighs on the bill."""

VectorOf = Callable[[str | tuple[int, ...], int], Vectors]
"""The vector of one input at a size, (dim,) float32."""

_NATIVE_DIMS = {"text-embedding-3-large": 3072, "text-embedding-3-small": 1536, "text-embedding-ada-002": 1536}


@dataclass(frozen=True, slots=True)
class Answer:
    """How one call is answered. `body` None is the honest body of an embeddings call, changed by `twist`.

    The answer waits for `gate`, then for `delay_s`.
    """

    status: int = 200
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    twist: Twist | None = None
    delay_s: float = 0.0
    gate: threading.Event | None = None
    ending: Ending = "keep"
    is_gzipped: bool = False


def error(
    status: int, message: str, *, code: str | None = None, kind: str = "error", headers: Mapping[str, str] | None = None
) -> Answer:
    """An error in the shape that OpenAI documents."""
    body = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return Answer(status, json.dumps(body).encode(), headers or {})


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as it came. Header names are in lower case; `connection` numbers connections from 1."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    connection: int

    @property
    def json(self) -> dict[str, Any]:
        """The body, which must be a JSON object."""
        content: dict[str, Any] = json.loads(self.body)
        return content


AnswerTo = Callable[[Seen], Answer]
"""How a call is answered that came so."""


class Upstream:
    """The running server. Made by `running_upstream`."""

    def __init__(self) -> None:
        """Listens at once; answers when its thread runs."""
        self.requests: list[Seen] = []
        self.billed: list[int] = []
        self.dim = 256
        self.obeys_base64 = True
        self.count_tokens: CountTokens = fake.count_tokens
        self.vector_of: VectorOf = fake.vector
        self._usual: Answer | AnswerTo = Answer()
        self._script: deque[Answer] = deque()
        self._server = LoopbackServer(self._serve)
        self._gates: dict[threading.Event, asyncio.Task[None]] = {}

    @property
    def base_url(self) -> str:
        """What a provider's base_url is set to."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._server.port

    @property
    def connections(self) -> int:
        """How many connections there have been."""
        return self._server.connections

    @property
    def open_connections(self) -> int:
        """How many of them are open now."""
        return self._server.open_connections

    def script(self, *answers: Answer) -> None:
        """Answer the next calls so, one each; after them as usual."""
        self._script.extend(answers)

    def usually(self, answer: Answer | AnswerTo) -> None:
        """Answer so whatever is not scripted, or as a function of the request says, which the server's thread calls."""
        self._usual = answer

    def reset(self) -> None:
        """Forget requests, bills, script and settings."""
        self.requests.clear()
        self.billed.clear()
        self._script.clear()
        self._usual = Answer()
        self.dim = 256
        self.obeys_base64 = True
        self.count_tokens = fake.count_tokens
        self.vector_of = fake.vector

    @staticmethod
    def vector(item: str | tuple[int, ...], dim: int) -> Vectors:
        """The vector that a call for `item` is answered with, (dim,) float32 of unit length."""
        return fake.vector(item, dim)

    async def run(self, started: Callable[[Callable[[], object]], None]) -> None:
        """Serve until stopped, and leave nothing open. started: called once with what stops it, from any thread."""
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        await self._server.start()
        started(lambda: loop.call_soon_threadsafe(stop.set))
        await stop.wait()
        await self._server.close()

    async def _passed(self, gate: threading.Event) -> None:
        """Return once the gate is set. One task looks for all who wait at it, a thousand if need be."""
        if gate not in self._gates:
            self._gates[gate] = asyncio.create_task(_set(gate))
            self._gates[gate].add_done_callback(lambda _: self._gates.pop(gate))
        await asyncio.shield(self._gates[gate])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        while True:
            seen = await read_request(reader, connection)
            self.requests.append(seen)
            answer = self._script.popleft() if self._script else self._usual
            if not isinstance(answer, Answer):
                answer = answer(seen)
            if answer.gate is not None:
                await self._passed(answer.gate)
            await asyncio.sleep(answer.delay_s)
            if answer.ending == "drop":
                return
            if answer.ending == "reset":
                reset_connection(writer)
                return
            head, body = self._response(seen, answer)
            if _is_billed(seen, answer):
                self.billed.append(sum(map(self.count_tokens, inputs_of(seen.json))))
            # In one piece: a second one would wait for the client's delayed acknowledgement of the first, 40 ms.
            writer.write(head + (body[: len(body) // 2] if answer.ending == "half" else body))
            await writer.drain()
            if answer.ending == "half":
                # Half of a body of a few bytes may still be in the kernel when the reset overtakes it, which is fine.
                reset_connection(writer)
            if answer.ending != "keep":
                return

    def _response(self, seen: Seen, answer: Answer) -> tuple[bytes, bytes]:
        body = answer.body
        if body is None:
            body = self._honest(seen.json, answer.twist) if seen.path.endswith("/embeddings") else b"{}"
        headers = {"content-type": "application/json", **answer.headers}
        if answer.is_gzipped:
            body = gzip.compress(body, 1)
            headers["content-encoding"] = "gzip"
        lines = [f"HTTP/1.1 {answer.status} Status", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode(), body

    def _honest(self, call: Mapping[str, Any], twist: Twist | None) -> bytes:
        dim = call.get("dimensions") or _NATIVE_DIMS.get(call["model"], self.dim)
        items = inputs_of(call)
        wants_base64 = self.obeys_base64 and call.get("encoding_format") == "base64"
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": _embedding(self.vector_of(item, dim), twist, wants_base64),
            }
            for index, item in enumerate(items)
        ]
        tokens = sum(map(self.count_tokens, items))
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        body = {"object": "list", "data": data, "model": call["model"], "usage": usage}
        _twisted(body, twist)
        text = json.dumps(body)
        if twist == "escaped_base64":
            text = text.replace("/", "\\/")
        return text.encode()[:-20] if twist == "truncated_json" else text.encode()


SomeUpstream = TypeVar("SomeUpstream", bound=Upstream)


@contextmanager
def on_a_thread(upstream: SomeUpstream) -> Iterator[SomeUpstream]:
    """An upstream on a thread of its own and a free port, stopped at the end."""
    started: Future[Callable[[], object]] = Future()
    thread = threading.Thread(target=lambda: asyncio.run(upstream.run(started.set_result)), name="upstream")
    thread.start()
    stop = started.result(timeout=60)
    try:
        yield upstream
    finally:
        stop()
        thread.join()


def running_upstream() -> AbstractContextManager[Upstream]:
    """One that answers embeddings."""
    return on_a_thread(Upstream())


async def read_request(reader: asyncio.StreamReader, connection: int) -> Seen:
    """The next request of a connection. Raises IncompleteReadError when there is none."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Seen(method, path, headers, body, connection)


def inputs_of(call: Mapping[str, Any]) -> list[str | tuple[int, ...]]:
    """The inputs of an embeddings call."""
    asked = call["input"]
    inputs = [asked] if isinstance(asked, str) or isinstance(asked[0], int) else asked
    return [item if isinstance(item, str) else tuple(item) for item in inputs]


def _is_billed(seen: Seen, answer: Answer) -> bool:
    """Whether vectors go out whole, right or wrong. What a body of a test's own says of its usage does not count."""
    has_vectors = answer.status == 200 and answer.body is None and seen.path.endswith("/embeddings")
    return has_vectors and answer.ending in ("keep", "close")


async def _set(gate: threading.Event) -> None:
    while not gate.is_set():
        await asyncio.sleep(0.005)


def reset_connection(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST instead of FIN."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _embedding(vector: Vectors, twist: Twist | None, as_base64: bool) -> Any:
    if twist == "zeros":
        vector = np.zeros_like(vector)
    if twist == "nan":
        vector = np.full_like(vector, np.nan)
    if twist == "nested":
        return [vector.tolist()]
    if twist == "null_vector":
        return None
    if twist == "texts":
        return [str(number) for number in vector.tolist()]
    if twist == "booleans":
        return [True] * len(vector)
    return base64.b64encode(vector.astype("<f4").tobytes()).decode() if as_base64 else vector.tolist()


def _twisted(body: dict[str, Any], twist: Twist | None) -> None:
    data = body["data"]
    match twist:
        case "shuffled":
            data.reverse()
        case "no_index":
            for item in data:
                del item["index"]
        case "same_index":
            for item in data:
                item["index"] = 0
        case "no_usage":
            del body["usage"]
        case "only_total":
            del body["usage"]["prompt_tokens"]
        case "one_missing":
            data.pop()
        case "one_extra":
            data.append(dict(data[-1], index=len(data)))
        case "short_vector":
            last = data[-1]["embedding"]
            data[-1]["embedding"] = last[:-1] if isinstance(last, list) else base64.b64encode(b"\0" * 4).decode()
        case _:
            pass
