"""A gateway whose chat models are on a loopback port, and callers who read its streams byte by byte."""

import contextlib
import json
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from administrator import Administrator
from chat_upstream import ChatUpstream
from crowd import LOCAL_OFF
from embedgate.catalog import Catalog
from embedgate.core.models import Price
from embedgate.core.types import LedgerEntry
from embedgate.govern.keys import Key
from running import RunningGateway, gateway
from waiting import wait_until
from wire import raw_socket

MODEL = "openai/gpt-4o-mini"
FALLBACK = "anthropic/claude-haiku-4-5"
UPSTREAM_KEYS = {"OPENAI_API_KEY": "sk-openai-upstream", "ANTHROPIC_API_KEY": "sk-anthropic-upstream"}
MESSAGES: list[Any] = [{"role": "user", "content": "How do you do ?"}]
STREAM: dict[str, Any] = {"model": MODEL, "messages": MESSAGES, "stream": True}


def price_of(model: str) -> Price:
    """The list price of a model."""
    found = Catalog.builtin().find(model)
    assert found is not None
    assert found.routes[0].price is not None
    return found.routes[0].price


def cost_of(model: str, read: int, written: int) -> int:
    """Picodollars for tokens read and written."""
    price = price_of(model)
    return read * price.picodollars_per_token + written * (price.output_picodollars_per_token or 0)


@contextlib.contextmanager
def chat_gateway(data_dir: Path, upstream: ChatUpstream, settings: str = "") -> Iterator[RunningGateway]:
    """A gateway with two providers, both of them the upstream. settings: further ones."""
    providers = "".join(f'[providers.{name}]\nbase_url = "{upstream.base_url}"\n' for name in ("openai", "anthropic"))
    with gateway(data_dir, LOCAL_OFF + providers + settings, UPSTREAM_KEYS) as running:
        yield running


def entry_of(admin: Administrator, key: Key) -> LedgerEntry:
    """The one line of a key in the ledger, once it is there."""
    wait_until("the request is in the ledger", lambda: bool(admin.entries(key)))
    (entry,) = admin.entries(key)
    return entry


@dataclass
class Listener:
    """A caller with a stream on a bare connection. `head` is in lower case; `body` is what has been read of it."""

    connection: socket.socket
    head: str
    body: bytes

    def read_until(self, mark: bytes) -> None:
        """Read until the mark is in the body."""
        while mark not in self.body:
            assert self._read(), f"the answer ended before {mark!r}"

    def read_to_the_end(self) -> bytes:
        """The whole body, without the signs of its chunks."""
        while self._read():
            pass
        return _joined(self.body)

    def leave(self) -> None:
        """Close the connection."""
        self.connection.close()

    def _read(self) -> int:
        piece = self.connection.recv(1 << 20)
        self.body += piece
        return len(piece)


@contextlib.contextmanager
def listening(
    running: RunningGateway,
    key: str,
    body: Mapping[str, Any],
    path: str = "/v1/chat/completions",
    receive_bytes: int | None = None,
    headers: str = "",
) -> Iterator[Listener]:
    """Ask for a stream, and wait for the head of the answer. receive_bytes: how much the system may take in advance.

    headers: more of them, as lines.
    """
    with raw_socket(running.url) as connection:
        if receive_bytes is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        ask(connection, key, body, path, headers)
        received = b""
        while b"\r\n\r\n" not in received:
            piece = connection.recv(4096)
            assert piece, "the connection ended before the head of the answer"
            received += piece
        head, _, rest = received.partition(b"\r\n\r\n")
        yield Listener(connection, head.decode().lower(), rest)


def ask(
    connection: socket.socket,
    key: str,
    body: Mapping[str, Any],
    path: str = "/v1/chat/completions",
    headers: str = "",
    *,
    is_last: bool = True,
) -> None:
    """Send one request. is_last: the connection ends after it."""
    raw = json.dumps(body).encode()
    ending = "connection: close\r\n" if is_last else ""
    head = f"POST {path} HTTP/1.1\r\nhost: gateway\r\n{ending}x-api-key: {key}\r\n{headers}"
    connection.sendall(f"{head}content-length: {len(raw)}\r\n\r\n".encode() + raw)


def _joined(chunks: bytes) -> bytes:
    """The body of chunks; as it is, if they do not come to an end."""
    parts = []
    while chunks:
        size, _, rest = chunks.partition(b"\r\n")
        n = int(size, 16)
        parts.append(rest[:n])
        chunks = rest[n + 2 :]
    return b"".join(parts)


def resident_bytes(running: RunningGateway, name: str = "VmRSS") -> int:
    """Memory of the gateway: now, or `VmHWM`, the most since `forget_peak`."""
    lines = Path(f"/proc/{running.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def forget_peak(running: RunningGateway) -> None:
    """Let the peak begin again at what is held now."""
    Path(f"/proc/{running.process.pid}/clear_refs").write_text("5")
