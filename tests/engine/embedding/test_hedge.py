"""A second route is asked when the first takes longer than it usually does; both are paid for, only one counts."""

import asyncio
import dataclasses
from dataclasses import dataclass, field

import numpy as np
import pytest

from doubles import Bench, ScriptedProvider, Words, model, vector_of
from embedgate.core.access import BudgetRule, Caller, Rules, Subject
from embedgate.core.errors import GatewayError, InvalidInput, UpstreamFailed
from embedgate.core.hints import Observe, ignore
from embedgate.core.models import Model, Route
from embedgate.core.types import Batch, Candidate, EmbedRequest, EmbedResult, ProviderReply
from embedgate.engine.upstream.credentials import Credential, Credentials
from embedgate.engine.upstream.limits import CredentialLimits, QueueLimits
from embedgate.settings import UpstreamSettings

PRICE = 7
USUAL_S = 0.01
KEY = Subject("key", "key_1")
CALLER = Caller("user_1", "u", "key_1", subjects=(KEY,))
HEDGED = UpstreamSettings(hedge=True, max_retries=0)
NEVER = 60.0


@dataclass
class Timed(ScriptedProvider):
    """Answers after the seconds that are set for each call, else at once; or fails then. `ended` counts answers."""

    delays_s: list[float] = field(default_factory=list)
    errors: list[GatewayError | None] = field(default_factory=list)
    ended: int = 0

    async def embed(self, batch: Batch, route: Route, deadline_s: float) -> ProviderReply:
        """One call."""
        await asyncio.sleep(self.delays_s.pop(0) if self.delays_s else 0)
        if self.errors and (error := self.errors.pop(0)) is not None:
            self.batches.append(batch)
            raise error
        reply = await super().embed(batch, route, deadline_s)
        self.ended += 1
        return reply


def bench_of(
    first: Timed,
    second: Timed,
    upstream: UpstreamSettings = HEDGED,
    rules: Rules | None = None,
    of: Model | None = None,
) -> Bench:
    """Two routes of one model; the first is known to answer within a hundredth of a second."""
    asked = of or model("a", "b", price=PRICE)
    bench = Bench([asked], {"a": first, "b": second}, upstream=upstream, rules=rules or Rules())
    state = bench.states.of(Candidate(asked, asked.routes[0]))
    for _ in range(50):
        state.succeeded(USUAL_S)
    return bench


async def embed(bench: Bench, *texts: str) -> EmbedResult:
    result = await bench.pipeline.embed_as("req_1", CALLER, EmbedRequest("acme/m", texts or ("one two",)))
    np.testing.assert_allclose(result.vectors, [vector_of(text) for text in texts or ("one two",)], atol=1e-6)
    assert len(asyncio.all_tasks()) == 1
    return result


async def test_a_call_in_its_usual_time_has_the_field_for_itself() -> None:
    bench = bench_of(Timed(), second := Timed())
    result = await embed(bench)
    assert (result.provider, second.batches) == ("a", [])


async def test_the_second_answer_counts_if_it_is_first_and_the_other_call_is_paid_for_by_our_count() -> None:
    bench = bench_of(first := Timed(delays_s=[NEVER]), second := Timed())
    result = await embed(bench)
    assert (result.provider, first.ended, second.ended) == ("b", 0, 1)
    (entry,) = bench.memory.entries
    assert (entry.provider, entry.tokens, entry.tokens_estimated) == ("b", 4, True)
    assert entry.cost_picodollars == result.cost_picodollars == 4 * PRICE
    assert result.usage.tokens == 2


async def test_the_first_answer_counts_if_it_comes_after_all() -> None:
    bench = bench_of(Timed(delays_s=[5 * USUAL_S]), second := Timed(delays_s=[NEVER]))
    result = await embed(bench)
    assert (result.provider, second.ended) == ("a", 0)
    (entry,) = bench.memory.entries
    assert (entry.provider, entry.tokens, entry.tokens_estimated) == ("a", 4, True)


async def test_a_second_call_that_fails_harms_nobody() -> None:
    bench = bench_of(Timed(delays_s=[5 * USUAL_S]), Timed(errors=[UpstreamFailed("broke")]))
    assert (await embed(bench)).provider == "a"
    (entry,) = bench.memory.entries
    assert (entry.tokens, entry.tokens_estimated) == (2, False)


async def test_when_the_first_fails_the_second_is_waited_for() -> None:
    first = Timed(delays_s=[5 * USUAL_S], errors=[UpstreamFailed("broke")])
    bench = bench_of(first, second := Timed(delays_s=[20 * USUAL_S]))
    assert (await embed(bench)).provider == "b"
    assert len(second.batches) == 1


async def test_what_only_the_second_route_does_not_take_is_no_mistake_of_the_caller() -> None:
    bench = bench_of(Timed(delays_s=[5 * USUAL_S]), Timed(errors=[InvalidInput("is too long there", index=0)]))
    assert (await embed(bench)).provider == "a"


async def test_the_callers_own_mistake_ends_both() -> None:
    first = Timed(delays_s=[5 * USUAL_S], errors=[InvalidInput("is too odd", index=1)])
    bench = bench_of(first, Timed(delays_s=[NEVER]))
    with pytest.raises(InvalidInput, match=r"^input\[1\] is too odd"):
        await embed(bench, "x", "y")
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize(("cap", "provider"), [(2 * 2 * PRICE, "b"), (2 * 2 * PRICE - 1, "a")])
async def test_the_money_for_both_is_held_or_nobody_else_is_asked(cap: int, provider: str) -> None:
    rules = Rules(budgets=(BudgetRule(KEY, "day", cap),))
    bench = bench_of(Timed(delays_s=[10 * USUAL_S]), Timed(), rules=rules)
    assert (await embed(bench)).provider == provider
    (state,) = await bench.budgets.state()
    assert state.held_picodollars == 0
    assert state.spent_picodollars <= cap


async def test_second_calls_come_out_of_the_budget_of_further_attempts() -> None:
    settings = UpstreamSettings(hedge=True, retry_reserve=3, retry_share=0.0)
    first = Timed(delays_s=[5 * USUAL_S] * 10)
    bench = bench_of(first, second := Timed(delays_s=[NEVER] * 10), settings)
    for number in range(6):
        await embed(bench, f"text {number}")
    assert len(first.batches) == 6
    assert len(second.delays_s) == 10 - 3


async def test_only_routes_of_the_same_precision_are_asked_beside() -> None:
    found = model("a", "b", price=PRICE)
    first, second = found.routes
    mixed = dataclasses.replace(found, routes=(first, dataclasses.replace(second, precision="int8")))
    bench = bench_of(Timed(delays_s=[5 * USUAL_S]), other := Timed(), of=mixed)
    assert (await embed(bench)).provider == "a"
    assert other.batches == []


async def test_a_fallback_model_is_for_failures_and_not_asked_beside() -> None:
    first, other = Timed(delays_s=[5 * USUAL_S]), ScriptedProvider()
    asked = model("a", price=PRICE)
    bench = Bench([asked, model("b", name="acme/other")], {"a": first, "b": other}, upstream=HEDGED)
    for _ in range(50):
        bench.states.of(Candidate(asked, asked.routes[0])).succeeded(USUAL_S)
    request = EmbedRequest("acme/m", ("x",), fallback_model="acme/other")
    assert (await bench.embed(request)).model == "acme/m"
    assert other.batches == []


@dataclass
class TimedDriver(Timed):
    """The same behind an account."""

    async def embed(  # an account passes on what answers say of limits
        self, batch: Batch, route: Route, deadline_s: float, observe: Observe = ignore
    ) -> ProviderReply:
        """One call."""
        return await super().embed(batch, route, deadline_s)


async def test_a_call_that_is_given_up_while_it_waits_for_room_costs_nothing_and_harms_nobody() -> None:
    meter = CredentialLimits("a", QueueLimits(2.0, 10))
    meter.block("m", 1.0)
    first = TimedDriver()
    accounts = Credentials([Credential(first, meter)], Words())  # type: ignore[arg-type]  # it embeds only
    bench = bench_of(accounts, second := Timed())  # type: ignore[arg-type]  # a real one
    assert (await embed(bench)).provider == "b"
    (entry,) = bench.memory.entries
    assert (entry.tokens, entry.tokens_estimated) == (2, False)
    assert (len(first.batches), len(second.batches), meter.in_flight) == (0, 1, 0)
    asked = model("a")
    assert bench.states.of(Candidate(asked, asked.routes[0])).health().failure_share == 0


async def test_nobody_is_asked_beside_unless_it_is_set() -> None:
    bench = bench_of(Timed(delays_s=[5 * USUAL_S]), second := Timed(), UpstreamSettings())
    assert (await embed(bench)).provider == "a"
    assert second.batches == []


async def test_a_route_that_is_always_outrun_is_left_out_and_does_not_shrink_what_is_usual() -> None:
    bench = bench_of(Timed(delays_s=[NEVER] * 99), Timed(delays_s=[USUAL_S] * 99))
    asked = model("a", "b", price=PRICE)
    state = bench.states.of(Candidate(asked, asked.routes[0]))
    for number in range(12):
        assert (await embed(bench, f"text {number}")).provider == "b"
    assert not state.is_well
    assert (state.p95_s or 0) >= USUAL_S


async def test_every_part_of_a_large_request_is_charged_to_who_did_it() -> None:
    parts = model("a", "b", price=PRICE, max_inputs=2)
    bench = bench_of(Timed(delays_s=[0, NEVER, 0]), second := Timed(), of=parts)
    result = await embed(bench, "p", "q", "r", "s", "t", "u")
    assert len(second.batches) == 1
    (entry,) = bench.memory.entries
    assert entry.tokens == 6 + 2
    assert result.usage.tokens == 6
