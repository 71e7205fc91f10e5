"""Fake provider: deterministic vectors computed from the text alone. For tests, demos and dry runs.

The numbers are the same on every platform and in every version. They have no meaning: similar texts are not near.
"""

import asyncio
import time

from embedgate.core.deterministic import count_tokens, vector
from embedgate.core.errors import InputTooLong, UpstreamTimeout
from embedgate.core.models import BatchLimits, DimRange, Model, Route
from embedgate.core.types import Batch, ProviderReply
from embedgate.core.vectors import stack

__all__ = ["DIMS", "MAX_INPUT_TOKENS", "MODEL_ID", "FakeProvider", "count_tokens", "models", "vector"]

MODEL_ID = "fake/deterministic"
DIMS = DimRange(default=256, minimum=8, maximum=4096)
MAX_INPUT_TOKENS = 8192
_INPUTS_PER_TURN = 64
"""About a millisecond of work, after which it yields to the event loop."""


class FakeProvider:
    """Implements the Provider port."""

    def __init__(self, latency_s: float = 0.0) -> None:
        """latency_s: how long every call takes."""
        self._latency_s = latency_s

    async def embed(self, batch: Batch, route: Route, deadline_s: float) -> ProviderReply:
        """Vectors (n, batch.expected_dim) float32 of unit length.

        Raises InputTooLong for an input over the route's length, UpstreamTimeout if the latency passes the deadline.
        """
        tokens = [count_tokens(item) for item in batch.inputs]
        for index, n in enumerate(tokens):
            if n > route.max_input_tokens:
                raise InputTooLong.measured(index, n, route.max_input_tokens, can_cut=route.can_truncate("end"))
        remaining_s = deadline_s - time.monotonic()
        await asyncio.sleep(min(self._latency_s, max(remaining_s, 0)))
        if self._latency_s > remaining_s:
            raise UpstreamTimeout("fake did not answer within the call's time")
        rows = []
        for position, item in enumerate(batch.inputs, start=1):
            rows.append(vector(item, batch.expected_dim))
            if position % _INPUTS_PER_TURN == 0:
                await asyncio.sleep(0)
        return ProviderReply(stack(rows), sum(tokens), route.upstream_model)

    async def aclose(self) -> None:
        """Nothing to free."""


def models() -> tuple[Model, ...]:
    """The model of this provider. Any size is the shortened form of every larger one."""
    route = Route(
        provider="fake",
        upstream_model="deterministic",
        dims=DIMS,
        max_input_tokens=MAX_INPUT_TOKENS,
        tokenizer="unknown",
        limits=BatchLimits(max_inputs=2048),
        accepts_dim=True,
        promises_unit_length=True,
        is_free=True,
    )
    return (
        Model(
            id=MODEL_ID,
            action="embedding",
            routes=(route,),
            space=MODEL_ID,
            dims=DIMS,
            is_matryoshka=True,
            is_normalised=True,
            max_input_tokens=MAX_INPUT_TOKENS,
            note="Vectors without meaning, the same for the same text everywhere. For tests.",
        ),
    )
