"""Nomic's Atlas API, `/embedding/text`: translation only.

It always cuts over-long texts; it is told to cut them rather than average pieces.
"""

import msgspec

from embedgate.core.models import BatchLimits, Route
from embedgate.core.types import Batch, ProviderReply
from embedgate.providers.hosts import Host
from embedgate.transport import (
    NOTHING_TOLD,
    HttpCall,
    HttpProvider,
    HttpReply,
    classify,
    decode,
    encode,
    read_embeddings,
    read_usage,
    wishes,
)

HOST = Host(
    note="Puts the text of the input's type before it. Cuts over-long inputs and cannot be told not to.",
    base_url="https://api-atlas.nomic.ai/v1",
    key_variables=("NOMIC_API_KEY",),
    accepts_dim=True,
    dim_field="dimensionality",
    extra={"long_text_mode": "truncate"},
    truncate={"end": {}},
    limits=BatchLimits(max_inputs=400, max_parallel=8),
)


class _Body(msgspec.Struct):
    """The fields of a reply that we read; everything else is skipped."""

    embeddings: list[msgspec.Raw]
    model: str | None = None
    usage: msgspec.Raw = NOTHING_TOLD


_BODY = msgspec.json.Decoder(_Body)


def provider(_host: Host) -> HttpProvider:
    """The vendor module."""
    return HttpProvider(build, parse, classify)


def build(batch: Batch, route: Route) -> HttpCall:
    """One call for one batch."""
    body = wishes(batch, route) | {"model": route.upstream_model, "texts": batch.inputs}
    return HttpCall("POST", "/embedding/text", encode(body))


def parse(reply: HttpReply, batch: Batch, _route: Route) -> ProviderReply:
    """Vectors (n, dim) float32 in the order of `batch.inputs`, and the usage. Raises UpstreamGarbled."""
    body = decode(reply, _BODY)
    tokens = read_usage(body.usage, "prompt_tokens", "total_tokens")
    return read_embeddings(reply, batch, body.embeddings, tokens=tokens, model=body.model)
