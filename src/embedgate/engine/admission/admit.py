"""Admission: policies, then rate limits, then budgets, before a provider is called.

The order matters: what a policy refuses counts in no limit, and no money is held for a request that waits for its turn.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from msgspec import Struct

from embedgate.core.access import NO_DETAIL, AuditEvent, Caller, Decision, Question, Rate
from embedgate.core.actions import ACTIONS, Action
from embedgate.core.clock import ms_of, utc_ms, utc_now
from embedgate.core.errors import GatewayError, LedgerUnavailable, NotPermitted, Overloaded, PriceUnknown
from embedgate.core.models import Price
from embedgate.core.ports import AuditTrail, BudgetKeeper, LedgerHealth, PolicyDecider, RateLimiter
from embedgate.core.types import Call, Candidate, CountedRequest, Grant, InputType, Intents, Weighed
from embedgate.observe import events, metrics

_SPENDS = frozenset({"principal.current_daily_spend", "principal.current_monthly_spend"})
_WEIGHTS = frozenset({"context.input_tokens", "context.estimated_cost"})
_MAX_TOLD = 1_000
_MAX_MODELS_TOLD = 20
_OUTAGE_RETRY_S = 5.0
_DECISIONS_PER_TURN = 10
"""Up to two milliseconds of work; then the event loop has its turn."""


class Entrance(Struct, eq=False):
    """Place in the rate limits of a request whose body has not arrived yet; others need none.

    The reader of the body calls `enter` before it waits for more; what a place is, the pipeline has said in `opens`.
    The request counts at once and is in flight; its tokens are weighed by `admit`, once they are known.
    """

    _take_place: Callable[[], Awaitable[CountedRequest]] | None = None
    counted: CountedRequest | None = None
    user_id: str = ""
    """Whose request it is, once the caller is known."""

    def opens(self, user_id: str, take_place: Callable[[], Awaitable[CountedRequest]]) -> None:
        """Say how a place is taken, now that the caller is known. It may raise RateLimited or Overloaded."""
        self.user_id = user_id
        self._take_place = take_place

    async def enter(self) -> None:
        """Take a place. Raises RateLimited or Overloaded."""
        if self._take_place is not None:
            self.counted = await self._take_place()

    def withdraw(self) -> None:
        """Give the place back, and undo the count: the request was not served."""
        if self.counted is not None:
            self.counted.withdraw()


class Admission:
    """Admits or refuses requests. Its policies, limits and budgets may be replaced while requests come."""

    def __init__(
        self,
        decider: PolicyDecider,
        limits: RateLimiter,
        budgets: BudgetKeeper,
        audit: AuditTrail,
        is_emergency: bool = False,
        now: Callable[[], datetime] = utc_now,
        ledger: LedgerHealth | None = None,
        *,
        serves_unrecorded: bool = True,
        refusals: AuditTrail | None = None,
        intents: Intents | None = None,
        intends_for_all: bool = True,
        is_sole: Callable[[], bool] = lambda: True,
        heeds_callers_emergency: bool = False,
    ) -> None:
        """is_emergency: what policies are told; heeds_callers_emergency: also if a request says it is one. now: an
        aware time, of the clock that dates ledger entries.

        ledger: whether it can be written; None if it always can. serves_unrecorded: whether what costs nothing is
        admitted while it cannot. refusals: where refusals are noted, if not where the other events are. intents: where
        it is noted what a request may spend; intends_for_all: also where no budget applies to its caller. is_sole:
        whether no other process counts the same budgets.
        """
        self._ledger = ledger
        self._serves_unrecorded = serves_unrecorded
        self._intents = intents
        self._intends_for_all = intends_for_all
        self._is_sole = is_sole
        self._limits = limits
        self._budgets = budgets
        self._audit = audit
        self._refusals = refusals or audit
        self._is_emergency = is_emergency
        self._heeds_callers_emergency = heeds_callers_emergency
        self._now = now
        self._now_ms: Callable[[], int] = utc_ms if now is utc_now else lambda: ms_of(now())
        self.follow(decider)

    def follow(self, decider: PolicyDecider) -> None:
        """Put other policies in force."""
        self._decider = decider
        self._told: set[str] = set()
        self._reads_spends = not _SPENDS.isdisjoint(decider.reads)
        self._reads_weights = not _WEIGHTS.isdisjoint(decider.reads)

    def depends_on_weight(self, caller: Caller) -> bool:
        """Whether any policy, limit or budget of this caller needs the exact weight of its request."""
        subjects = caller.subjects
        return self._reads_weights or self._budgets.applies(subjects) or self._limits.applies(subjects)

    def is_budgeted(self, caller: Caller) -> bool:
        """Whether a budget applies to this caller."""
        return self._budgets.applies(caller.subjects)

    async def admit(self, call: Call[Any], weighed: Sequence[Weighed]) -> Grant:
        """Admit a request to those of its routes that the policies permit. `account` must end the grant.

        What the policies decided, and whether the request was admitted, is one event of the audit trail.
        With a budget, routes of unknown price are left out; while the ledger cannot be written, those that bill.
        Raises NotPermitted, PriceUnknown, LedgerUnavailable, RateLimited, Overloaded, BudgetExhausted, or InternalError
        if the ledger cannot be read.
        """
        constant = self._decider.constant
        if constant is not None and constant.is_permitted and call.caller.models is None:
            permitted, decision = weighed, constant
        else:
            permitted, decision = await self._permitted(call, weighed)
        is_budgeted = self._budgets.applies(call.caller.subjects)
        if is_budgeted:
            permitted = self._priced(call, permitted, decision)
        if self._ledger is not None and self._ledger.outage is not None:
            permitted = self._unrecorded(call, permitted, decision)
        tokens = amount = 0
        for each in permitted:
            tokens = max(tokens, each.tokens + each.output_tokens)
            amount = max(amount, each.cost_picodollars)
        try:
            if is_budgeted and amount:
                self._check_sole()
            if call.counted is None:
                counted = await self._limits.enter(call.caller.subjects, tokens, call.deadline_s)
            else:
                counted = call.counted
                counted.weigh(tokens)
            try:
                hold = await self._budgets.hold(call.request_id, call.caller.subjects, amount)
            except BaseException:
                counted.withdraw()
                raise
        except GatewayError as error:
            self._note(call, weighed[0], error.code, decision)
            raise
        self._note(call, weighed[0], "permit", decision)
        candidates = tuple([each.candidate for each in permitted])
        intents = self._intents if is_budgeted or self._intends_for_all else None
        call.grant = grant = Grant(candidates, counted, hold, amount, tuple(permitted), is_budgeted, intents)
        return grant

    async def enter(self, caller: Caller, request_id: str, deadline_s: float) -> CountedRequest:
        """Count a request whose body is not read yet, and in flight. `admit` weighs its tokens.

        Nothing else is known of it but its caller; a refusal is an event of the audit trail all the same.
        Raises RateLimited or Overloaded.
        """
        try:
            return await self._limits.enter(caller.subjects, 0, deadline_s)
        except GatewayError as error:
            self._refusals.note(
                AuditEvent(
                    kind="decision",
                    at_ms=self._now_ms(),
                    actor=caller.key_id,
                    action="",
                    target="",
                    outcome=error.code,
                    request_id=request_id,
                )
            )
            raise

    def rate(self, caller: Caller) -> Rate | None:
        """Where a caller stands with its limits; None if it has none."""
        return self._limits.rate(caller.subjects)

    async def usable(self, caller: Caller, candidates: Sequence[Candidate], ip_address: str = "") -> list[Candidate]:
        """Candidates that the policies permit the caller for the smallest request: one item of one token, no options.

        Counts in no limit and leaves no event. Raises InternalError if spends matter and the ledger cannot be read.
        """
        spends = await self._spends(caller)
        now, decide = self._now(), self._decider.decide
        if caller.models is not None:
            candidates = [each for each in candidates if each.model.id in caller.models]
        found = []
        for position, candidate in enumerate(candidates):
            if position % _DECISIONS_PER_TURN == 0:
                await asyncio.sleep(0)
            route = candidate.route
            least = Weighed(candidate, 1, _least_cost_picodollars(route.price), route.dims.default)
            action = ACTIONS[candidate.model.action]
            if decide(self._question(caller, ip_address, action, 1, None, least, now, spends)).is_permitted:
                found.append(candidate)
        return found

    async def _spends(self, caller: Caller) -> tuple[int, int]:
        """What the caller's key has spent today and this month, if any policy reads it."""
        if not self._reads_spends or not caller.subjects:  # the operator of the gateway has none
            return 0, 0
        spends = await self._budgets.spends(caller.subjects[0])
        return spends.day_picodollars, spends.month_picodollars

    async def _permitted(self, call: Call[Any], weighed: Sequence[Weighed]) -> tuple[Sequence[Weighed], Decision]:
        """The candidates that the policies permit, and why the first of them is.

        Raises NotPermitted if none is.
        """
        weighed = self._of_key(call, weighed)
        constant = self._decider.constant
        if constant is not None:
            if constant.is_permitted:
                return weighed, constant
            decisions = [constant]
        else:
            spends = await self._spends(call.caller)
            now, request = self._now(), call.request
            decisions = [
                self._decider.decide(
                    self._question(
                        call.caller,
                        call.ip_address,
                        request.action,
                        request.n_items,
                        request.input_type,
                        each,
                        now,
                        spends,
                        request.is_emergency,
                    )
                )
                for each in weighed
            ]
            self._tell_failures(decisions)
            permitted = [each for each, decision in zip(weighed, decisions, strict=True) if decision.is_permitted]
            if permitted:
                return permitted, _with_all_errors(next(each for each in decisions if each.is_permitted), decisions)
        self._note(call, weighed[0], "forbid", _with_all_errors(decisions[0], decisions))
        raise NotPermitted(_explain(call, decisions[0]), policies=decisions[0].policies)

    def _of_key(self, call: Call[Any], weighed: Sequence[Weighed]) -> Sequence[Weighed]:
        """The candidates of models that the key may use. Raises NotPermitted if there is none."""
        models = call.caller.models
        if models is None:
            return weighed
        found = [each for each in weighed if each.candidate.model.id in models]
        if not found:
            self._note(call, weighed[0], "forbid", Decision(False))
            raise NotPermitted(
                f"{call.request.action.verb} {call.request.model[:200]} is not for this key, which is for "
                f"{', '.join(sorted(models)[:_MAX_MODELS_TOLD]) or 'no model'}"
                f"{' and others' if len(models) > _MAX_MODELS_TOLD else ''}. Name one of them, or use another key."
            )
        return found

    def _tell_failures(self, decisions: Sequence[Decision]) -> None:
        """Count policies that failed to run, and log each failure once for each set of policies."""
        for decision in decisions:
            if not decision.errors:
                continue
            n_forbids = len(decision.failed_forbids)
            metrics.policies_failed(forbids=n_forbids, permits=len(decision.errors) - n_forbids)
            for error in decision.errors:
                if error not in self._told and len(self._told) < _MAX_TOLD:
                    self._told.add(error)
                    events.POLICY_FAILED.emit(detail=error[:500])

    def _priced(self, call: Call[Any], permitted: Sequence[Weighed], decision: Decision) -> Sequence[Weighed]:
        """The candidates whose price is known: what is not known cannot be held. Raises PriceUnknown if none is."""
        priced = [each for each in permitted if each.candidate.route.has_price(each.candidate.model.action)]
        if not priced:
            self._note(call, permitted[0], PriceUnknown.code, decision)
            raise PriceUnknown(_which_price(permitted[0].candidate), param="model")
        return priced

    def _check_sole(self) -> None:
        """Raises Overloaded if another process counts the same budgets."""
        if not self._is_sole():
            raise Overloaded(
                "Another server runs on the same data folder, and only that one can count budgets. Ask that one, or "
                "try again when it has ended.",
                retry_after_s=_OUTAGE_RETRY_S,
            )

    def _unrecorded(self, call: Call[Any], permitted: Sequence[Weighed], decision: Decision) -> Sequence[Weighed]:
        """The candidates that may serve though the ledger cannot be written. Raises LedgerUnavailable if none may."""
        free = [each for each in permitted if each.candidate.route.costs_nothing()] if self._serves_unrecorded else []
        if not free:
            self._note(call, permitted[0], LedgerUnavailable.code, decision)
            raise LedgerUnavailable(
                "The ledger of the gateway cannot be written, so nothing is sent that has to be paid. Try again.",
                retry_after_s=_OUTAGE_RETRY_S,
            )
        return free

    def _question(
        self,
        caller: Caller,
        ip_address: str,
        action: Action,
        n_items: int,
        input_type: InputType | None,
        each: Weighed,
        now: datetime,
        spends: tuple[int, int],
        says_emergency: bool = False,
    ) -> Question:
        model = each.candidate.model
        return Question(
            caller=caller,
            action=action.policy_name,
            model=model.id,
            model_name=model.name,
            provider=each.candidate.route.provider,
            space=model.space or model.id,
            at=now,
            ip_address=ip_address,
            is_emergency=self._is_emergency or (says_emergency and self._heeds_callers_emergency),
            n_inputs=n_items,
            tokens=each.tokens,
            dim=each.dim,
            input_type=input_type or "none",
            cost_picodollars=each.cost_picodollars,
            daily_spend_picodollars=spends[0],
            monthly_spend_picodollars=spends[1],
            requests_per_minute=self._limits.requests_per_minute(caller.user_id),
        )

    def _note(self, call: Call[Any], asked: Weighed, outcome: str, decision: Decision) -> None:
        detail = NO_DETAIL
        if decision.errors:
            detail = {"errors": "; ".join(decision.errors)[:1000]}
        if call.request.is_emergency and self._heeds_callers_emergency:
            detail = {**detail, "is_emergency": "said by the caller"}
        event = AuditEvent(
            kind="decision",
            at_ms=self._now_ms(),
            actor=call.caller.key_id,
            action=call.request.action.policy_name,
            target=asked.candidate.model.id,
            outcome=outcome,
            request_id=call.request_id,
            policies=decision.policies,
            detail=detail,
        )
        (self._audit if outcome == "permit" else self._refusals).note(event)


def _with_all_errors(decision: Decision, decisions: Sequence[Decision]) -> Decision:
    """A decision with the errors of those on other routes, so that none is missing from the audit trail."""
    errors = tuple(dict.fromkeys(error for each in decisions for error in each.errors))
    return decision if errors == decision.errors else replace(decision, errors=errors)


def _least_cost_picodollars(price: Price | None) -> int:
    """The price of the least request: a token in, and one out or a search, where these have a price."""
    if price is None:
        return 0
    return price.picodollars_per_token + (price.output_picodollars_per_token or 0) + (price.picodollars_per_search or 0)


def _which_price(candidate: Candidate) -> str:
    model, provider = candidate.model, candidate.route.provider
    if model.action == "chat":
        command = (
            "usd_per_million_input_tokens and usd_per_million_output_tokens of this route in the catalogue file "
            "(catalog.file)"
        )
    else:
        command = f"embedgate prices set {model.id} {provider} <dollars per million input tokens>"
    return (
        f"{model.id} at {provider} has no known price, and a budget applies to this caller. Ask an administrator to "
        f"set it, 0 if nothing is billed: {command}; or providers.{provider}.free for a server of your own."
    )


def _explain(call: Call[Any], decision: Decision) -> str:
    wish = f"{call.request.action.verb} {call.request.model[:200]}"
    if decision.failed_forbids:
        return (
            f"{wish} is refused, because policy {', '.join(decision.failed_forbids)} forbids and could not be "
            "evaluated for this request. Ask your administrator to repair it."
        )
    if decision.policies:
        return f"{wish} is forbidden by policy {', '.join(decision.policies)}. Ask your administrator."
    return f"No policy permits {wish} for this key. Ask your administrator."
