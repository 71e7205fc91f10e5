"""The gate as a whole: budgets and limits exact to one request, holds as large as the bill, one decision on record."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from msgspec import structs

from asking_limits import Clock
from doubles import SECRET, Bench, Memory, Permit, ScriptedProvider, Step, Words, model, weight
from embedgate.core.access import BudgetRule, Caller, LimitRule, Rate, Rules, Subject
from embedgate.core.errors import (
    BudgetExhausted,
    GatewayError,
    MalformedRequest,
    NotPermitted,
    Overloaded,
    RateLimited,
    UnknownModel,
    UpstreamFailed,
)
from embedgate.core.models import Model, Price, Route
from embedgate.core.ports import TokenCounter
from embedgate.core.types import (
    Batch,
    Candidate,
    EmbedRequest,
    EmbedResult,
    Input,
    Origin,
    ProviderReply,
)
from embedgate.settings import UpstreamSettings

PRICE = 7
KEY, USER, PROJECT = Subject("key", "key_1"), Subject("user", "user_1"), Subject("project", "project_1")
CALLER = Caller("user_1", "u", "key_1", project_id="project_1", subjects=(KEY, USER, PROJECT))
CHAT = replace(model("a", name="acme/talker"), action="chat", space=None, dims=None)
PATIENT = UpstreamSettings(max_retries=10, retry_wait_s=1e-6, retry_reserve=1_000)


def request(*inputs: Input, **changes: object) -> EmbedRequest:
    return structs.replace(EmbedRequest(model="acme/m", inputs=inputs), **changes)


def day_budget(requests: int, *, subject: Subject = PROJECT, tokens: int = 2) -> BudgetRule:
    """What so many requests of so many tokens cost."""
    return BudgetRule(subject, "day", requests * tokens * PRICE)


def right(_batch: Batch, reply: ProviderReply) -> ProviderReply:
    return reply


def wrong(_batch: Batch, reply: ProviderReply) -> ProviderReply:
    return structs.replace(reply, vectors=reply.vectors * 0)


def broken(_batch: Batch, _reply: ProviderReply) -> ProviderReply:
    raise UpstreamFailed("passing")


class Crowd:
    """Callers of one pipeline who come at once, each with texts of its own, of two tokens."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._ids = itertools.count()

    def come(self, n: int) -> "list[asyncio.Task[EmbedResult]]":
        numbers = [next(self._ids) for _ in range(n)]
        return [asyncio.create_task(self.ask(request(f"text {number}"), f"req_{number}")) for number in numbers]

    async def ask(self, wish: EmbedRequest, request_id: str) -> EmbedResult:
        return await self.bench.pipeline.embed_as(request_id, CALLER, wish)

    async def ends(self, tasks: "Sequence[asyncio.Task[EmbedResult]]") -> Counter[str]:
        """How often each end came, once nothing runs any more."""
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert await self.bench.pipeline.running.drain(10) == 0
        return Counter(type(end).__name__ for end in ends)

    async def held(self) -> list[int]:
        return [state.held_picodollars for state in await self.bench.budgets.state()]

    def spent(self) -> int:
        return sum(entry.cost_picodollars for entry in self.bench.memory.entries)


def crowd(rules: Rules, provider: ScriptedProvider | None = None, **settings: object) -> Crowd:
    providers = {"a": provider or ScriptedProvider()}
    return Crowd(Bench([model("a", price=PRICE)], providers, rules=rules, upstream=PATIENT, **settings))  # type: ignore[arg-type]  # of Bench


# Budgets, through the whole pipeline.


async def test_of_200_requests_at_once_exactly_the_50_that_the_budget_pays_for_are_served() -> None:
    callers = crowd(Rules(budgets=(day_budget(50),)))
    assert await callers.ends(callers.come(200)) == {"EmbedResult": 50, "BudgetExhausted": 150}
    assert callers.spent() == 50 * 2 * PRICE
    assert await callers.held() == [0]


async def test_callers_who_leave_are_paid_for_and_leave_nothing_on_hold() -> None:
    gate = asyncio.Event()
    provider = ScriptedProvider(gate=gate)
    callers = crowd(Rules(budgets=(day_budget(50),)), provider)
    tasks = callers.come(200)
    while len(provider.batches) < 50:
        await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    gate.set()
    ends = await callers.ends(tasks)
    assert ends["EmbedResult"] == 25  # of those who were let in, every second has left
    assert callers.spent() == 50 * 2 * PRICE
    assert await callers.held() == [0]


async def test_a_provider_that_fails_one_time_in_three_takes_nothing_from_the_budget() -> None:
    steps: list[Step] = [right, right, broken] * 200
    callers = crowd(Rules(budgets=(day_budget(50),)), ScriptedProvider(steps=steps))
    assert await callers.ends(callers.come(200)) == {"EmbedResult": 50, "BudgetExhausted": 150}
    assert callers.spent() == 50 * 2 * PRICE
    assert await callers.held() == [0]


async def test_wrong_answers_that_are_billed_come_out_of_the_budget_and_never_overspend_it() -> None:
    provider = ScriptedProvider(steps=[right, wrong, broken] * 200)
    callers = crowd(Rules(budgets=(day_budget(50),)), provider)
    ends = await callers.ends(callers.come(200))
    assert ends["EmbedResult"] + ends["BudgetExhausted"] == 200
    assert callers.spent() == provider.charged * PRICE <= 50 * 2 * PRICE
    assert await callers.held() == [0]
    provider.steps.clear()
    left = 50 - provider.charged // 2
    assert (await callers.ends(callers.come(60)))["EmbedResult"] == left
    assert callers.spent() == 50 * 2 * PRICE


@pytest.mark.parametrize("early", [0, 20, 50])
async def test_what_is_in_flight_at_midnight_overspends_neither_day(early: int) -> None:
    """early: how many of 50 end before midnight; the others' entries are of the next day."""
    clock = [datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC)]
    gate = asyncio.Event()
    provider = ScriptedProvider(gate=gate)
    callers = crowd(Rules(budgets=(day_budget(50),)), provider, now=lambda: clock[0])
    gate.set()
    first = await callers.ends(callers.come(early))
    gate.clear()
    late = callers.come(200 - early)
    while len(provider.batches) < 50:
        await asyncio.sleep(0)
    clock[0] += timedelta(seconds=2)
    next_day = callers.come(200)
    await asyncio.sleep(0.01)
    gate.set()
    ends = await callers.ends([*late, *next_day])
    assert first["EmbedResult"] + ends["EmbedResult"] == 50 + early  # what is held counts in both days
    days = Counter[int]()
    for entry in callers.bench.memory.entries:
        days[entry.at_ms // 86_400_000] += entry.cost_picodollars // (2 * PRICE)
    assert sorted(days.values()) == sorted(n for n in (early, 50) if n)
    assert await callers.held() == [0]
    assert await callers.ends(callers.come(10)) == {"BudgetExhausted": 10}


# What is held.


@dataclass
class _Times:
    factor: int
    is_exact: bool = True

    def count(self, text: str) -> int:
        return self.factor * weight(text)


class PerModel(Words):
    """Each model has a tokenizer of its own: some make more tokens of a word."""

    def counter(self, route: Route) -> TokenCounter:
        return _Times(int(route.upstream_model))


async def assert_holds_exactly(models: Sequence[Model], wish: EmbedRequest, tokens: int, **settings: object) -> None:
    """A budget of just so many tokens lets the request in, one of a token less does not."""
    for cap, is_enough in ((tokens * PRICE, True), (tokens * PRICE - 1, False)):
        rules = Rules(budgets=(BudgetRule(KEY, "total", cap),))
        bench = Bench(models, {"a": ScriptedProvider()}, rules=rules, **settings)  # type: ignore[arg-type]  # of Bench
        if is_enough:
            await bench.pipeline.embed_as("req_1", CALLER, wish)
            assert bench.providers["a"].charged <= tokens
        else:
            with pytest.raises(BudgetExhausted):
                await bench.pipeline.embed_as("req_1", CALLER, wish)
            assert bench.providers["a"].batches == []


def with_routes(base: Model, **changes: object) -> Model:
    return replace(base, routes=tuple(replace(route, **changes) for route in base.routes))  # type: ignore[arg-type]  # any field


async def test_the_prefix_of_an_input_type_is_weighed_with_each_input() -> None:
    prefixed = with_routes(model("a"), query_prefix="find this : ", document_prefix="")
    await assert_holds_exactly([prefixed], request("a b", "c"), tokens=3)
    await assert_holds_exactly([prefixed], request("a b", "c", input_type="query"), tokens=3 + 2 * 3)
    await assert_holds_exactly([prefixed], request("a b", "c", input_type="document"), tokens=3)


async def test_token_ids_are_weighed_as_what_is_sent() -> None:
    await assert_holds_exactly([model("a", accepts_token_ids=True)], request((1, 2, 3)), tokens=3)
    await assert_holds_exactly([model("a")], request((1, 2, 3)), tokens=1)  # one word once decoded


async def test_ids_that_one_route_cannot_take_do_not_close_the_other() -> None:
    both = replace(model("a", "b"), routes=model("a", accepts_token_ids=True).routes + model("b").routes)
    rules = Rules(budgets=(BudgetRule(KEY, "total", 2 * PRICE),))
    bench = Bench([both], {"a": ScriptedProvider(), "b": ScriptedProvider()}, rules=rules)
    result = await bench.pipeline.embed_as("req_1", CALLER, request((99, 98)))  # no text has these ids
    assert (result.provider, result.cost_picodollars) == ("a", 2 * PRICE)


async def test_each_local_model_weighs_with_its_own_tokenizer() -> None:
    main = with_routes(model("a"), tokenizer="local", upstream_model="1")
    heavy = with_routes(model("a", name="acme/heavy", space="t"), tokenizer="local", upstream_model="3")
    wish = request("a b", fallback_model="acme/heavy", allow_space_change=True)
    await assert_holds_exactly([main, heavy], wish, tokens=6, tokenizers=PerModel())


async def test_the_dearest_permitted_route_is_held_and_the_true_cost_is_booked() -> None:
    cheap_and_dear = replace(model("a"), routes=model("a", price=2).routes + model("b", price=9).routes)
    rules = Rules(budgets=(BudgetRule(KEY, "total", 17),))
    bench = Bench([cheap_and_dear], {"a": ScriptedProvider(), "b": ScriptedProvider()}, rules=rules)
    with pytest.raises(BudgetExhausted):
        await bench.pipeline.embed_as("req_1", CALLER, request("a b"))
    bench.policies.forbidden = {"b"}
    for number in range(2, 6):
        await bench.pipeline.embed_as(f"req_{number}", CALLER, request(f"text {number}"))
    assert (await bench.budgets.state())[0].spent_picodollars == 16


async def test_a_budget_that_comes_while_a_request_waits_for_its_place_counts_for_it() -> None:
    gate = asyncio.Event()
    provider = ScriptedProvider(gate=gate)
    callers = crowd(Rules(limits=(LimitRule(USER, max_parallel=1, max_waiting=9),)), provider)
    tasks = callers.come(4)
    while not provider.batches:
        await asyncio.sleep(0)
    callers.bench.budgets.replace([day_budget(2)])
    gate.set()
    assert await callers.ends(tasks) == {"EmbedResult": 2, "BudgetExhausted": 2}  # the first had begun, and is counted


# RateLimits, through the whole pipeline.


async def test_of_500_at_once_exactly_as_many_as_the_minute_allows_are_served() -> None:
    clock = Clock()
    callers = crowd(Rules(limits=(LimitRule(PROJECT, requests_per_minute=123),)), clock=clock)
    assert await callers.ends(callers.come(500)) == {"EmbedResult": 123, "RateLimited": 377}
    clock.now += 59.9
    (refused,) = callers.come(1)
    assert await callers.ends([refused]) == {"RateLimited": 1}
    error = refused.exception()
    assert isinstance(error, RateLimited)
    assert error.retry_after_s is not None
    assert error.rate is not None
    assert (error.rate.limit_requests, error.rate.remaining_requests) == (123, 0)
    assert error.rate.reset_requests_s == pytest.approx(error.retry_after_s)
    clock.now += error.retry_after_s
    assert await callers.ends(callers.come(200)) == {"EmbedResult": 123, "RateLimited": 77}


async def test_after_the_wait_that_was_told_in_real_time_the_request_is_served() -> None:
    pace = 300.0  # a minute in a fifth of a second
    callers = crowd(Rules(limits=(LimitRule(KEY, requests_per_minute=5),)), clock=lambda: time.monotonic() * pace)
    assert await callers.ends(callers.come(6)) == {"EmbedResult": 5, "RateLimited": 1}
    for number in range(3):
        with pytest.raises(RateLimited) as refusal:
            await callers.ask(request("again"), f"refused_{number}")
        await asyncio.sleep((refusal.value.retry_after_s or 0) / pace)
        ends = await callers.ends(callers.come(5))
        assert ends["EmbedResult"] >= 1


async def test_what_was_weighed_too_heavy_is_put_right_when_the_true_tokens_are_known() -> None:
    callers = crowd(Rules(limits=(LimitRule(KEY, tokens_per_minute=10),)), ScriptedProvider(steps=[broken] * 11))
    assert await callers.ends(callers.come(1)) == {"UpstreamFailed": 1}
    assert await callers.ends(callers.come(6)) == {"EmbedResult": 5, "RateLimited": 1}


async def test_who_has_no_place_waits_in_line_and_the_next_is_told_that_the_line_is_full() -> None:
    gate = asyncio.Event()
    provider = ScriptedProvider(gate=gate)
    rule = LimitRule(USER, requests_per_minute=100, max_parallel=2, max_waiting=3)
    callers = crowd(Rules(limits=(rule,)), provider)
    tasks = callers.come(10)
    while len(provider.batches) < 2:
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    refused = [task.exception() for task in tasks if task.done()]
    assert len(refused) == 5
    for error in refused:
        assert isinstance(error, Overloaded)
        assert error.retry_after_s is not None
        assert error.rate is not None
        assert error.rate.remaining_requests == 98  # who waits or is refused is not counted
    gate.set()
    assert await callers.ends(tasks) == {"EmbedResult": 5, "Overloaded": 5}


async def test_every_refusal_tells_a_known_caller_where_it_stands() -> None:
    callers = crowd(Rules(limits=(LimitRule(KEY, requests_per_minute=9),)))
    bench = callers.bench
    for wish, fault in ((request("a", model="no/model"), UnknownModel), (request("a"), NotPermitted)):
        bench.policies.forbidden = {"a"}
        with pytest.raises(fault) as refusal:
            await bench.embed(wish)
        assert refusal.value.rate == Rate(9, 9)

    async def unreadable() -> EmbedRequest:
        raise MalformedRequest("not JSON")

    with pytest.raises(MalformedRequest) as refusal:
        await bench.pipeline.embed(Origin("req_x", "openai", SECRET), unreadable)
    assert refusal.value.rate == Rate(9, 9)


# What is on record.


async def test_each_request_leaves_one_decision_with_the_policies_that_decided() -> None:
    gate = asyncio.Event()
    provider = ScriptedProvider(gate=gate)
    rules = Rules(
        limits=(LimitRule(KEY, requests_per_minute=3, max_parallel=1),), budgets=(BudgetRule(KEY, "day", 20 * PRICE),)
    )
    callers = crowd(rules, provider)

    async def end_of(wish: EmbedRequest, request_id: str) -> str:
        try:
            await callers.ask(wish, request_id)
        except GatewayError as error:
            return error.code
        return "ok"

    served = asyncio.create_task(end_of(request("one two"), "served"))
    while not provider.batches:
        await asyncio.sleep(0)
    assert await end_of(request("x"), "full") == "overloaded"
    gate.set()
    assert await served == "ok"
    assert await end_of(request("w " * 19), "dear") == "insufficient_quota"
    await end_of(request("y"), "second")
    await end_of(request("z"), "third")
    assert await end_of(request("x"), "limited") == "rate_limit_exceeded"
    callers.bench.policies.forbidden = {"a"}
    assert await end_of(request("x"), "forbidden") == "permission_denied"
    noted = {event.request_id: event for event in callers.bench.memory.events}
    assert len(noted) == len(callers.bench.memory.events)
    assert {name: event.outcome for name, event in noted.items()} == {
        "served": "permit",
        "full": "overloaded",
        "dear": "insufficient_quota",
        "second": "permit",
        "third": "permit",
        "limited": "rate_limit_exceeded",
        "forbidden": "forbid",
    }
    for event in noted.values():
        assert (event.kind, event.actor, event.action) == ("decision", "key_1", "embedding")
        assert (event.target, event.policies) == ("acme/m", ("the-policy",))


class Reading(Permit):
    """Policies that read what the key has spent."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = frozenset({"principal.current_daily_spend", "context.input_tokens"})


async def test_policies_are_told_what_they_read() -> None:
    callers = crowd(Rules(limits=(LimitRule(USER, requests_per_minute=9),)))
    policies = Reading()
    callers.bench.admission.follow(policies)
    for number in range(3):
        await callers.ask(request(f"text {number}"), f"req_{number}")
    assert [question.daily_spend_picodollars for question in policies.questions] == [0, 14, 28]
    last = policies.questions[-1]
    assert (last.tokens, last.cost_picodollars, last.n_inputs, last.requests_per_minute) == (2, 14, 1, 9)


async def test_looking_at_what_is_permitted_leaves_no_trace() -> None:
    callers = crowd(Rules(limits=(LimitRule(USER, requests_per_minute=1),), budgets=(day_budget(0),)))
    policies = Reading()
    policies.forbidden = {"b"}
    bench = callers.bench
    bench.admission.follow(policies)
    candidates = [Candidate(each, route) for each in (model("a", "b", "c"), CHAT) for route in each.routes] * 20
    usable = await bench.admission.usable(CALLER, candidates, "192.0.2.7")
    assert usable == [candidate for candidate in candidates if candidate.route.provider != "b"]
    first = policies.questions[0]
    assert (first.action, first.n_inputs, first.tokens, first.dim, first.input_type) == ("embedding", 1, 1, 8, "none")
    assert (first.cost_picodollars, first.requests_per_minute, first.ip_address) == (PRICE, 1, "192.0.2.7")
    assert policies.questions[-1].action == "completion"
    assert bench.memory.events == []
    rate = bench.admission.rate(CALLER)
    assert rate is not None
    assert rate.remaining_requests == 1
    assert await callers.held() == [0]


async def test_what_is_permitted_is_asked_with_the_price_of_the_least_request() -> None:
    callers = crowd(Rules())
    policies = Reading()
    callers.bench.admission.follow(policies)
    prices = [None, Price(7), Price(0, picodollars_per_search=2_000), Price(7, output_picodollars_per_token=30)]
    for price in prices:
        candidate = Candidate(CHAT, replace(CHAT.routes[0], price=price))
        await callers.bench.admission.usable(CALLER, [candidate])
    assert [question.cost_picodollars for question in policies.questions] == [0, 7, 2_000, 37]


# Waiting for the ledger.


class Busy(Memory):
    """A ledger with too many questions."""

    async def spent(self, subject: Subject, since_ms: int, without: Collection[str]) -> int:
        await asyncio.sleep(0)
        raise Overloaded("too many sums", retry_after_s=1.0)


async def test_each_who_waits_for_a_sum_that_cannot_be_taken_gets_an_error_of_its_own() -> None:
    callers = crowd(Rules(budgets=(day_budget(50),)), memory=Busy())
    ends = await asyncio.gather(*callers.come(5), return_exceptions=True)
    assert [type(end) for end in ends] == [Overloaded] * 5
    assert len(set(map(id, ends))) == 5
    assert all(isinstance(end, Overloaded) and end.retry_after_s == 1.0 for end in ends)
