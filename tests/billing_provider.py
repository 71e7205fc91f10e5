"""A provider on a loopback port that keeps its own bill, and breaks in every way after it has billed.

    with billing_provider() as host:
        host.next_calls("close", "break")   # the next two calls are billed and get no answer
        host.every_call("hang")             # so is every call after them, until `host.let_go()`
        ...
        host.bill                           # one BilledCall for each call that was worked on, answered or not
        host.input_tokens, host.calls_read  # what a provider would put on its invoice; calls that it has read

It serves embeddings, chat completions (whole and streamed) and rerank on one address, in OpenAI's form (rerank: that
of Cohere under `/v2/rerank`, else that of Jina and Voyage). A call is on the bill from the moment it is read whole,
before anything is answered: whoever dies after that owes it. The bill lives in the process of the test, so it survives
a gateway that is killed. `count_tokens` is what an input weighs: set it to `crowd.weight` for OpenAI's own count.

Compare with the ledger: never below the bill, and above it by no more than what is marked as unconfirmed.
"""

import asyncio
import json
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

from chat_upstream import ChatUpstream, chat_events, chat_head, chat_usage, whole_chat
from upstream import Answer, Seen, Twist, inputs_of, on_a_thread, read_request, reset_connection

Mode = Literal[
    "normal",  # billed and answered
    "close",  # billed; the connection is closed without a byte
    "reset",  # billed; the connection is reset without a byte
    "break",  # billed; the head of the answer and some of its body, then the connection is reset
    "hang",  # billed; no byte until `let_go`, then the connection is closed
    "slow",  # billed; answered after `let_go`
    "wrong_size",  # billed; vectors that lack numbers, scores that are missing; with usage, as the next three
    "wrong_count",  # billed; one vector or score too few
    "nan",  # billed; numbers that are none
    "zeros",  # billed; vectors of zeros
    "no_usage",  # billed; a right answer that does not say what was used
    "wrong_and_silent",  # billed; wrong_size that does not say what was used
    "garbage",  # billed; 200 with something that is not JSON
    "gateway_timeout",  # billed; 504 of a proxy in front, which gave up waiting
    "error",  # not billed: 500
    "busy",  # not billed: 429
    "refused",  # not billed: 400
]
FREE: frozenset[Mode] = frozenset({"error", "busy", "refused"})
"""Modes in which nothing is billed."""
SILENT: frozenset[Mode] = frozenset(
    {"close", "reset", "break", "hang", "wrong_and_silent", "garbage", "gateway_timeout"}
)
"""Modes in which a call is billed and its caller is not told for how much."""

ModeOf = Callable[[Seen], Mode]
"""How a call is treated that came so. Called on the provider's thread."""

_TWISTS: Mapping[Mode, Twist] = {"wrong_count": "one_missing", "nan": "nan", "zeros": "zeros", "no_usage": "no_usage"}
_STATUSES: Mapping[Mode, int] = {"gateway_timeout": 504, "error": 500, "busy": 429, "refused": 400}


@dataclass(frozen=True, slots=True)
class BilledCall:
    """One line of the bill. `searches` are those of a rerank call; `texts` the first words of what was sent."""

    action: Literal["embedding", "chat", "rerank"]
    model: str
    input_tokens: int
    output_tokens: int
    searches: int
    mode: Mode
    texts: tuple[str, ...]


class BillingProvider(ChatUpstream):
    """The running provider. Made by `billing_provider`."""

    def __init__(self) -> None:
        """Listens at once; answers when its thread runs."""
        super().__init__()
        self.bill: list[BilledCall] = []
        self._mode: Mode | ModeOf = "normal"
        self._modes: deque[Mode] = deque()
        self._released = threading.Event()

    @property
    def calls_read(self) -> int:
        """Calls that were read whole, billed or not."""
        return len(self.requests)

    @property
    def calls_billed(self) -> int:
        """Lines of the bill."""
        return len(self.bill)

    @property
    def input_tokens(self) -> int:
        """Input tokens on the bill."""
        return sum(line.input_tokens for line in self.bill)

    @property
    def output_tokens(self) -> int:
        """Output tokens on the bill."""
        return sum(line.output_tokens for line in self.bill)

    def calls_by_mode(self) -> Counter[Mode]:
        """Lines of the bill by what became of the call."""
        return Counter(line.mode for line in self.bill)

    def next_calls(self, *modes: Mode) -> None:
        """Treat the next calls so, one each; after them as usual."""
        self._modes.extend(modes)

    def every_call(self, mode: Mode | ModeOf) -> None:
        """Treat every call that `next_calls` says nothing of so, or as a function of it says."""
        self._mode = mode

    def let_go(self) -> None:
        """Answer the calls that are slow, close those that hang, and let those that come later hang no more."""
        self._released.set()

    def hold_again(self) -> None:
        """Let calls hang again after `let_go`."""
        self._released.clear()

    def reset(self) -> None:
        """Forget bill, requests, script and settings."""
        super().reset()
        self.bill.clear()
        self._modes.clear()
        self._mode = "normal"
        self._released.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        while True:
            seen = await read_request(reader, connection)
            usual = self._mode
            mode = self._modes.popleft() if self._modes else usual(seen) if callable(usual) else usual
            if mode not in FREE:
                self.bill.append(self._billed(seen, mode))
            self.requests.append(seen)  # after the bill: who waits for a call finds it there
            if not await self._answer(seen, mode, writer):
                return

    async def _answer(self, seen: Seen, mode: Mode, writer: asyncio.StreamWriter) -> bool:
        """Treat one call so. Whether the connection can go on."""
        if mode in ("hang", "slow"):
            await self._passed(self._released)
        if mode in ("close", "hang"):
            return False
        if mode == "reset":
            reset_connection(writer)
            return False
        if mode in _STATUSES:
            writer.write(_failed(_STATUSES[mode]))
            await writer.drain()
            return True
        head, body = self._reply(seen, mode)
        if mode == "break":
            writer.write(head + body[: len(body) // 2])
            await writer.drain()
            reset_connection(writer)
            return False
        writer.write(head + body)
        await writer.drain()
        return True

    def _reply(self, seen: Seen, mode: Mode) -> tuple[bytes, bytes]:
        if mode == "garbage":
            return _whole(b"<html>the wrong page</html>")
        if seen.path.endswith("/chat/completions"):
            return self._chat(seen, mode)
        if "rerank" in seen.path:
            return _whole(json.dumps(self._ranked(seen, mode)).encode())
        return self._vectors(seen, mode)

    def _vectors(self, seen: Seen, mode: Mode) -> tuple[bytes, bytes]:
        if mode not in ("wrong_size", "wrong_and_silent"):
            return self._response(seen, Answer(twist=_TWISTS.get(mode)))
        call = seen.json
        asked = call.get("dimensions")
        answer = json.loads(self._honest({**call, "dimensions": (asked or 1536) // 2}, None))
        if mode == "wrong_and_silent":
            del answer["usage"]
        return _whole(json.dumps(answer).encode())

    def _chat(self, seen: Seen, mode: Mode) -> tuple[bytes, bytes]:
        call = seen.json
        words = self.reply_to(call["messages"]).split(" ")
        usage = chat_usage(call["messages"], words) if mode not in ("no_usage", "wrong_and_silent") else None
        if call.get("stream"):
            events = [*chat_events(call, words, usage), b"[DONE]"]
            body = b"".join(
                b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (b"data: %s\n\n" % data for data in events)
            )
            return chat_head("text/event-stream", "transfer-encoding: chunked"), body + b"0\r\n\r\n"
        body = whole_chat(call["model"], words, usage)
        return chat_head("application/json", f"content-length: {len(body)}"), body

    def _ranked(self, seen: Seen, mode: Mode) -> dict[str, Any]:
        line = self._billed(seen, mode)
        n = len(seen.json["documents"])
        results = [{"index": index, "relevance_score": 1 / (1 + index)} for index in range(n)]
        if mode in ("wrong_size", "wrong_count", "wrong_and_silent", "zeros"):
            results.pop()
        if mode == "nan":
            results[-1]["relevance_score"] = float("nan")
        if mode in ("no_usage", "wrong_and_silent"):
            return {"results": results}
        if seen.path.endswith("/v2/rerank"):
            return {"results": results, "meta": {"billed_units": {"search_units": line.searches}}}
        return {"results": results, "usage": {"total_tokens": line.input_tokens}}

    def _billed(self, seen: Seen, mode: Mode) -> BilledCall:
        call = seen.json
        model = str(call["model"])
        if seen.path.endswith("/chat/completions"):
            words = self.reply_to(call["messages"]).split(" ")
            usage = chat_usage(call["messages"], words)
            told = tuple(str(message.get("content"))[:60] for message in call["messages"])
            return BilledCall("chat", model, usage["prompt_tokens"], usage["completion_tokens"], 0, mode, told)
        if "rerank" in seen.path:
            documents: Sequence[str] = call["documents"]
            query = self.count_tokens(call["query"])
            tokens = sum(query + self.count_tokens(document) for document in documents)
            searches = -(-len(documents) // 100)
            return BilledCall("rerank", model, tokens, 0, searches, mode, tuple(text[:60] for text in documents))
        items = inputs_of(call)
        tokens = sum(map(self.count_tokens, items))
        return BilledCall("embedding", model, tokens, 0, 0, mode, tuple(str(item)[:60] for item in items))


def billing_provider() -> AbstractContextManager[BillingProvider]:
    """One on a thread of its own and a free port, stopped at the end."""
    return on_a_thread(BillingProvider())


def _whole(body: bytes) -> tuple[bytes, bytes]:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode(), body


def _failed(status: int) -> bytes:
    body = json.dumps({"error": {"message": "told to fail", "type": "error", "code": None}}).encode()
    head = f"HTTP/1.1 {status} Status\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body
