"""Cohere's embed API, version 2: translation only. Texts; its images and mixed inputs are not offered.

The type of the inputs is required there. Texts of no type are embedded as documents.
"""

import msgspec

from embedgate.core.types import Batch, BatchLimits, ProviderReply, Route
from embedgate.providers.hosts import Host
from embedgate.transport import HttpCall, HttpProvider, HttpReply, classify, decode, encode, read_embeddings, wishes

HOST = Host(
    note="Puts the text of the input's type before it; without a type from the caller it counts as a document.",
    base_url="https://api.cohere.com",
    key_variables=("COHERE_API_KEY", "CO_API_KEY"),
    base64="by-model",
    accepts_dim=True,
    dim_field="output_dimension",
    extra={"input_type": "search_document"},
    truncate={"none": {"truncate": "NONE"}, "start": {"truncate": "START"}, "end": {"truncate": "END"}},
    limits=BatchLimits(max_inputs=96, max_tokens=128_000, max_parallel=16),
)


class _ByType(msgspec.Struct):
    float: list[msgspec.Raw] | None = None
    base64: list[msgspec.Raw] | None = None


class _Billed(msgspec.Struct):
    input_tokens: float | None = None


class _Meta(msgspec.Struct):
    billed_units: _Billed | None = None


class _Body(msgspec.Struct):
    """The fields of a reply that we read; everything else is skipped."""

    embeddings: _ByType
    meta: _Meta | None = None


_BODY = msgspec.json.Decoder(_Body)


def provider(_host: Host) -> HttpProvider:
    """The vendor module."""
    return HttpProvider(build, parse, classify)


def build(batch: Batch, route: Route) -> HttpCall:
    """One call for one batch."""
    body = wishes(batch, route) | {
        "model": route.upstream_model,
        "texts": batch.inputs,
        "embedding_types": ["base64" if route.accepts_base64 else "float"],
    }
    return HttpCall("POST", "/v2/embed", encode(body))


def parse(reply: HttpReply, batch: Batch, _route: Route) -> ProviderReply:
    """Vectors (n, dim) float32 in the order of `batch.inputs`, in either encoding, and what was billed.

    Raises UpstreamGarbled.
    """
    body = decode(reply, _BODY)
    rows = body.embeddings.base64 or body.embeddings.float or []
    billed = body.meta.billed_units.input_tokens if body.meta and body.meta.billed_units else None
    return read_embeddings(reply, batch, rows, tokens=None if billed is None else int(billed))
