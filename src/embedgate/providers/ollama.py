"""Ollama, native API `/api/embed`: translation only.

Its OpenAI endpoint always truncates silently; this one can be told not to. Vectors arrive as decimals.
"""

import msgspec

from embedgate.core.models import BatchLimits, Route
from embedgate.core.types import Batch, ProviderReply
from embedgate.providers.hosts import Host
from embedgate.transport import (
    NOTHING_TOLD,
    Chat,
    HttpCall,
    HttpProvider,
    HttpReply,
    classify,
    decode,
    encode,
    read_count,
    read_embeddings,
    wishes,
)

HOST = Host(
    note="Its own API, so base_url has no /v1. The first call loads the model and may take long.",
    base_url="http://127.0.0.1:11434",
    key_variables=("OLLAMA_API_KEY",),
    key_required=False,
    is_free=True,
    accepts_dim=True,
    truncate={"none": {"truncate": False}, "end": {"truncate": True}},
    chat=Chat("/v1/chat/completions", asks_usage=True),
    precision="gguf",
    limits=BatchLimits(max_inputs=256, max_parallel=4),
)


class _Body(msgspec.Struct):
    """The fields of a reply that we read; everything else is skipped."""

    embeddings: list[msgspec.Raw]
    model: str | None = None
    prompt_eval_count: msgspec.Raw = NOTHING_TOLD


_BODY = msgspec.json.Decoder(_Body)


def provider(_host: Host) -> HttpProvider:
    """The vendor module."""
    return HttpProvider(build, parse, classify)


def build(batch: Batch, route: Route) -> HttpCall:
    """One call for one batch."""
    body = wishes(batch, route) | {"model": route.upstream_model, "input": batch.inputs}
    return HttpCall("POST", "/api/embed", encode(body))


def parse(reply: HttpReply, batch: Batch, _route: Route) -> ProviderReply:
    """Vectors (n, dim) float32 in the order of `batch.inputs`, and the usage. Raises UpstreamGarbled."""
    body = decode(reply, _BODY)
    return read_embeddings(reply, batch, body.embeddings, tokens=read_count(body.prompt_eval_count), model=body.model)
