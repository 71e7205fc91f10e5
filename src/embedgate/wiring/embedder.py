"""An embedder that is a gateway in this process, for commands that need no server."""

import asyncio
import contextlib
import uuid
from collections.abc import Iterator, Sequence

from embedgate.config import Loaded
from embedgate.core.models import Truncate
from embedgate.core.ports import CallLimits, Embedder
from embedgate.core.types import EmbedRequest, InputType
from embedgate.core.vectors import Vectors
from embedgate.wiring.gateway import OPERATOR, Gateway, open_gateway


@contextlib.contextmanager
def open_embedder(
    loaded: Loaded, model: str, dim: int | None = None, truncate: Truncate = "none"
) -> Iterator[Embedder]:
    """A gateway in this process, called directly instead of over HTTP. Raises ConfigError.

    Its requests go the whole way, ledger included. They need no key: who runs this owns the data folder.
    """
    with asyncio.Runner() as runner:
        gateway = runner.run(open_gateway(loaded))
        try:
            limits = CallLimits(loaded.settings.limits.max_inputs, loaded.settings.limits.max_tokens)
            yield _InProcess(runner, gateway, model, dim, truncate, limits)
        finally:
            runner.run(gateway.aclose())


class _InProcess(Embedder):
    """Implements the `Embedder` port. For one thread: it runs the event loop."""

    def __init__(
        self,
        runner: asyncio.Runner,
        gateway: Gateway,
        model: str,
        dim: int | None,
        truncate: Truncate,
        limits: CallLimits,
    ) -> None:
        self._runner = runner
        self._gateway = gateway
        self._name, self._provider = gateway.catalog.parse_model_name(model)
        self._known = gateway.find_model(self._name)
        self._dim = dim
        self._truncate: Truncate = truncate
        self._limits = limits

    @property
    def model(self) -> str:
        return self._known.id if self._known else self._name

    @property
    def space(self) -> str:
        return (self._known and self._known.space) or self.model

    @property
    def dim(self) -> int:
        native = self._known.dims.default if self._known and self._known.dims else None
        return self._dim or native or super().dim

    @property
    def call_limits(self) -> CallLimits:
        return self._limits

    def embed(self, texts: Sequence[str], input_type: InputType | None = None) -> Vectors:
        request = EmbedRequest(
            self._name,
            tuple(texts),
            dim=self._dim,
            input_type=input_type,
            truncate=self._truncate,
            provider=self._provider,
        )
        request_id = f"req_{uuid.uuid4().hex}"
        return self._runner.run(self._gateway.pipeline.embed_as(request_id, OPERATOR, request)).vectors
