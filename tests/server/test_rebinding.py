"""A stored address whose name leads elsewhere later: no request goes into this network."""

import socket
from typing import Any

import pytest

from admin_calls import Api
from upstream import running_upstream

MODEL = "openai/text-embedding-3-small"


async def test_a_name_that_led_to_the_internet_when_it_was_stored_is_checked_when_it_is_called(
    api: Api, user_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    leads_to = "1.1.1.1"

    def resolve(host: str, port: Any, *_: object, **__: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (leads_to, port))]

    with running_upstream() as upstream:
        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        address = f"https://rebound.example:{upstream.port}/v1"
        await api("PUT", "/api/providers/openai", {"base_url": address, "key": "sk-far-side-0123456789"})
        leads_to = "127.0.0.1"
        tried = await api("POST", "/api/providers/openai/test", {"model": MODEL})
        assert (tried["ok"], "allow_private" in tried["error"]) == (False, True)
        await user_api("POST", "/v1/embeddings", {"model": MODEL, "input": "a text"}, status=502)
        assert upstream.connections == 0
        refused = await api("PUT", "/api/providers/openai", {"base_url": address, "key": "sk-other"}, status=400)
        assert "allow_private" in refused["error"]
