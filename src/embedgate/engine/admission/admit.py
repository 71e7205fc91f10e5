"""May this caller do this now: policies, limits, budgets. Refuses before a provider is touched.

Owns what a request was let in with, from here to its ledger entry. Knows the order of the three questions: a policy's
refusal counts nowhere, and nobody's money is held for one who has to wait.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from embedgate.core.access import AuditEvent, Caller, Decision, Question, Rate
from embedgate.core.clock import ms_of, utc_now
from embedgate.core.errors import GatewayError, NotPermitted
from embedgate.core.models import Action, Model, Price
from embedgate.core.ports import AuditTrail, PolicyDecider
from embedgate.core.types import (
    AnyRequest,
    Call,
    Candidate,
    ChatRequest,
    EmbedRequest,
    RerankRequest,
    Weighed,
)
from embedgate.engine.admission.budgets import Budgets, Hold
from embedgate.engine.admission.grant import Grant
from embedgate.engine.admission.rate_limits import CountedRequest, RateLimits

_SPENDS = frozenset({"principal.current_daily_spend", "principal.current_monthly_spend"})
_WEIGHTS = frozenset({"context.input_tokens", "context.estimated_cost"})
_LEAST: Mapping[Action, AnyRequest] = {
    "embedding": EmbedRequest("", ("",)),
    "chat": ChatRequest("", {}, n_items=1, text_bytes=0),
    "rerank": RerankRequest("", "", ("",)),
}
"""The least that a model can be asked for: one item, no option."""
_DECISIONS_PER_TURN = 10
"""Up to two milliseconds of work; then the event loop has its turn."""


class Admission:
    """The gate. Policies, limits and budgets may be replaced while it stands."""

    def __init__(
        self,
        decider: PolicyDecider,
        limits: RateLimits,
        budgets: Budgets,
        audit: AuditTrail,
        is_emergency: bool = False,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        """is_emergency: what policies are told. now: an aware time, of the clock that dates ledger entries."""
        self._limits = limits
        self._budgets = budgets
        self._audit = audit
        self._is_emergency = is_emergency
        self._now = now
        self.follow(decider)

    def follow(self, decider: PolicyDecider) -> None:
        """Put other policies in force."""
        self._decider = decider
        self._reads_spends = not _SPENDS.isdisjoint(decider.reads)
        self._reads_weights = not _WEIGHTS.isdisjoint(decider.reads)

    def depends_on_weight(self, caller: Caller) -> bool:
        """Whether anything that this caller is asked depends on the exact weight of its request."""
        subjects = caller.subjects
        return self._reads_weights or self._budgets.applies(subjects) or self._limits.applies(subjects)

    async def __call__(self, call: Call[Any], weighed: Sequence[Weighed]) -> Grant:
        """Let a request in, on those of its routes that the policies permit. The grant must be ended by `account`.

        What the policies decided, and whether the request was let in then, is one event of the audit trail.
        Raises NotPermitted, RateLimited, Overloaded, BudgetExhausted, or InternalError if the ledger cannot be read.
        """
        model = weighed[0].candidate.model
        permitted, decision = await self._permitted(call, weighed)
        try:
            tokens = max(each.tokens + each.output_tokens for each in permitted)
            place = await self._limits.enter(call.caller.subjects, tokens, call.deadline_s)
            hold = await self._hold(call, permitted, place)
        except GatewayError as error:
            self._note(call, model, error.code, decision)
            raise
        self._note(call, model, "permit", decision)
        return Grant(tuple(each.candidate for each in permitted), place, hold)

    def rate(self, caller: Caller) -> Rate | None:
        """Where a caller stands with its limits; None if it has none."""
        return self._limits.rate(caller.subjects)

    async def usable(self, caller: Caller, candidates: Sequence[Candidate], ip_address: str = "") -> list[Candidate]:
        """Those that the policies permit to the caller for the least request: one item of one token, without options.

        Counts in no limit and leaves no event. Raises InternalError if spends matter and the ledger cannot be read.
        """
        day, month = await self._spends(caller)
        now, decide = self._now(), self._decider.decide
        calls = {
            action: Call("", "openai", caller, request, 0.0, 0.0, 0.0, ip_address) for action, request in _LEAST.items()
        }
        found = []
        for position, candidate in enumerate(candidates):
            if position % _DECISIONS_PER_TURN == 0:
                await asyncio.sleep(0)
            route = candidate.route
            weighed = Weighed(candidate, 1, _least_cost_picodollars(route.price), route.dims.default)
            if decide(self._question(calls[candidate.model.action], weighed, now, day, month)).is_permitted:
                found.append(candidate)
        return found

    async def _spends(self, caller: Caller) -> tuple[int, int]:
        """What the caller's key has spent today and this month, if any policy reads it."""
        if not self._reads_spends or not caller.subjects:  # the operator of the gateway has none
            return 0, 0
        spends = await self._budgets.spends(caller.subjects[0])
        return spends.day_picodollars, spends.month_picodollars

    async def _permitted(self, call: Call[Any], weighed: Sequence[Weighed]) -> tuple[list[Weighed], Decision]:
        """The candidates that the policies permit, and why the first of them is.

        Raises NotPermitted if none is.
        """
        day, month = await self._spends(call.caller)
        now = self._now()
        decisions = [self._decider.decide(self._question(call, each, now, day, month)) for each in weighed]
        permitted = [each for each, decision in zip(weighed, decisions, strict=True) if decision.is_permitted]
        if permitted:
            return permitted, next(decision for decision in decisions if decision.is_permitted)
        self._note(call, weighed[0].candidate.model, "forbid", decisions[0])
        raise NotPermitted(_explain(call, decisions[0]), policies=decisions[0].policies)

    async def _hold(self, call: Call[Any], permitted: Sequence[Weighed], place: CountedRequest) -> Hold:
        """Hold the price of the dearest route, or let go of the place."""
        amount = max(each.cost_picodollars for each in permitted)
        try:
            hold = await self._budgets.hold(call.request_id, call.caller.subjects, amount)
        except BaseException:
            place.withdraw()
            raise
        call.hold, call.held_picodollars = hold, amount
        return hold

    def _question(self, call: Call[Any], each: Weighed, now: datetime, day: int, month: int) -> Question:
        request, model = call.request, each.candidate.model
        return Question(
            caller=call.caller,
            action=request.action,
            model=model.id,
            model_name=model.name,
            provider=each.candidate.route.provider,
            space=model.space or model.id,
            at=now,
            ip_address=call.ip_address,
            is_emergency=self._is_emergency,
            n_inputs=request.n_items,
            tokens=each.tokens,
            dim=each.dim,
            input_type=request.input_type or "none",
            cost_picodollars=each.cost_picodollars,
            daily_spend_picodollars=day,
            monthly_spend_picodollars=month,
            requests_per_minute=self._limits.requests_per_minute(call.caller.user_id),
        )

    def _note(self, call: Call[Any], model: Model, outcome: str, decision: Decision) -> None:
        self._audit.note(
            AuditEvent(
                kind="decision",
                at_ms=ms_of(self._now()),
                actor=call.caller.key_id,
                action=call.request.action,
                target=model.id,
                outcome=outcome,
                request_id=call.request_id,
                policies=decision.policies,
                detail={"errors": "; ".join(decision.errors)[:1000]} if decision.errors else {},
            )
        )


def _least_cost_picodollars(price: Price | None) -> int:
    """The price of the least request: a token in, and one out or a search, where these have a price."""
    if price is None:
        return 0
    return price.picodollars_per_token + (price.output_picodollars_per_token or 0) + (price.picodollars_per_search or 0)


_WISHES = {"embedding": "embedding with", "completion": "chat with", "rerank": "ranking with"}


def _explain(call: Call[Any], decision: Decision) -> str:
    wish = f"{_WISHES[call.request.action]} {call.request.model[:200]}"
    if decision.policies:
        return f"{wish} is forbidden by policy {', '.join(decision.policies)}. Ask your administrator."
    return f"No policy permits {wish} for this key. Ask your administrator."
