"""Jina's rerank format, as used by Jina, Voyage and vLLM: translation only.

No sockets, retries, clocks or logging. Further fields of a host are in its row. All scores
are requested, so that the answer can be checked; the engine cuts it to `top_n`.
"""

from collections.abc import Mapping
from functools import partial

import msgspec

from embedgate.core.errors import UpstreamMismatch
from embedgate.core.model_names import is_name_of
from embedgate.core.models import ParamValue, Route
from embedgate.core.rerank import RerankReply, RerankRequest
from embedgate.transport import NOTHING_TOLD, HttpCall, HttpReply, HttpUnary, decode, encode, read_usage


class _Result(msgspec.Struct, gc=False):
    index: int
    relevance_score: float


class _Body(msgspec.Struct):
    """The fields of a reply that we read; everything else is skipped. Voyage calls the results `data`."""

    model: str | None = None
    results: list[_Result] | None = None
    data: list[_Result] | None = None
    usage: msgspec.Raw = NOTHING_TOLD


_BODY = msgspec.json.Decoder(_Body)


def unary(params: Mapping[str, ParamValue]) -> HttpUnary[RerankRequest, RerankReply]:
    """The translation functions of one host. params: fields of every call."""
    return HttpUnary(partial(build, params=params), parse)


def build(request: RerankRequest, route: Route, *, params: Mapping[str, ParamValue]) -> HttpCall:
    """One call for one request. Raises InvalidInput if a document would have to be cut."""
    request.check_length(route.provider)
    wanted = {"model": route.upstream_model, "query": request.query, "documents": request.documents}
    return HttpCall("POST", "/rerank", encode({**params, **wanted}))


def parse(reply: HttpReply, _request: RerankRequest, route: Route) -> RerankReply:
    """The scores in the order of the reply, and the usage.

    Raises UpstreamGarbled, or UpstreamMismatch if they are of another model by its name in the reply.
    """
    body = decode(reply, _BODY)
    if body.model and not route.names_freely and not is_name_of(body.model, (route.upstream_model, *route.aliases)):
        raise UpstreamMismatch(
            f"{reply.provider} says that its scores are of another model ({body.model[:100]}) than "
            f"{route.upstream_model}. If that is its name here, add it to `aliases` of the route in the catalogue "
            f"file, or set providers.{reply.provider}.names_freely"
        )
    results = body.results if body.results is not None else body.data
    if results is None:
        raise UpstreamMismatch(f"{reply.provider} sent an answer without results")
    return RerankReply(
        tuple((result.index, result.relevance_score) for result in results),
        tokens=read_usage(body.usage, "total_tokens"),
    )
