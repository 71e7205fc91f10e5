"""Calls of the administration API, straight into the application, without a socket."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from embedgate.server.app import Application


@dataclass(frozen=True)
class Reply:
    """One answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Api:
    """An application, and the key that requests come with; "" for none."""

    application: Application
    key: str

    def with_key(self, key: str) -> "Api":
        """The same application, asked by somebody else."""
        return Api(self.application, key)

    async def __call__(self, method: str, target: str, body: object = None, status: int | None = None) -> Any:
        """The JSON of the answer, None if it has no body. target: path and query. status: what it must be."""
        reply = await self.reply(method, target, body)
        expected = {201, 200, 204} if status is None else {status}
        assert reply.status in expected, reply.body
        return reply.json if reply.body else None

    async def reply(self, method: str, target: str, body: object = None, address: str = "192.0.2.7") -> Reply:
        """The whole answer. body: bytes as they are, anything else as JSON. address: where the request comes from."""
        path, _, query = target.partition("?")
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": raw}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": unquote(path),
            "raw_path": quote(path, safe="/%").encode(),
            "query_string": query.encode(),
            "headers": [(b"x-api-key", self.key.encode())] if self.key else [],
            "client": (address, 4711),
        }
        await self.application(scope, receive, send)
        start, *rest = sent
        headers = {name.decode(): value.decode() for name, value in start["headers"]}
        return Reply(start["status"], headers, b"".join(message["body"] for message in rest))
