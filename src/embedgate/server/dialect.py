"""Protocols of a dialect: what a file in `dialects/` offers to the handlers. A module or an object can be one."""

from collections.abc import Callable, Mapping
from typing import Protocol

from embedgate.core import types
from embedgate.core.chat import ChatResult, ChatStream
from embedgate.core.errors import GatewayError
from embedgate.core.rerank import RerankRequest, RerankResult
from embedgate.core.types import ChatRequest, EmbedRequest, EmbedResult
from embedgate.server.answer import Answer

SplitName = Callable[[str], tuple[str, str | None]]
"""Takes `author/name:provider` apart."""


class AnyDialect(Protocol):
    """Protocol of every dialect: who asks, and what a failure looks like."""

    @property
    def NAME(self) -> types.Dialect:  # noqa: N802 - a constant of the module
        """Its name in the ledger."""
        ...

    def secret(self, headers: Mapping[bytes, bytes]) -> str | None:
        """The credential that came with a request."""
        ...

    def write_error(self, error: GatewayError, request_id: str) -> Answer:
        """The answer to a failed request."""
        ...


class Dialect(AnyDialect, Protocol):
    """Protocol of a dialect that embeds."""

    def read(self, body: bytes, split_name: SplitName) -> tuple[EmbedRequest, str]:
        """The request in a body, and the requested encoding format."""
        ...

    def write(self, result: EmbedResult, encoding_format: str, request_id: str) -> Answer:
        """The answer to a served request."""
        ...


class ChatDialect(Dialect, Protocol):
    """Protocol of a dialect that chats, too."""

    def read_chat(self, body: bytes, split_name: SplitName) -> ChatRequest:
        """The chat completion in a body."""
        ...

    def write_chat(self, completion: ChatResult | ChatStream, request_id: str) -> Answer:
        """The answer to a chat completion that was served, or has begun."""
        ...


class RerankDialect(AnyDialect, Protocol):
    """Protocol of a dialect that reranks."""

    def read_rerank(self, body: bytes, split_name: SplitName) -> RerankRequest:
        """The rerank request in a body."""
        ...

    def write_rerank(self, result: RerankResult, request_id: str) -> Answer:
        """The answer to a served rerank request."""
        ...
