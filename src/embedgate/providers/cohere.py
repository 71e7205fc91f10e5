"""Cohere's embed and rerank APIs, version 2: translation only. Text inputs only.

The input type is required there; inputs without one are embedded as documents. Documents to rerank are cut
at 4,096 tokens unless another number is given, a query always at 2,048 tokens.
"""

from typing import Any

import msgspec

from embedgate.core.actions import RERANK
from embedgate.core.errors import InvalidInput
from embedgate.core.models import BatchLimits, Route
from embedgate.core.rerank import RerankReply, RerankRequest
from embedgate.core.types import Batch, ProviderReply
from embedgate.providers.hosts import Host
from embedgate.transport import (
    NOTHING_TOLD,
    Chat,
    HttpCall,
    HttpProvider,
    HttpReply,
    HttpUnary,
    classify,
    decode,
    encode,
    read_count,
    read_embeddings,
    read_object,
    wishes,
)

HOST = Host(
    note="Puts the text of the input's type before it; without a type from the caller it counts as a document.",
    base_url="https://api.cohere.com",
    key_variables=("COHERE_API_KEY", "CO_API_KEY"),
    base64="by-model",
    accepts_dim=True,
    dim_field="output_dimension",
    extra={"input_type": "search_document"},
    truncate={"none": {"truncate": "NONE"}, "start": {"truncate": "START"}, "end": {"truncate": "END"}},
    chat=Chat("/compatibility/v1/chat/completions"),
    limits=BatchLimits(max_inputs=96, max_tokens=128_000, max_parallel=16),
)


_MAX_QUERY_TOKENS = 2048
_USUAL_DOCUMENT_TOKENS = 4096


class _ByType(msgspec.Struct):
    float: list[msgspec.Raw] | None = None
    base64: list[msgspec.Raw] | None = None


class _Body(msgspec.Struct):
    """The fields of a reply that we read; everything else is skipped."""

    embeddings: _ByType
    meta: msgspec.Raw = NOTHING_TOLD


class _Result(msgspec.Struct, gc=False):
    index: int
    relevance_score: float


class _Ranked(msgspec.Struct):
    """The fields of a rerank reply that we read."""

    results: list[_Result]
    meta: msgspec.Raw = NOTHING_TOLD


_BODY = msgspec.json.Decoder(_Body)
_RANKED = msgspec.json.Decoder(_Ranked)


def provider(_host: Host) -> HttpProvider:
    """The vendor module."""
    return HttpProvider(build, parse, classify, unary={RERANK.name: HttpUnary(build_rerank, parse_rerank)})


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
    return read_embeddings(reply, batch, rows, tokens=read_count(_billed(body.meta).get("input_tokens")))


def build_rerank(request: RerankRequest, route: Route) -> HttpCall:
    """One call for one request. Raises InvalidInput for a query that might be cut: no token is shorter than a byte."""
    query_bytes = len(request.query.encode())
    if query_bytes > _MAX_QUERY_TOKENS:
        raise InvalidInput(
            f"query has {query_bytes} bytes; Cohere cuts it at {_MAX_QUERY_TOKENS} tokens without a word, so at most "
            "that many bytes are sent there. Shorten it.",
            param="query",
        )
    body: dict[str, object] = {
        "model": route.upstream_model,
        "query": request.query,
        "documents": request.documents,
    }
    longest_bytes = max(len(document.encode()) for document in request.documents)
    if request.max_tokens_per_document is not None:
        body["max_tokens_per_doc"] = request.max_tokens_per_document
    elif longest_bytes > _USUAL_DOCUMENT_TOKENS:
        body["max_tokens_per_doc"] = longest_bytes  # no document is cut: over-long ones are read in pieces
    return HttpCall("POST", "/v2/rerank", encode(body))


def parse_rerank(reply: HttpReply, _request: RerankRequest, _route: Route) -> RerankReply:
    """The scores in the order of the reply, and the billed searches or tokens. Raises UpstreamGarbled."""
    body = decode(reply, _RANKED)
    billed = _billed(body.meta)
    return RerankReply(
        tuple((result.index, result.relevance_score) for result in body.results),
        tokens=read_count(billed.get("input_tokens")),
        searches=read_count(billed.get("search_units")),
    )


def _billed(meta: msgspec.Raw) -> dict[str, Any]:
    """What a reply says of its bill: nothing where that is of another shape."""
    billed = read_object(meta).get("billed_units")
    return billed if isinstance(billed, dict) else {}
