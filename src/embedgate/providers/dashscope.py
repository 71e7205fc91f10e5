"""Alibaba's DashScope, native API: translation only.

Its OpenAI endpoint has no input type; this one does. Vectors arrive as decimals.
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
    read_embeddings,
    read_usage,
    wishes,
)

HOST = Host(
    note="Its own API at Singapore; keys belong to one region, so set base_url, without a path, for another.",
    base_url="https://dashscope-intl.aliyuncs.com",
    key_variables=("DASHSCOPE_API_KEY",),
    accepts_dim=True,
    dim_field="parameters.dimension",
    chat=Chat("/compatible-mode/v1/chat/completions", asks_usage=True),
    limits=BatchLimits(max_inputs=10, max_parallel=8),
)


class _Item(msgspec.Struct):
    embedding: msgspec.Raw
    text_index: int | None = None


class _Output(msgspec.Struct):
    embeddings: list[_Item]


class _Body(msgspec.Struct):
    """The fields of a reply that we read; everything else is skipped."""

    output: _Output
    usage: msgspec.Raw = NOTHING_TOLD


_BODY = msgspec.json.Decoder(_Body)


def provider(_host: Host) -> HttpProvider:
    """The vendor module."""
    return HttpProvider(build, parse, classify)


def build(batch: Batch, route: Route) -> HttpCall:
    """One call for one batch."""
    body = wishes(batch, route) | {"model": route.upstream_model, "input": {"texts": batch.inputs}}
    return HttpCall("POST", "/api/v1/services/embeddings/text-embedding/text-embedding", encode(body))


def parse(reply: HttpReply, batch: Batch, _route: Route) -> ProviderReply:
    """Vectors (n, dim) float32 in the order of `batch.inputs`, and the usage. Raises UpstreamGarbled."""
    body = decode(reply, _BODY)
    items = body.output.embeddings
    return read_embeddings(
        reply,
        batch,
        [item.embedding for item in items],
        positions=[item.text_index for item in items],
        tokens=read_usage(body.usage, "total_tokens"),
    )
