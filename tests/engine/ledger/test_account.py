"""What a request is billed: all that a provider bills for it, once, whatever became of the request or the ledger."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

import pytest
from prometheus_client.parser import text_string_to_metric_families

from doubles import Bench, DictCache, Memory, ScriptedProvider, model, weight
from embedgate.core.access import BudgetRule, Caller, Rules, Subject
from embedgate.core.errors import BudgetExhausted, InternalError
from embedgate.core.models import Route
from embedgate.core.types import Batch, EmbedRequest, EmbedResult, LedgerEntry, ProviderReply
from embedgate.observe import metrics

PRICE = 7
KEY = Subject("key", "key_1")
CALLER = Caller("user_1", "u", "key_1", subjects=(KEY, Subject("user", "user_1")))
OTHER = Caller("user_2", "v", "key_2", subjects=(Subject("key", "key_2"), Subject("user", "user_2")))
RICH = Rules(budgets=(BudgetRule(KEY, "day", 10**6),))


@dataclass
class Gated(ScriptedProvider):
    """A provider whose calls wait, each for a gate of its own."""

    gates: list[asyncio.Event] = field(default_factory=list)

    async def embed(self, batch: Batch, route: Route, deadline_s: float) -> ProviderReply:
        gate = asyncio.Event()
        self.gates.append(gate)
        await gate.wait()
        return await super().embed(batch, route, deadline_s)


def request(*inputs: str, provider: str | None = None) -> EmbedRequest:
    return EmbedRequest(model="acme/m", inputs=inputs, provider=provider)


async def until_asked(provider: Gated, calls: int) -> None:
    while len(provider.gates) < calls:
        await asyncio.sleep(0)


async def spent(bench: Bench) -> int:
    return (await bench.budgets.spends(KEY)).day_picodollars


@pytest.mark.parametrize(("charges_reuse", "second_cost"), [(False, 0), (True, 5 * PRICE)], ids=["nothing", "full"])
async def test_what_a_hit_costs_is_a_setting_and_budgets_see_it(charges_reuse: bool, second_cost: int) -> None:
    provider = ScriptedProvider()
    bench = Bench(
        [model("a", price=PRICE)], {"a": provider}, cache=DictCache(), rules=RICH, charges_reuse=charges_reuse
    )
    first = await bench.pipeline.embed_as("req_1", CALLER, request("a b", "c d e"))
    second = await bench.pipeline.embed_as("req_2", CALLER, request("a b", "c d e"))
    assert (first.cost_picodollars, second.cost_picodollars) == (5 * PRICE, second_cost)
    assert second.usage == first.usage.__class__(tokens=5, reused_tokens=5)
    assert provider.charged == 5
    assert [entry.cost_picodollars for entry in bench.memory.entries] == [5 * PRICE, second_cost]
    (state,) = await bench.budgets.state()
    assert (state.spent_picodollars, state.held_picodollars) == (5 * PRICE + second_cost, 0)


@pytest.mark.parametrize(("charges_reuse", "cost"), [(False, 2 * PRICE), (True, 6 * PRICE)], ids=["nothing", "full"])
async def test_a_text_that_comes_three_times_costs_once_or_three_times_as_set(charges_reuse: bool, cost: int) -> None:
    bench = Bench([model("a", price=PRICE)], {"a": ScriptedProvider()}, rules=RICH, charges_reuse=charges_reuse)
    result = await bench.pipeline.embed_as("req_1", CALLER, request("a b", "a b", "a b"))
    assert result.cost_picodollars == cost == await spent(bench)


async def test_what_is_reused_after_wrong_answers_were_billed_needs_room_in_the_budget_too() -> None:
    """The wrong answer cost as much as the vector that is then found in flight at the next route."""
    main, next_one = ScriptedProvider(steps=[wrong]), Gated()
    rules = Rules(budgets=(BudgetRule(KEY, "day", PRICE),))
    bench = Bench([model("a", "b", price=PRICE)], {"a": main, "b": next_one}, rules=rules, charges_reuse=True)
    others = asyncio.create_task(bench.pipeline.embed_as("req_1", OTHER, request("x", provider="b")))
    await until_asked(next_one, 1)
    mine = asyncio.create_task(bench.pipeline.embed_as("req_2", CALLER, request("x")))
    await asyncio.wait([mine], timeout=0.1)
    next_one.gates[0].set()
    await others
    with pytest.raises(BudgetExhausted):
        await mine
    assert await spent(bench) == PRICE


def wrong(_batch: Batch, reply: ProviderReply) -> ProviderReply:
    return ProviderReply(reply.vectors * 0, reply.tokens)


async def test_a_share_of_a_gathered_call_is_billed_also_when_it_ends_after_the_works_own_time() -> None:
    provider = Gated()
    bench = Bench([model("a", price=PRICE)], {"a": provider}, rules=RICH, gathering={"a": 1}, request_timeout_s=0.2)

    def ask(number: int, text: str) -> "asyncio.Task[EmbedResult]":
        return asyncio.create_task(bench.pipeline.embed_as(f"req_{number}", CALLER, request(text)))

    first, early = ask(1, "keeps the route busy"), ask(2, "waits")
    await until_asked(provider, 1)
    await asyncio.sleep(0.1)
    late = ask(3, "waits with it")
    await asyncio.sleep(0)
    provider.gates[0].set()
    await until_asked(provider, 2)
    await asyncio.sleep(0.15)  # the time of `early` is over, that of `late` is not
    provider.gates[1].set()
    await asyncio.gather(first, early, late)
    assert len(provider.batches) == 2
    billed = Counter({entry.request_id: entry.tokens for entry in bench.memory.entries})
    assert billed == {"req_1": 4, "req_2": 1, "req_3": 3}
    assert billed.total() == provider.charged


async def test_who_gets_no_place_in_its_time_is_not_sent_and_not_billed() -> None:
    provider = Gated()
    bench = Bench([model("a")], {"a": provider}, gathering={"a": 1}, request_timeout_s=0.05)
    first = asyncio.create_task(bench.pipeline.embed_as("req_1", CALLER, request("one")))
    await until_asked(provider, 1)
    with pytest.raises(Exception, match="busy for the whole time"):
        await bench.pipeline.embed_as("req_2", CALLER, request("two"))
    provider.gates[0].set()
    await first
    assert [entry.request_id for entry in bench.memory.entries] == ["req_1"]
    assert len(provider.batches) == 1


class Full(Memory):
    """A ledger that keeps its entry in memory and says so."""

    def __init__(self) -> None:
        super().__init__()
        self.owed: list[LedgerEntry] = []

    async def record(self, entry: LedgerEntry) -> None:
        self.owed.append(entry)
        raise InternalError("the ledger cannot be written")


def metric(name: str, **labels: str) -> float:
    families = text_string_to_metric_families(metrics.text(None).decode())
    samples = (sample for family in families for sample in family.samples)
    return next((sample.value for sample in samples if sample.name == name and sample.labels == labels), 0.0)


async def test_a_request_whose_entry_cannot_be_written_fails_is_counted_and_is_paid_for_from_memory() -> None:
    memory = Full()
    rules = Rules(budgets=(BudgetRule(KEY, "day", 5 * PRICE),))
    bench = Bench([model("a", price=PRICE)], {"a": ScriptedProvider()}, rules=rules, memory=memory)
    failed = metric("embedgate_requests_total", dialect="openai", outcome="internal_error")
    with pytest.raises(InternalError):
        await bench.pipeline.embed_as("req_1", CALLER, request("a b c"))
    assert metric("embedgate_requests_running") == 0
    assert metric("embedgate_requests_total", dialect="openai", outcome="internal_error") == failed + 1
    assert await spent(bench) == 3 * PRICE
    with pytest.raises(BudgetExhausted):
        await bench.pipeline.embed_as("req_2", CALLER, request("a b c"))
    memory.entries += memory.owed  # now it can be
    assert await spent(bench) == 3 * PRICE
    assert sum(weight(text) for text in ("a b c",)) == memory.entries[0].tokens
