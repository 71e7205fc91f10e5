"""Bodies of rerank requests and answers, in the format of Cohere's and Jina's APIs. Knows no dialect.

The query and the documents may also be in `input`, and options in `parameters`.
"""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from embedgate.core.errors import MalformedRequest, MissingFields, UnsupportedOption
from embedgate.core.rerank import RerankRequest, RerankResult
from embedgate.core.types import Routing
from embedgate.server.answer import Answer, Headers, cost_headers
from embedgate.server.dialect import SplitName
from embedgate.server.fields import Fields
from embedgate.server.steering import asked_model

_REQUIRED = "query and documents are required: a text, and a list of texts to be put in order."


class DocumentText(Struct, frozen=True):
    """A document. Of an object with more fields, the text alone is read."""

    text: str


class _Input(Struct, forbid_unknown_fields=True):
    query: str
    documents: tuple[str | DocumentText, ...]


class _Parameters(Struct, forbid_unknown_fields=True):
    top_n: int | None = None
    top_k: int | None = None
    return_documents: bool | None = None
    normalize: bool | None = None
    max_tokens_per_doc: int | None = None


class RankedDocument(Struct, frozen=True, omit_defaults=True):
    """One document with its relevance score."""

    index: Annotated[int, Meta(ge=0, description="Its position in the request.")]
    relevance_score: Annotated[float, Meta(description="Relevance score. Its scale depends on the model.")]
    document: Annotated[DocumentText | None, Meta(description="With `return_documents`: its text.")] = None


class RankingUsage(Struct, frozen=True):
    """Token usage of the request."""

    prompt_tokens: Annotated[int, Meta(ge=0, description="Tokens of the documents, and of the query once for each.")]
    total_tokens: Annotated[int, Meta(ge=0, description="The same: nothing is written.")]


class BilledUnits(Struct, frozen=True):
    """What the provider bills."""

    search_units: Annotated[int, Meta(ge=0, description="Searches.")]


class RankingMeta(Struct, frozen=True):
    """Billing units in place of tokens."""

    billed_units: BilledUnits


class Ranking(Struct, frozen=True, omit_defaults=True):
    """The documents by relevance, the best first."""

    id: Annotated[str, Meta(description="The id in `x-request-id`.")]
    model: Annotated[str, Meta(description="Id of the model that gave the scores.")]
    results: Annotated[tuple[RankedDocument, ...], Meta(description="As many as `top_n` says, or all.")]
    usage: RankingUsage
    meta: Annotated[RankingMeta | None, Meta(description="Where the provider bills searches.")] = None


def rerank_of(body: bytes, split_name: SplitName) -> RerankRequest:
    """The rerank request in a body.

    split_name: takes `author/name:provider` apart. Raises a RequestError naming the field at fault.
    """
    fields = Fields(body)
    fields.required(("model",), "model is required: the id of a model that orders documents.")
    return _request(fields, *asked_model(fields, split_name))


def _request(
    fields: Fields,
    model: str,
    provider: str | None,
    routing: Routing | None,
    fallback_model: str | None,
) -> RerankRequest:
    """The request of a body from which the fields that steer it are taken."""
    given, wanted = _read(fields)
    user = fields.user()
    if unknown := fields.rest():
        names = ", ".join(sorted(unknown)[:5])
        raise UnsupportedOption(f"Ranking does not take: {names[:200]}. Leave it out.", param=min(unknown)[:100])
    return RerankRequest(
        model=model,
        query=given.query,
        documents=tuple(item if isinstance(item, str) else item.text for item in given.documents),
        top_n=wanted.top_n,
        returns_documents=wanted.return_documents or False,
        normalizes=wanted.normalize or False,
        max_tokens_per_document=wanted.max_tokens_per_doc,
        user=user,
        provider=provider,
        routing=routing,
        fallback_model=fallback_model,
    )


def _read(fields: Fields) -> tuple[_Input, _Parameters]:
    """The query, the documents and the options."""
    nested = fields.take("input", _Input, "an object with query and documents")
    nested_options = fields.take("parameters", _Parameters, "an object with top_n or return_documents")
    query = fields.text("query")
    documents = fields.take("documents", tuple[str | DocumentText, ...], "a list of texts, or of objects with a text")
    own_options = _Parameters(
        top_n=fields.whole("top_n"),
        top_k=fields.whole("top_k"),
        return_documents=fields.flag("return_documents"),
        normalize=fields.flag("normalize"),
        max_tokens_per_doc=fields.whole("max_tokens_per_doc"),
    )
    if nested is not None and (query is not None or documents is not None):
        raise MalformedRequest("query and documents are there twice: leave out input, or them.", param="input")
    if nested is None and (query is None or documents is None):
        raise MissingFields(_REQUIRED, param="query" if query is None else "documents")
    return nested or _Input(query or "", documents or ()), _options(own_options, nested_options or _Parameters())


def _options(own: _Parameters, nested: _Parameters) -> _Parameters:
    """The options of both places, those beside the query first. `top_k` is another name of `top_n`."""
    found = {}
    for name in own.__struct_fields__:
        value = getattr(own, name)
        found[name] = getattr(nested, name) if value is None else value
    top_k = found["top_k"]
    if top_k is not None and found["top_n"] not in (None, top_k):
        reason = f"top_n is {found['top_n']} and top_k is {top_k}; they mean the same. Leave one out."
        raise MalformedRequest(reason, param="top_k")
    if top_k is not None:
        found["top_n"] = top_k
    return _Parameters(**found)


def rerank_answer(result: RerankResult, request_id: str, others: Headers) -> Answer:
    """The answer to a served request. others: the dialect's common headers."""
    texts = result.documents
    body = Ranking(
        id=request_id,
        model=result.model,
        results=tuple(
            RankedDocument(position, score, DocumentText(texts[position]) if texts else None)
            for position, score in result.scores
        ),
        usage=RankingUsage(result.usage.tokens, result.usage.tokens),
        meta=None if result.searches is None else RankingMeta(BilledUnits(result.searches)),
    )
    return Answer(200, [*others, *cost_headers(result)], msgspec.json.encode(body))
