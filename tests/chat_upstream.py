"""A chat model of the OpenAI format on a loopback port, streaming or not, honest until told otherwise.

    with running_chat_upstream() as upstream:
        upstream.script_chats(Chat(events=[b'{"a":1}'], ending="reset"))
        ...                     # the first call gets one event and a reset connection, the rest honest answers
        upstream.requests[0].json["messages"]

Honest answers say `upstream.reply_to(messages)`, word by word, and count words as tokens. `upstream.sent_bytes` is what
has gone out of bodies; `upstream.left_at_s` is when callers closed the connection before their answer was complete.
Embeddings are answered as by `upstream.Upstream`.
"""

import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

from loopback import unless_left
from upstream import Answer, Seen, Upstream, on_a_thread, read_request, reset_connection

Ending = Literal["done", "close", "reset"]
"""done: as it should be. close, reset: the connection ends after the last event, without the end of the body."""

Messages = Sequence[dict[str, Any]]
LAST_WORD = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Chat:
    """How one completion is answered. `events` None is the honest answer; else the data of the events of a stream.

    `repeat` times all events. The answer waits for `gate` before its head, and for `pause` after the first event.
    `comments` go before the events, which wait for `silence` after them.
    `failure` is answered instead of everything else. `counts` False leaves the usage out.
    """

    events: Sequence[bytes] | None = None
    repeat: int = 1
    gate: threading.Event | None = None
    pause: threading.Event | None = None
    comments: bytes = b""
    silence: threading.Event | None = None
    ending: Ending = "done"
    failure: Answer | None = None
    counts: bool = True
    cached_tokens: int = 0


class ChatUpstream(Upstream):
    """The running server. Made by `running_chat_upstream`."""

    def __init__(self) -> None:
        """Listens at once; answers when its thread runs."""
        super().__init__()
        self.reply_to: Callable[[Messages], str] = _greeting
        self.sent_bytes = 0
        self.left_at_s: list[float] = []
        self.chats_billed: list[tuple[int, int]] = []
        self._chats: deque[Chat] = deque()

    def script_chats(self, *chats: Chat) -> None:
        """Answer the next completions so, one each; after them honestly."""
        self._chats.extend(chats)

    def reset(self) -> None:
        """Forget requests, bills, script and settings."""
        super().reset()
        self._chats.clear()
        self.reply_to = _greeting
        self.sent_bytes = 0
        self.left_at_s.clear()
        self.chats_billed.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        while True:
            seen = await read_request(reader, connection)
            self.requests.append(seen)
            if not seen.path.endswith("/chat/completions"):
                head, body = self._response(seen, Answer())
                writer.write(head + body)
                continue
            chat = self._chats.popleft() if self._chats else Chat()
            try:
                if not await unless_left(reader, self._speak(seen, chat, writer)):
                    return
            except ConnectionError:
                self.left_at_s.append(time.monotonic())
                return

    async def _speak(self, seen: Seen, chat: Chat, writer: asyncio.StreamWriter) -> bool:
        """Answer one completion. Whether the connection can go on."""
        if chat.gate is not None:
            await self._passed(chat.gate)
        if chat.failure is not None:
            head, body = self._response(seen, chat.failure)
            if chat.failure.ending != "keep":
                reset_connection(writer)
                return False
            writer.write(head + body)
            return True
        call = seen.json
        words = self.reply_to(call["messages"]).split(" ")
        usage = chat_usage(call["messages"], words, chat.cached_tokens)
        self.chats_billed.append((usage["prompt_tokens"], usage["completion_tokens"]))
        if not call.get("stream"):
            body = whole_chat(call["model"], words, usage if chat.counts else None)
            writer.write(chat_head("application/json", f"content-length: {len(body)}") + body)
            await writer.drain()
            return True
        writer.write(chat_head("text/event-stream", "transfer-encoding: chunked"))
        await self._events(chat, chat_events(call, words, usage if chat.counts else None), writer)
        if chat.ending == "reset":
            reset_connection(writer)
        if chat.ending == "done":
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        return chat.ending == "done"

    async def _events(self, chat: Chat, honest: Sequence[bytes], writer: asyncio.StreamWriter) -> None:
        bodies = [b"data: %s\n\n" % data for data in (honest if chat.events is None else chat.events)]
        if chat.ending == "done" and chat.events is None:
            bodies.append(LAST_WORD)
        if chat.comments:
            writer.write(b"%x\r\n%s\r\n" % (len(chat.comments), chat.comments))
            await writer.drain()
        if chat.silence is not None:
            await writer.drain()
            await self._passed(chat.silence)
        for position, body in enumerate(bodies * chat.repeat):
            if position == 1 and chat.pause is not None:
                await self._passed(chat.pause)
            writer.write(b"%x\r\n%s\r\n" % (len(body), body))
            await writer.drain()
            self.sent_bytes += len(body)


def running_chat_upstream() -> AbstractContextManager[ChatUpstream]:
    """One on a thread of its own and a free port, stopped at the end."""
    return on_a_thread(ChatUpstream())


def _greeting(_messages: Messages) -> str:
    return "Hello there , how are you ?"


def chat_head(content_type: str, length: str) -> bytes:
    """The head of a good answer. length: the header that says where its body ends."""
    return f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\n{length}\r\n\r\n".encode()


def chat_usage(messages: Messages, words: Sequence[str], cached_tokens: int = 0) -> dict[str, Any]:
    """What an honest answer of these words says that it used."""
    read = sum(len(str(message.get("content")).split(" ")) for message in messages)
    return {
        "prompt_tokens": read,
        "completion_tokens": len(words),
        "total_tokens": read + len(words),
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }


def whole_chat(model: str, words: Sequence[str], usage: dict[str, Any] | None) -> bytes:
    """The body of an answer that is not streamed."""
    message = {"role": "assistant", "content": " ".join(words)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    counted = {"usage": usage} if usage else {}
    body = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model, "choices": [choice]}
    return json.dumps(body | counted, indent=1).encode()  # as some hosts write it, to see that nothing is written anew


def chat_events(call: dict[str, Any], words: Sequence[str], usage: dict[str, Any] | None) -> list[bytes]:
    """The data of the events of a streamed answer, without its last word."""
    counts = bool(usage) and (call.get("stream_options") or {}).get("include_usage")
    texts = [words[0], *(f" {word}" for word in words[1:])]
    deltas: list[tuple[dict[str, str], str | None]] = [({"role": "assistant", "content": ""}, None)]
    deltas += [({"content": text}, None) for text in texts]
    deltas += [({}, "stop")]
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": call["model"]}
    empty = {"usage": None} if counts else {}
    events: list[dict[str, Any]] = [
        {**base, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **empty}
        for delta, reason in deltas
    ]
    if counts:
        events.append({**base, "choices": [], "usage": usage})
    return [json.dumps(event).encode() for event in events]
