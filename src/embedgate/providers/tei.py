"""Text Embeddings Inference, native API: translation only.

Its OpenAI endpoint truncates silently unless the server was started otherwise; this one can be told
not to. Vectors arrive as decimals, tokens in a header. The server has one model and ignores the name in the call: it
embeds or reranks.
"""

import msgspec

from embedgate.core.actions import RERANK
from embedgate.core.models import BatchLimits, Route
from embedgate.core.rerank import RerankReply, RerankRequest
from embedgate.core.types import Batch, ProviderReply
from embedgate.providers.hosts import Host
from embedgate.transport import (
    HttpCall,
    HttpProvider,
    HttpReply,
    HttpUnary,
    classify,
    decode,
    encode,
    read_count,
    read_embeddings,
    wishes,
)

HOST = Host(
    note="Its own API, so base_url has no /v1. Takes 32 inputs and 2 MB per call unless started otherwise.",
    base_url="http://127.0.0.1:3000",
    key_variables=("TEI_API_KEY",),
    key_required=False,
    is_free=True,
    ignores_model=True,
    accepts_dim=True,
    extra={"normalize": True},
    truncate={
        "none": {"truncate": False},
        "start": {"truncate": True, "truncation_direction": "Left"},
        "end": {"truncate": True, "truncation_direction": "Right"},
    },
    limits=BatchLimits(max_inputs=32, max_bytes=1_500_000, max_parallel=16),
)

_ROWS = msgspec.json.Decoder(list[msgspec.Raw])


class _Rank(msgspec.Struct, gc=False):
    index: int
    score: float


_RANKS = msgspec.json.Decoder(list[_Rank])


def provider(_host: Host) -> HttpProvider:
    """The vendor module."""
    return HttpProvider(build, parse, classify, unary={RERANK.name: HttpUnary(build_rerank, parse_rerank)})


def build(batch: Batch, route: Route) -> HttpCall:
    """One call for one batch."""
    return HttpCall("POST", "/embed", encode(wishes(batch, route) | {"inputs": batch.inputs}))


def parse(reply: HttpReply, batch: Batch, _route: Route) -> ProviderReply:
    """Vectors (n, dim) float32 in the order of `batch.inputs`, and the usage. Raises UpstreamGarbled."""
    rows = decode(reply, _ROWS)
    return read_embeddings(reply, batch, rows, tokens=_tokens(reply))


def build_rerank(request: RerankRequest, route: Route) -> HttpCall:
    """One call for one request, with scores between 0 and 1. Raises InvalidInput if a document would have to be cut."""
    request.check_length(route.provider)
    body = {
        "query": request.query,
        "texts": request.documents,
        "raw_scores": False,
        "return_text": False,
        "truncate": False,
    }
    return HttpCall("POST", "/rerank", encode(body))


def parse_rerank(reply: HttpReply, _request: RerankRequest, _route: Route) -> RerankReply:
    """The scores in the order of the reply, and the usage. Raises UpstreamGarbled."""
    scores = tuple((rank.index, rank.score) for rank in decode(reply, _RANKS))
    return RerankReply(scores, tokens=_tokens(reply))


def _tokens(reply: HttpReply) -> int | None:
    return read_count(reply.headers.get("x-compute-tokens"))
