"""May this caller do this now: policies, limits, budgets. Refuses before a provider is touched.

Owns what a request was let in with, from here to its ledger entry. Knows the order of the three questions: a policy's
refusal counts nowhere, and nobody's money is held for one who has to wait.
"""

from collections.abc import Callable, Sequence
from datetime import datetime

from embedgate.core.access import AuditEvent, Caller, Decision, Question, Rate
from embedgate.core.clock import utc_now
from embedgate.core.errors import BudgetExhausted, NotPermitted
from embedgate.core.ports import AuditTrail, PolicyDecider, Tokenizers
from embedgate.core.types import Call, Candidate
from embedgate.engine.budgets import Budgets
from embedgate.engine.grant import Grant
from embedgate.engine.limits import Limits
from embedgate.engine.tokens import bound, bounds, count_aside

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

        Raises NotPermitted, RateLimited, Overloaded, BudgetExhausted, or InternalError if the ledger cannot be read.
        """
        subjects = call.caller.subjects
        has_budget = self._budgets.applies(subjects)
        is_exact = has_budget or self._reads_weights or self._limits.applies(subjects)
        weights = await self._weigh(call, candidates, is_exact=is_exact)
        permitted = await self._permitted(call, weights)
        amount = max(_cost(candidate, tokens) for candidate, tokens in permitted) if has_budget else 0
        place = await self._limits.enter(subjects, max(tokens for _, tokens in permitted), call.deadline_s)
        try:
            hold = await self._budgets.hold(call.request_id, subjects, amount)
        except BaseException as error:
            place.withdraw()
            if isinstance(error, BudgetExhausted):
                self._note(call, error.code, Decision(is_permitted=False))
            raise
        call.hold, call.held_picodollars = hold, amount
        return Grant(tuple(candidate for candidate, _ in permitted), place, hold)

    def rate(self, caller: Caller) -> Rate | None:
        """Where a caller stands with its limits; None if it has none."""
        return self._limits.rate(caller.subjects)

    async def _weigh(
        self, call: Call, candidates: Sequence[Candidate], *, is_exact: bool
    ) -> list[tuple[Candidate, int]]:
        """Each candidate with the tokens of the request there: exact where its tokenizer is here, else a bound."""
        request = call.request
        at_most = sum(bounds(request.inputs))
        found: dict[str, int] = {}
        weighed = []
        for candidate in candidates:
            route = candidate.route
            if is_exact and route.tokenizer not in found:
                found[route.tokenizer] = (await count_aside(request.inputs, route, self._tokenizers)).total
            prefix = route.query_prefix if request.input_type == "query" else route.document_prefix
            added = len(request.inputs) * bound(prefix) if prefix and request.input_type else 0
            weighed.append((candidate, found.get(route.tokenizer, at_most) + added))
        return weighed

    async def _permitted(self, call: Call, weights: Sequence[tuple[Candidate, int]]) -> list[tuple[Candidate, int]]:
        """The candidates that the policies permit; the audit trail has why. Raises NotPermitted if there is none."""
        day = month = 0
        if self._reads_spends:
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
            self._note(call, "permit", next(decision for decision in decisions if decision.is_permitted))
            return permitted
        self._note(call, "forbid", decisions[0])
        raise NotPermitted(_explain(call, decisions[0]), policies=decisions[0].policies)

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

    def _note(self, call: Call, outcome: str, decision: Decision) -> None:
        self._audit.note(
            AuditEvent(
                kind="decision",
                at_ms=int(self._now().timestamp() * 1000),
                actor=call.caller.key_id,
                action="embedding",
                target=call.request.model[:200],
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
