"""Many callers at once, each on a connection of its own, in either dialect; some leave before they are answered."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from embedgate.inference.cl100k import load_cl100k
from running import RunningGateway
from waiting import PATIENCE_S
from wire import Reply, call

Dialect = Literal["openai", "ziri"]
MODEL = "openai/text-embedding-3-small"
LOCAL_OFF = """
    [providers.local]
    enabled = false
"""


_TOKENIZER = load_cl100k(None)


def weight(item: str | tuple[int, ...]) -> int:
    """Tokens as OpenAI counts and bills them."""
    assert _TOKENIZER is not None
    return _TOKENIZER.count(item) if isinstance(item, str) else len(item)


@dataclass(frozen=True)
class Caller:
    """One who asks for the vector of a text, and goes away without an answer once `leaves` is set."""

    text: str
    key: str = field(repr=False)
    dialect: Dialect = "openai"
    leaves: asyncio.Event | None = None


def in_both_dialects(texts: Sequence[str], key: str) -> list[Caller]:
    """A caller for each text: the first half in one dialect, the others in the other."""
    half = len(texts) // 2
    return [Caller(text, key, "openai" if number < half else "ziri") for number, text in enumerate(texts)]


async def all_at_once(url: str, callers: Sequence[Caller]) -> list[Reply | None]:
    """What each caller is answered; None for one who left."""
    return await asyncio.gather(*(exchange(url, caller) for caller in callers))


def ask(running: RunningGateway, callers: Sequence[Caller]) -> list[Reply]:
    """What each of callers who stay is answered, all at once."""
    replies = [reply for reply in asyncio.run(all_at_once(running.url, callers)) if reply is not None]
    assert len(replies) == len(callers)
    return replies


async def exchange(url: str, caller: Caller) -> Reply | None:
    """One request. None if the caller has left, or the connection has ended, before the answer began.

    Raises ConnectionError. The body may be a part of the whole if the gateway is killed.
    """
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write(_request(address.netloc, caller))
        answer = asyncio.ensure_future(reader.read())
        leaving = asyncio.ensure_future(caller.leaves.wait()) if caller.leaves else None
        waits = [answer] if leaving is None else [answer, leaving]
        done, pending = await asyncio.wait(waits, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        assert done, "no answer came"
        return _reply(answer.result()) if answer in done else None
    finally:
        writer.transport.abort()


def _request(host: str, caller: Caller) -> bytes:
    wish: dict[str, object] = {"model": MODEL, "input": caller.text, "encoding_format": "base64"}
    path = "/v1/embeddings"
    if caller.dialect == "ziri":
        provider, _, model = MODEL.partition("/")
        wish |= {"provider": provider, "model": model}
        path = "/api/embeddings"
    body = json.dumps(wish).encode()
    # HTTP/1.0: the answer is not in chunks and ends with the connection.
    head = f"POST {path} HTTP/1.0\r\nhost: {host}\r\nx-api-key: {caller.key}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _reply(answer: bytes) -> Reply | None:
    head, is_whole, body = answer.partition(b"\r\n\r\n")
    if not is_whole:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Reply(int(first.split(" ")[1]), headers, body)


def metric(running: RunningGateway, name: str, **labels: str) -> float:
    """The value of one metric; 0 if it has not been counted yet."""
    text = call(running.url, "/metrics").body.decode()
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return next((sample.value for sample in samples if sample.name == name and sample.labels == labels), 0.0)
