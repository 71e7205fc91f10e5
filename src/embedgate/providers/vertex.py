"""Google's Vertex AI: translation only. Embedding models of the `predict` kind, and those of `embedContent`.

The key is an OAuth access token, which lasts an hour: the operator must renew it.
"""

import urllib.parse
from typing import Any

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
    read_usage,
    wishes,
)

HOST = Host(
    note="Set base_url to https://<region>-aiplatform.googleapis.com/v1/projects/<project>/locations/<region>. The key "
    "is an access token, which lasts an hour.",
    key_variables=("VERTEX_ACCESS_TOKEN",),
    accepts_dim=True,
    truncate={"none": {"autoTruncate": False}, "end": {"autoTruncate": True}},
    chat=Chat("/endpoints/openapi/chat/completions", model_prefix="google/", asks_usage=True),
    limits=BatchLimits(max_inputs=1, max_tokens=20_000, max_parallel=8),
)

_BY_CONTENT = ("gemini-embedding-2", "multilingual-e5-")
"""Name prefixes of models called with `embedContent`, one text per call."""
_PUBLISHERS = {"multilingual-e5-": "intfloat"}


class _Statistics(msgspec.Struct):
    token_count: msgspec.Raw = NOTHING_TOLD
    truncated: bool = False


class _Embedding(msgspec.Struct):
    values: msgspec.Raw
    statistics: _Statistics = msgspec.field(default_factory=_Statistics)


class _Prediction(msgspec.Struct):
    embeddings: _Embedding


class _Predicted(msgspec.Struct):
    """The fields of a `predict` reply that we read; everything else is skipped."""

    predictions: list[_Prediction]


class _Embedded(msgspec.Struct, rename="camel"):
    """The fields of an `embedContent` reply that we read; everything else is skipped."""

    embedding: _Embedding
    usage_metadata: msgspec.Raw = NOTHING_TOLD
    truncated: bool = False


_PREDICTED = msgspec.json.Decoder(_Predicted)
_EMBEDDED = msgspec.json.Decoder(_Embedded)


def provider(_host: Host) -> HttpProvider:
    """The vendor module."""
    return HttpProvider(build, parse, classify)


def build(batch: Batch, route: Route) -> HttpCall:
    """One call for one batch."""
    publisher = next((found for start, found in _PUBLISHERS.items() if _is_of(route, start)), "google")
    model = urllib.parse.quote(route.upstream_model, safe="")
    wanted = wishes(batch, route)
    body: dict[str, Any]
    if _is_by_content(route):
        action = "embedContent"
        body = {"content": {"parts": [{"text": batch.inputs[0]}]}, "embedContentConfig": wanted}
    else:
        action = "predict"
        task = {name: wanted.pop(name) for name in (route.input_type_field,) if name in wanted}
        body = {"instances": [{"content": text} | task for text in batch.inputs], "parameters": wanted}
    return HttpCall("POST", f"/publishers/{publisher}/models/{model}:{action}", encode(body))


def parse(reply: HttpReply, batch: Batch, route: Route) -> ProviderReply:
    """Vectors (n, dim) float32 in the order of `batch.inputs`, the usage, and which inputs were cut.

    Raises UpstreamGarbled.
    """
    if _is_by_content(route):
        body = decode(reply, _EMBEDDED)
        tokens = read_usage(body.usage_metadata, "promptTokenCount")
        return read_embeddings(
            reply, batch, [body.embedding.values], tokens=tokens, truncated=(0,) if body.truncated else ()
        )
    items = [prediction.embeddings for prediction in decode(reply, _PREDICTED).predictions]
    counts = [read_count(item.statistics.token_count) for item in items]
    return read_embeddings(
        reply,
        batch,
        [item.values for item in items],
        tokens=None if None in counts else sum(count for count in counts if count is not None),
        truncated=tuple(position for position, item in enumerate(items) if item.statistics.truncated),
    )


def _is_by_content(route: Route) -> bool:
    return any(_is_of(route, start) for start in _BY_CONTENT)


def _is_of(route: Route, start: str) -> bool:
    return route.upstream_model.startswith(start)
