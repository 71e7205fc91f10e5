"""Plain HTTP over a real socket, without a client library that would mend what the tests want to see."""

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_S = 120


@dataclass(frozen=True)
class Reply:
    """An answer: header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """The body, which must be a JSON object."""
        content: dict[str, Any] = json.loads(self.body)
        return content


def call(
    url: str,
    path: str,
    body: bytes | Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    method: str | None = None,
) -> Reply:
    """One request on a connection of its own: POST with a body, else GET."""
    parts = urlsplit(url)
    raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    with contextlib.closing(connection):
        connection.request(method or ("GET" if raw is None else "POST"), path, raw, dict(headers or {}))
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, found, response.read())


@contextlib.contextmanager
def raw_socket(url: str) -> Iterator[socket.socket]:
    """A bare connection."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=TIMEOUT_S) as connection:
        yield connection


def read_status(connection: socket.socket) -> int:
    """The status of the answer that comes next; 0 if the connection ends without one."""
    head = b""
    while b"\r\n" not in head:
        with contextlib.suppress(ConnectionResetError):
            chunk = connection.recv(4096)
            if not chunk:
                return 0
            head += chunk
            continue
        return 0
    return int(head.split(b" ", 2)[1])
