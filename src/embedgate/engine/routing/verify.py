"""Verification of routes: every route of a model embeds the same texts, and their vectors are compared.

Requests go the whole way of the operator's: rights, budgets and ledger included. Only the cache is left out.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from embedgate.core.errors import GatewayError
from embedgate.core.models import LOCAL, Model
from embedgate.core.types import Candidate, EmbedRequest, EmbedResult, InputType
from embedgate.engine.routing.compare import Probe, Sample, Verdict, judge, probes

Embed = Callable[[EmbedRequest], Awaitable[EmbedResult]]


def same_vectors(model: Model, usable: Sequence[Model]) -> list[Candidate]:
    """The usable routes that must all give the vectors of `model`: its own, and those of its twins in this process.

    A local model of its space has the same weights. Others of one space may only be comparable, as voyage-4 and
    voyage-4-lite are.
    """
    own = [other for other in usable if other.id == model.id]
    twins = [
        other
        for other in usable
        if other.id != model.id and other.space == model.space and (_is_local(other) or _is_local(model))
    ]
    return [Candidate(other, route) for other in (*own, *twins) for route in other.routes]


def route_sets(usable: Sequence[Model]) -> list[tuple[Model, list[Candidate]]]:
    """Each set of routes that must give the same vectors, once, under one of its models. It may be a single route."""
    found: list[tuple[Model, list[Candidate]]] = []
    seen: set[tuple[str, str]] = set()
    for model in sorted(usable, key=_is_local):  # a hosted model and its local twin are told under the hosted one
        own = {(model.id, route.provider) for route in model.routes}
        if not own <= seen:
            candidates = same_vectors(model, usable)
            found.append((model, candidates))
            seen |= {(candidate.model.id, candidate.route.provider) for candidate in candidates}
    return found


def comparable(usable: Sequence[Model]) -> list[Model]:
    """The models that have something to be compared with, each set of routes once."""
    return [model for model, candidates in route_sets(usable) if len(candidates) > 1]


async def verify(candidates: Sequence[Candidate], embed: Embed) -> list[Verdict]:
    """One verdict for each candidate, in order; `failed`, with the provider's words, for those that do not answer."""
    if not candidates:
        return []
    asked, answers = await ask_routes(candidates, embed)
    judged = iter(judge([answer for answer in answers if isinstance(answer, Sample)], asked))
    return [next(judged) if isinstance(answer, Sample) else answer for answer in answers]


async def ask_routes(candidates: Sequence[Candidate], embed: Embed) -> tuple[tuple[Probe, ...], list[Sample | Verdict]]:
    """The texts, and what each candidate makes of them, in order; a verdict `failed` for those that do not answer."""
    asked = probes(min(candidate.route.max_input_tokens for candidate in candidates))
    return asked, await asyncio.gather(*(_sample(candidate, asked, embed) for candidate in candidates))


async def _sample(candidate: Candidate, asked: Sequence[Probe], embed: Embed) -> Sample | Verdict:
    model, route = candidate.model, candidate.route
    texts = tuple(probe.text for probe in asked)

    def request(input_type: InputType) -> EmbedRequest:
        return EmbedRequest(model.id, texts, input_type=input_type, provider=route.provider, cache="no-store")

    try:
        queries, documents = await embed(request("query")), await embed(request("document"))
    except GatewayError as error:
        return Verdict(model.id, route.provider, "failed", None, error.message)
    is_own = route.provider == LOCAL
    return Sample(model.id, route.provider, route.precision, is_own, queries.vectors, documents.vectors)


def _is_local(model: Model) -> bool:
    return any(route.provider == LOCAL for route in model.routes)
