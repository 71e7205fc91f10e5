"""Protocols of a dialect: what a file in `dialects/` offers to the handlers. A module or an object can be one."""

from collections.abc import Callable, Mapping
from typing import Protocol

from embedgate.core import types
from embedgate.core.chat import ChatResult, ChatStream
from embedgate.core.errors import GatewayError
from embedgate.core.types import ChatRequest, EmbedRequest, EmbedResult
from embedgate.server.answer import Answer

SplitName = Callable[[str], tuple[str, str | None]]
"""Takes `author/name:provider` apart."""


class Dialect(Protocol):
    """Protocol of a dialect that embeds."""

    @property
    def NAME(self) -> types.Dialect:  # noqa: N802 - a constant of the module
        """Its name in the ledger."""
        ...

    def secret(self, headers: Mapping[bytes, bytes]) -> str | None:
        """The credential that came with a request."""
        ...

    def read(self, body: bytes, split_name: SplitName) -> tuple[EmbedRequest, str]:
        """The request in a body, and the requested encoding format."""
        ...

    def write(self, result: EmbedResult, encoding_format: str, request_id: str) -> Answer:
        """The answer to a served request."""
        ...

    def write_error(self, error: GatewayError, request_id: str) -> Answer:
        """The answer to a failed request."""
        ...


class ChatDialect(Dialect, Protocol):
    """Protocol of a dialect that chats, too."""

    def read_chat(self, body: bytes, split_name: SplitName) -> ChatRequest:
        """The chat completion in a body."""
        ...

    def write_chat(self, completion: ChatResult | ChatStream, request_id: str) -> Answer:
        """The answer to a chat completion that was served, or has begun."""
        ...
