"""May this caller do this now: policies, limits, budgets. Refuses before a provider is touched.

Owns what a request was let in with, from here to its ledger entry. Knows the order of the three questions: a policy's
refusal counts nowhere, and nobody's money is held for one who has to wait.
"""

from collections.abc import Callable, Sequence
from datetime import datetime

from embedgate.core.access import AuditEvent, Caller, Decision, Question, Rate
from embedgate.core.clock import ms_of, utc_now
from embedgate.core.errors import DependencyMissing, GatewayError, InvalidInput, NotPermitted
from embedgate.core.ports import AuditTrail, PolicyDecider, Tokenizers
from embedgate.core.types import Call, Candidate, EmbedRequest, Input, Model, Route
from embedgate.engine.budgets import Budgets, Hold
from embedgate.engine.grant import Grant
from embedgate.engine.limits import Admitted, Limits
from embedgate.engine.prepare import prefix_of, prepared
from embedgate.engine.tokens import bounds, count_aside

_SPENDS = frozenset({"principal.current_daily_spend", "principal.current_monthly_spend"})
_WEIGHTS = frozenset({"context.input_tokens", "context.estimated_cost"})


class Admission:
    """The gate. Policies, limits and budgets may be replaced while it stands."""

    def __init__(
        self,
        decider: PolicyDecider,
        limits: Limits,
        budgets: Budgets,
        audit: AuditTrail,
        tokenizers: Tokenizers,
        is_emergency: bool = False,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        """is_emergency: what policies are told. now: an aware time, of the clock that dates ledger entries."""
        self._limits = limits
        self._budgets = budgets
        self._audit = audit
        self._tokenizers = tokenizers
        self._is_emergency = is_emergency
        self._now = now
        self.follow(decider)

    def follow(self, decider: PolicyDecider) -> None:
        """Put other policies in force."""
        self._decider = decider
        self._reads_spends = not _SPENDS.isdisjoint(decider.reads)
        self._reads_weights = not _WEIGHTS.isdisjoint(decider.reads)

    async def __call__(self, call: Call, candidates: Sequence[Candidate]) -> Grant:
        """Let a request in, on those of its routes that the policies permit. The grant must be ended by `account`.

        What the policies decided, and whether the request was let in then, is one event of the audit trail.
        Raises NotPermitted, RateLimited, Overloaded, BudgetExhausted, or InternalError if the ledger cannot be read.
        """
        model = candidates[0].model
        weights = await self._weigh(call, candidates)
        permitted, decision = await self._permitted(call, model, weights)
        try:
            tokens = max(tokens for _, tokens in permitted)
            place = await self._limits.enter(call.caller.subjects, tokens, call.deadline_s)
            hold = await self._hold(call, permitted, place)
        except GatewayError as error:
            self._note(call, model, error.code, decision)
            raise
        self._note(call, model, "permit", decision)
        return Grant(tuple(candidate for candidate, _ in permitted), place, hold)

    def rate(self, caller: Caller) -> Rate | None:
        """Where a caller stands with its limits; None if it has none."""
        return self._limits.rate(caller.subjects)

    async def _weigh(self, call: Call, candidates: Sequence[Candidate]) -> list[tuple[Candidate, int]]:
        """Each candidate with the tokens of the request there: those that it will bill, if its tokenizer is here and
        anything depends on them; else a bound.
        """
        request, subjects = call.request, call.caller.subjects
        if not (self._reads_weights or self._budgets.applies(subjects) or self._limits.applies(subjects)):
            at_most = sum(bounds(request.inputs))
            return [(candidate, at_most) for candidate in candidates]
        found: dict[tuple[str | bool, ...], int] = {}
        weighed = []
        for candidate in candidates:
            route = candidate.route
            model = route.upstream_model if route.tokenizer == "local" else ""
            alike = (route.tokenizer, model, prefix_of(request.input_type, route), route.accepts_token_ids)
            if alike not in found:
                sent = self._as_sent(request, route)
                found[alike] = (await count_aside(sent, route, self._tokenizers)).total
            weighed.append((candidate, found[alike]))
        return weighed

    def _as_sent(self, request: EmbedRequest, route: Route) -> Sequence[Input]:
        prefix = prefix_of(request.input_type, route)
        try:
            return [prepared(item, prefix, route, self._tokenizers) for item in request.inputs]
        except (InvalidInput, DependencyMissing):
            return request.inputs  # they cannot be sent there, and so cost nothing: `plan` refuses if it comes to that

    async def _permitted(
        self, call: Call, model: Model, weights: Sequence[tuple[Candidate, int]]
    ) -> tuple[list[tuple[Candidate, int]], Decision]:
        """The candidates that the policies permit, and why the first of them is. model: the asked one.

        Raises NotPermitted if none is.
        """
        day = month = 0
        if self._reads_spends and call.caller.subjects:  # the operator of the gateway has none
            spends = await self._budgets.spends(call.caller.subjects[0])
            day, month = spends.day_picodollars, spends.month_picodollars
        now = self._now()
        permitted = []
        decisions = []
        for candidate, tokens in weights:
            decision = self._decider.decide(self._question(call, candidate, tokens, now, day, month))
            decisions.append(decision)
            if decision.is_permitted:
                permitted.append((candidate, tokens))
        if permitted:
            return permitted, next(decision for decision in decisions if decision.is_permitted)
        self._note(call, model, "forbid", decisions[0])
        raise NotPermitted(_explain(call, decisions[0]), policies=decisions[0].policies)

    async def _hold(self, call: Call, permitted: Sequence[tuple[Candidate, int]], place: Admitted) -> Hold:
        """Hold the price of the dearest route, or let go of the place."""
        amount = max(_cost(candidate, tokens) for candidate, tokens in permitted)
        try:
            hold = await self._budgets.hold(call.request_id, call.caller.subjects, amount)
        except BaseException:
            place.withdraw()
            raise
        call.hold, call.held_picodollars = hold, amount
        return hold

    def _question(self, call: Call, candidate: Candidate, tokens: int, now: datetime, day: int, month: int) -> Question:
        request, model = call.request, candidate.model
        return Question(
            caller=call.caller,
            action="embedding",
            model=model.id,
            model_name=model.name,
            provider=candidate.route.provider,
            space=model.space or model.id,
            at=now,
            ip_address=call.ip_address,
            is_emergency=self._is_emergency,
            n_inputs=len(request.inputs),
            tokens=tokens,
            dim=request.dim or candidate.route.dims.default,
            input_type=request.input_type or "none",
            cost_picodollars=_cost(candidate, tokens),
            daily_spend_picodollars=day,
            monthly_spend_picodollars=month,
            requests_per_minute=self._limits.requests_per_minute(call.caller.user_id),
        )

    def _note(self, call: Call, model: Model, outcome: str, decision: Decision) -> None:
        self._audit.note(
            AuditEvent(
                kind="decision",
                at_ms=ms_of(self._now()),
                actor=call.caller.key_id,
                action="embedding",
                target=model.id,
                outcome=outcome,
                request_id=call.request_id,
                policies=decision.policies,
                detail={"errors": "; ".join(decision.errors)[:1000]} if decision.errors else {},
            )
        )


def _cost(candidate: Candidate, tokens: int) -> int:
    price = candidate.route.price
    return tokens * price.picodollars_per_token if price else 0


def _explain(call: Call, decision: Decision) -> str:
    wish = f"embedding with {call.request.model[:200]}"
    if decision.policies:
        return f"{wish} is forbidden by policy {', '.join(decision.policies)}. Ask your administrator."
    return f"No policy permits {wish} for this key. Ask your administrator."
