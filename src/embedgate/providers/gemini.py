"""Google's Gemini API, `batchEmbedContents`: translation only.

Every input is a content of one part, since the parts of a content share one vector. Vectors arrive as decimals.
"""

import urllib.parse

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
    note="Says how long to wait when it limits us. Some models want the task in the text, which is put there.",
    base_url="https://generativelanguage.googleapis.com/v1beta",
    key_variables=("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    key_header="x-goog-api-key",
    key_prefix="",
    accepts_dim=True,
    chat=Chat("/openai/chat/completions", key_header="authorization", key_prefix="Bearer ", asks_usage=True),
    limits=BatchLimits(max_inputs=100, max_bytes=3_000_000, max_parallel=8),
)


class _Embedding(msgspec.Struct):
    values: msgspec.Raw


class _Body(msgspec.Struct, rename="camel"):
    """The fields of a reply that we read; everything else is skipped."""

    embeddings: list[_Embedding]
    usage_metadata: msgspec.Raw = NOTHING_TOLD


_BODY = msgspec.json.Decoder(_Body)


def provider(_host: Host) -> HttpProvider:
    """The vendor module."""
    return HttpProvider(build, parse, classify, vector_field="values")


def build(batch: Batch, route: Route) -> HttpCall:
    """One call for one batch. Every request in it repeats model, size and task."""
    model = f"models/{route.upstream_model}"
    asked = wishes(batch, route) | {"model": model}
    requests = [asked | {"content": {"parts": [{"text": text}]}} for text in batch.inputs]
    path = f"/{urllib.parse.quote(model)}:batchEmbedContents"
    return HttpCall("POST", path, encode({"requests": requests}))


def parse(reply: HttpReply, batch: Batch, _route: Route) -> ProviderReply:
    """Vectors (n, dim) float32 in the order of `batch.inputs`, and the usage if there is one.

    Raises UpstreamGarbled.
    """
    body = decode(reply, _BODY)
    tokens = read_usage(body.usage_metadata, "promptTokenCount")
    return read_embeddings(reply, batch, [item.values for item in body.embeddings], tokens=tokens)
