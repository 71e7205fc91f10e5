"""Perplexity's embeddings: OpenAI's format with vectors of signed bytes in base64. Translation only."""

import msgspec
import numpy as np
import orjson
import pybase64

from embedgate.core.errors import UpstreamMismatch
from embedgate.core.models import BatchLimits, Route
from embedgate.core.types import Batch, ProviderReply
from embedgate.core.vectors import Vectors, normalise
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
    note="Sends whole numbers of one byte; vectors are scaled to unit length here.",
    base_url="https://api.perplexity.ai/v1",
    key_variables=("PERPLEXITY_API_KEY",),
    accepts_dim=True,
    limits=BatchLimits(max_inputs=512, max_parallel=8),
)


class _Item(msgspec.Struct):
    embedding: msgspec.Raw
    index: int | None = None


class _Body(msgspec.Struct):
    """The fields of a reply that we read; everything else is skipped."""

    data: list[_Item]
    model: str | None = None
    usage: msgspec.Raw = NOTHING_TOLD


_BODY = msgspec.json.Decoder(_Body)


def provider(_host: Host) -> HttpProvider:
    """The vendor module."""
    return HttpProvider(build, parse, classify)


def build(batch: Batch, route: Route) -> HttpCall:
    """One call for one batch."""
    body = wishes(batch, route) | {"model": route.upstream_model, "input": batch.inputs}
    return HttpCall("POST", "/embeddings", encode(body | {"encoding_format": "base64_int8"}))


def parse(reply: HttpReply, batch: Batch, _route: Route) -> ProviderReply:
    """Vectors (n, dim) float32 of unit length in the order of `batch.inputs`, and the usage. Raises UpstreamGarbled."""
    body = decode(reply, _BODY)
    answer = read_embeddings(
        reply,
        batch,
        [item.embedding for item in body.data],
        positions=[item.index for item in body.data],
        tokens=read_usage(body.usage, "prompt_tokens"),
        model=body.model,
        read=_read_bytes,
    )
    return msgspec.structs.replace(answer, vectors=normalise(answer.vectors))


def _read_bytes(raw: msgspec.Raw, provider: str) -> Vectors:
    """One vector, (d,) float32, of whole numbers from -128 to 127."""
    try:
        numbers = pybase64.b64decode(orjson.loads(bytes(raw)), validate=True)
    except (ValueError, TypeError) as error:
        raise UpstreamMismatch(f"{provider} sent an embedding that is not base64") from error
    if not numbers:
        raise UpstreamMismatch(f"{provider} sent an embedding without numbers")
    return np.frombuffer(numbers, dtype=np.int8).astype(np.float32)
