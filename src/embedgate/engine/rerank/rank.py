"""Reranking: documents in the order in which they answer a query. Validation, failover, parallel parts, checks.

Every score of an answer is checked before it is returned. What a call has cost is added to the request the moment it
returns, right or wrong its answer.
"""

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from itertools import accumulate

from msgspec import Struct

from embedgate.core.actions import RERANK
from embedgate.core.errors import GatewayError, InvalidInput, UpstreamMisconfigured, UpstreamMismatch
from embedgate.core.models import Model, ScoreScale
from embedgate.core.ports import Tokenizers, UnaryProvider
from embedgate.core.rerank import RerankReply, RerankRequest
from embedgate.core.types import Call, Candidate, Usage
from embedgate.engine.ledger.charge import charge, count_call, cover, may_be_billed, outcome_of, write_off
from embedgate.engine.ledger.tokens import ranking_bound
from embedgate.engine.rerank.weigh import Bill, bill_of, cut, most_bill
from embedgate.engine.routing.failover import with_failover
from embedgate.engine.routing.find_model import ModelFinder
from embedgate.engine.routing.route_health import RouteHealths
from embedgate.settings import LimitSettings, UpstreamSettings


class Ranked(Struct, frozen=True):
    """What the providers gave: documents by position, each with its score, the best first, no more than asked for.

    `searches` are those that the provider bills, None where it does not bill so. `documents` are all those of the
    request, where the answer shall have them.
    """

    candidate: Candidate
    scores: tuple[tuple[int, float], ...]
    usage: Usage
    searches: int | None
    documents: tuple[str, ...]


class _Answer(Struct, frozen=True):
    """A right answer to one call, and what it used."""

    scores: tuple[tuple[int, float], ...]
    bill: Bill


class RerankValidator:
    """Refuses impossible requests. Knows no caller."""

    def __init__(self, finder: ModelFinder, limits: LimitSettings) -> None:
        """limits: of any request."""
        self._finder = finder
        self._limits = limits

    def validate(self, request: RerankRequest, project_id: str | None = None) -> Model:
        """The model that is asked for. project_id: of the caller.

        Raises a RequestError that names the field, the value seen and the value allowed.
        """
        model = self._finder.find(request.model, request.provider, RERANK, project_id)
        if not request.query:
            raise InvalidInput("query is empty; send the text that the documents are ranked by.", param="query")
        n, at_most = len(request.documents), self._limits.max_documents
        if not 1 <= n <= at_most:
            reason = f"documents has {n} items; 1 to {at_most} are allowed in one request."
            raise InvalidInput(reason, param="documents")
        if "" in request.documents:
            place = f"documents[{request.documents.index('')}]"
            raise InvalidInput(f"{place} is empty; every document needs at least one character.", param="documents")
        if request.top_n is not None and request.top_n < 1:
            reason = f"top_n is {request.top_n}; it must be at least 1. Leave it out for all documents."
            raise InvalidInput(reason, param="top_n")
        most = request.max_tokens_per_document
        if most is not None and most < 1:
            reason = f"max_tokens_per_doc is {most}; it must be at least 1. Leave it out to have documents read whole."
            raise InvalidInput(reason, param="max_tokens_per_doc")
        return model


class Ranker:
    """Gets rankings from providers. One instance serves all requests."""

    def __init__(
        self,
        rerankers: Mapping[str, UnaryProvider],
        healths: RouteHealths,
        settings: UpstreamSettings,
        tokenizers: Tokenizers,
    ) -> None:
        """rerankers: by name, every provider that is on and may know how. tokenizers: to count where none is told."""
        self._rerankers = rerankers
        self._healths = healths
        self._settings = settings
        self._tokenizers = tokenizers

    async def rank(self, call: Call[RerankRequest], candidates: Sequence[Candidate]) -> Ranked:
        """The ranking of the first candidate that gives one.

        Raises what the last route failed with, naming the routes that were tried; BudgetExhausted if the budget does
        not pay for another one.
        """

        async def ask(candidate: Candidate, until_s: float) -> Ranked:
            return await self._ask(call, candidate, until_s)

        _, ranked = await with_failover(call, candidates, self._healths, self._settings, ask)
        return ranked

    async def _ask(self, call: Call[RerankRequest], candidate: Candidate, deadline_s: float) -> Ranked:
        """Score every document on one route."""
        await cover(call, candidate)
        parts = cut(call.request, candidate.route.limits)
        calls = (self._part(call, candidate, part, deadline_s) for part in parts)
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        answers = []
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                write_off(call)
                raise outcome
            answers.append(outcome)
        starts = accumulate((len(part.documents) for part in parts), initial=0)
        return _merged(call.request, candidate, list(zip(starts, answers, strict=False)))

    async def _part(
        self, call: Call[RerankRequest], candidate: Candidate, part: RerankRequest, deadline_s: float
    ) -> _Answer:
        """One call, charged and checked."""
        route = candidate.route
        started_s = time.monotonic()
        outcome: str | None = "cancelled"
        is_charged = False
        try:
            reply = await self._reranker(candidate).call(part, route, deadline_s, ranking_bound(part))
            bill = await bill_of(part, reply, route, self._tokenizers)
            charge(call, candidate, bill.tokens, bill.cost_picodollars, is_estimated=bill.is_estimated)
            is_charged = True
            _check(reply, part, candidate)
            outcome = "ok"
        except BaseException as fault:  # also cancelled, or a fault of ours: the call may have been sent
            if isinstance(fault, GatewayError):
                outcome = outcome_of(fault)
            if not is_charged and may_be_billed(fault, candidate):
                bill = await most_bill(part, route, self._tokenizers)
                charge(call, candidate, bill.tokens, bill.cost_picodollars, is_estimated=True)
            raise
        finally:
            count_call(call, candidate, part.n_items, outcome, started_s)
        return _Answer(reply.scores, bill)

    def _reranker(self, candidate: Candidate) -> UnaryProvider:
        found = self._rerankers.get(candidate.route.provider)
        if found is None:
            raise UpstreamMisconfigured(f"{candidate.route.provider} is not known to order documents")
        return found


def _check(reply: RerankReply, request: RerankRequest, candidate: Candidate) -> None:
    """Raise UpstreamMismatch unless there is one score for each document, a finite number. Says what is wrong only."""
    n = len(request.documents)
    place = f"{candidate.route.provider} for {candidate.model.id}"
    if len(reply.scores) != n:
        raise UpstreamMismatch(f"{place}: {len(reply.scores)} scores came back for {n} documents")
    if {position for position, _ in reply.scores} != set(range(n)):
        raise UpstreamMismatch(f"{place}: the indexes of the scores are not 0 to {n - 1}, each once")
    if not all(math.isfinite(score) for _, score in reply.scores):
        raise UpstreamMismatch(f"{place}: a score is not a finite number")


def _normalized(scores: Sequence[tuple[int, float]], scale: ScoreScale | None) -> list[tuple[int, float]]:
    """The scores on a scale from 0 to 1, in their order. Those that are not on the scale of the model are logits."""
    lowest = {"unit": 0.0, "cosine": -1.0}.get(scale or "unit")
    if lowest is not None and all(lowest <= score <= 1.0 for _, score in scores):
        return [(position, (score - lowest) / (1.0 - lowest)) for position, score in scores]
    return [(position, _logistic(score)) for position, score in scores]


def _logistic(logit: float) -> float:
    """The logistic function; that of a large negative number would overflow as it is usually written."""
    return (1.0 + math.tanh(logit / 2)) / 2


def _merged(request: RerankRequest, candidate: Candidate, answers: Sequence[tuple[int, _Answer]]) -> Ranked:
    """The answers to all parts, each with the position of its first document, as one."""
    scores = [(start + position, score) for start, answer in answers for position, score in answer.scores]
    scores.sort(key=lambda scored: (-scored[1], scored[0]))
    if request.normalizes:
        scores = _normalized(scores, candidate.model.scores)
    bills = [answer.bill for _, answer in answers]
    searches = [bill.searches for bill in bills if bill.searches is not None]
    return Ranked(
        candidate=candidate,
        scores=tuple(scores[: request.top_n]),
        usage=Usage(sum(bill.tokens for bill in bills), any(bill.is_estimated for bill in bills)),
        searches=sum(searches) if searches else None,
        documents=request.documents if request.returns_documents else (),
    )
