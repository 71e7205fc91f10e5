"""The SDK of the ZIRI API in Python: `UserSDK` and `AsyncUserSDK`, with that SDK's names of options and calls.

Each is a thin layer over `Client`: its errors, its time limit and its connections.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, Self

from embedgate.client import DEFAULT_URL, Client
from embedgate.core.errors import MalformedRequest
from embedgate.core.types import Input

_NOT_SENT = frozenset({"ipAddress", "context"})
"""Options of calls that ZIRI's SDK takes and does not send: the gateway sees the address, and makes the context."""


class UserSDK:
    """Client of the ZIRI API, blocking. Thread-safe; `close` it, or use it as a context manager.

    Every call raises GatewayRefused, whose message begins as ZIRI's does, if the gateway answers with an error, and
    what `Client` raises if it gives no answer.
    """

    def __init__(
        self,
        apiKey: str,  # noqa: N803 - the name in that SDK, as the other two
        proxyUrl: str = DEFAULT_URL,  # noqa: N803
        timeoutMs: float = 30_000,  # noqa: N803
    ) -> None:
        """Opens no connection yet.

        proxyUrl: of the gateway. timeoutMs: of one call. Raises ConfigError for an address or a key that cannot be
        used.
        """
        self._client = Client(apiKey, proxyUrl, timeout_s=timeoutMs / 1_000, max_retries=0)

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def embeddings(
        self,
        *,
        provider: str,
        model: str,
        input: str | Sequence[Input],  # noqa: A002 - the name of the field in the API
        **parameters: Any,
    ) -> dict[str, Any]:
        """Embed one input or several. Returns the answer's JSON, with the vectors in `data` and the cost in `_meta`."""
        return self._client.embeddings(provider=provider, model=model, input=input, **_sent(parameters))

    def chatCompletions(  # noqa: N802 - the name in that SDK
        self, *, provider: str, model: str, messages: Sequence[Mapping[str, Any]], **parameters: Any
    ) -> dict[str, Any]:
        """Chat. Returns the answer's JSON."""
        return self._client.chat_completions(provider=provider, model=model, messages=messages, **_sent(parameters))

    def images(self, **_parameters: Any) -> NoReturn:
        """Raises MalformedRequest: the gateway makes no images."""
        raise MalformedRequest("This gateway makes no images. Ask the provider for them.")


class AsyncUserSDK:
    """Client of the ZIRI API for programs with an event loop: calls run in threads. Use it as a context manager.

    A call that is cancelled ends with its time limit, in its thread. Raises what `UserSDK` raises.
    """

    def __init__(
        self,
        apiKey: str,  # noqa: N803 - the name in that SDK, as the other two
        proxyUrl: str = DEFAULT_URL,  # noqa: N803
        timeoutMs: float = 30_000,  # noqa: N803
    ) -> None:
        """As `UserSDK`."""
        self._sdk = UserSDK(apiKey, proxyUrl, timeoutMs)

    async def __aenter__(self) -> Self:
        """The client itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._sdk.close()

    async def embeddings(self, **parameters: Any) -> dict[str, Any]:
        """Embed one input or several, as `UserSDK.embeddings`."""
        return await asyncio.to_thread(self._sdk.embeddings, **parameters)

    async def chatCompletions(self, **parameters: Any) -> dict[str, Any]:  # noqa: N802 - the name in that SDK
        """Chat, as `UserSDK.chatCompletions`."""
        return await asyncio.to_thread(self._sdk.chatCompletions, **parameters)

    async def images(self, **parameters: Any) -> NoReturn:
        """Raises MalformedRequest, as `UserSDK.images`."""
        self._sdk.images(**parameters)


def _sent(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if name not in _NOT_SENT}
