"""A completion is passed on byte for byte, charged once whatever becomes of it, and not fetched for nobody."""

import asyncio
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from prometheus_client.parser import text_string_to_metric_families

from chat_doubles import (
    COST,
    EVENTS,
    LAST_WORD,
    MESSAGES,
    PRICE,
    USAGE,
    Asked,
    ScriptedChat,
    ScriptedReply,
    Unknown,
    chat_model,
    request,
    whole,
)
from doubles import Bench, Memory, Words, model
from embedgate.core.access import BudgetRule, LimitRule, Rules, Subject
from embedgate.core.errors import (
    BudgetExhausted,
    CallerLeft,
    InternalError,
    NotAnEmbeddingModel,
    NotPermitted,
    Overloaded,
    UnknownModel,
    UpstreamBusy,
    UpstreamFailed,
    UpstreamGarbled,
    UpstreamLimited,
    UpstreamRejected,
    UpstreamTimeout,
    WrongAction,
)
from embedgate.core.models import Price
from embedgate.core.types import Candidate, ChatUsage, EmbedRequest, LedgerEntry
from embedgate.engine.chat.weigh import MEDIA_TOKENS, ChatWeigher, chat_cost_picodollars
from embedgate.observe import metrics
from embedgate.settings import UpstreamSettings
from memory_ledger import turn

KEY = Subject("key", "key_1")
HELD = len(MESSAGES) * 5 + 100 * 20
"""What is held for a request at PRICE: every byte as a token, and all that the model may write."""


def bench_of(*steps: object, rules: Rules | None = None, price: Price | None = PRICE) -> tuple[Bench, ScriptedChat]:
    """A gateway with one chat model at one provider, which does these steps."""
    provider = ScriptedChat(list(steps))  # type: ignore[arg-type]  # the steps that it takes
    models, chatting = [chat_model("a", price=price)], {"a": provider}
    bench = Bench(models, {}, rules=rules or Rules(), chatting=chatting, tokenizers=Unknown())
    return bench, provider


def calls_by_outcome() -> Counter[str]:
    """Calls to the provider, as metrics have them."""
    counted: Counter[str] = Counter()
    for family in text_string_to_metric_families(metrics.text(None).decode()):
        for sample in family.samples:
            if sample.name == "embedgate_provider_calls_total" and sample.labels["provider"] == "a":
                counted[sample.labels["outcome"]] += int(sample.value)
    return counted


def only_entry(bench: Bench) -> LedgerEntry:
    (entry,) = bench.memory.entries
    return entry


async def test_a_stream_is_passed_on_byte_for_byte_and_charged_to_the_picodollar() -> None:
    parts = (b"data: 1", b"\r\n\r\n\n\ndata: \xff\xfe", b"\n\n", LAST_WORD)
    bench, provider = bench_of(ScriptedReply(parts))
    stream = await Asked(bench, request()).stream()
    assert (stream.model, stream.provider, stream.content_type) == ("acme/chat", "a", "text/event-stream")
    assert b"".join([piece async for piece in stream.pieces]) == b"".join(parts)
    entry = only_entry(bench)
    assert (entry.tokens, entry.output_tokens, entry.reused_tokens, entry.tokens_estimated) == (10, 4, 0, False)
    assert (entry.cost_picodollars, entry.action, entry.outcome, entry.items) == (COST, "completion", "ok", 1)
    assert provider.replies[0].is_closed
    (state,) = await budget_states(bench)
    assert state == (COST, 0)


async def budget_states(bench: Bench) -> list[tuple[int, int]]:
    """What the key has spent, and what is held for it."""
    bench.budgets.replace([BudgetRule(KEY, "total", 10**12)])
    return [(state.spent_picodollars, state.held_picodollars) for state in await bench.budgets.state()]


async def test_the_last_word_waits_for_the_ledger_and_nothing_else_does() -> None:
    gate = asyncio.Event()
    bench, _ = bench_of(ScriptedReply(gate=gate))
    pieces = (await Asked(bench, request()).stream()).pieces
    assert await anext(pieces) == EVENTS[0]
    assert bench.memory.entries == []
    gate.set()
    assert await anext(pieces) == EVENTS[1]
    assert await anext(pieces) == LAST_WORD
    assert len(bench.memory.entries) == 1


async def test_a_last_word_in_two_parts_waits_too() -> None:
    bench, _ = bench_of(ScriptedReply((b"data: x\n\ndata: [DO", b"NE]\n\n")))
    pieces = (await Asked(bench, request()).stream()).pieces
    assert await anext(pieces) == b"data: x\n\ndata: [DO"
    assert await anext(pieces) == b"NE]\n\n"
    assert len(bench.memory.entries) == 1


async def test_an_answer_whose_entry_cannot_be_written_has_no_last_word() -> None:
    class Full(Memory):
        async def record(self, entry: LedgerEntry) -> None:
            raise InternalError("the disk is full")

    bench = Bench([chat_model("a")], {}, chatting={"a": ScriptedChat()}, memory=Full())
    pieces = (await Asked(bench, request()).stream()).pieces
    seen = b""
    with pytest.raises(InternalError):
        async for piece in pieces:
            seen += piece
    assert seen == b"".join(EVENTS[:2])


async def test_a_whole_answer_comes_with_its_cost() -> None:
    bench, provider = bench_of(ScriptedReply((b'{"a":', b"1}"), content_type="application/json"))
    result = await whole(bench, request())
    assert (result.body, result.content_type) == (b'{"a":1}', "application/json")
    assert (result.usage.tokens, result.usage.output_tokens, result.cached_tokens) == (10, 4, 6)
    assert (result.cost_picodollars, only_entry(bench).cost_picodollars) == (COST, COST)
    assert provider.replies[0].is_closed


async def test_a_whole_answer_is_bounded() -> None:
    bench, provider = bench_of(ScriptedReply((b"x" * 6_000, b"x" * 6_000)))
    with pytest.raises(UpstreamGarbled):
        await whole(bench, request())
    assert provider.replies[0].is_closed
    assert only_entry(bench).outcome == "upstream_error"


async def test_what_nobody_counts_is_estimated_from_bytes_and_marked() -> None:
    bench, _ = bench_of(ScriptedReply((b"123456789",), reported=None))
    result = await whole(bench, request())
    entry = only_entry(bench)
    assert (entry.tokens, entry.output_tokens) == (-(-len(MESSAGES) // 4), 3)
    assert entry.tokens_estimated
    assert result.usage.is_estimated
    assert entry.cost_picodollars == entry.tokens * 5 + 3 * 20


async def test_an_attempt_that_did_not_begin_is_repeated() -> None:
    bench, provider = bench_of(UpstreamBusy("later", retry_after_s=0.001))
    assert b"".join(await Asked(bench, request()).pieces()) == b"".join(EVENTS)
    assert len(provider.requests) == 2
    assert only_entry(bench).cost_picodollars == COST


async def test_an_answer_that_has_begun_is_never_asked_for_again() -> None:
    bench, provider = bench_of(ScriptedReply(EVENTS[:2], error=UpstreamFailed("it broke")))
    pieces = (await Asked(bench, request()).stream()).pieces
    seen = b""
    with pytest.raises(UpstreamFailed, match="it broke"):
        async for piece in pieces:
            seen += piece
    assert seen == b"".join(EVENTS[:2])
    assert len(provider.requests) == 1
    entry = only_entry(bench)
    assert (entry.outcome, entry.tokens_estimated, entry.output_tokens) == ("upstream_error", True, 100)
    assert entry.estimated_picodollars == entry.cost_picodollars == HELD  # what the model wrote beyond it is not known


async def test_what_breaks_after_the_last_word_does_not_matter() -> None:
    bench, _ = bench_of(ScriptedReply(error=UpstreamFailed("reset")))
    assert b"".join(await Asked(bench, request()).pieces()) == b"".join(EVENTS)
    assert only_entry(bench).outcome == "ok"


async def test_the_next_route_and_then_the_fallback_model_are_tried() -> None:
    bad, worse, good = ScriptedChat([UpstreamRejected("no")]), ScriptedChat([UpstreamRejected("no")]), ScriptedChat()
    models = [chat_model("a", "b"), chat_model("c", name="other/chat", price=None)]
    bench = Bench(models, {}, chatting={"a": bad, "b": worse, "c": good})
    stream = await Asked(bench, request(fallback_model="other/chat")).stream()
    assert (stream.model, stream.provider) == ("other/chat", "c")
    assert b"".join([piece async for piece in stream.pieces]) == b"".join(EVENTS)
    entry = only_entry(bench)
    assert (entry.model, entry.provider, entry.cost_picodollars) == ("other/chat", "c", 0)


async def test_a_stream_that_does_not_begin_is_left_for_the_next_route_and_charged_for_what_was_read() -> None:
    models, chatting = [chat_model("a", "b")], {"a": ScriptedChat([asyncio.Event()]), "b": ScriptedChat()}
    hasty = UpstreamSettings(attempt_timeout_s=0.05)
    bench = Bench(models, {}, chatting=chatting, upstream=hasty, tokenizers=Unknown())
    assert b"".join(await Asked(bench, request()).pieces()) == b"".join(EVENTS)
    alone = Bench([chat_model("a")], {}, chatting={"a": ScriptedChat()}, tokenizers=Unknown())
    await Asked(alone, request()).pieces()
    entry, plain = only_entry(bench), only_entry(alone)
    assert (entry.provider, entry.outcome, entry.tokens_estimated) == ("b", "ok", True)
    assert entry.tokens > plain.tokens
    assert entry.cost_picodollars > plain.cost_picodollars


async def test_an_answer_that_is_not_streamed_has_all_the_time_of_its_request() -> None:
    slow = asyncio.Event()
    models, chatting = [chat_model("a", "b")], {"a": ScriptedChat([slow]), "b": ScriptedChat()}
    hasty = UpstreamSettings(attempt_timeout_s=0.05)
    bench = Bench(models, {}, chatting=chatting, upstream=hasty, tokenizers=Unknown())
    asking = asyncio.create_task(Asked(bench, request(is_stream=False)).answer())
    await asyncio.sleep(0.15)
    slow.set()
    assert (await asking).provider == "a"


async def test_a_failure_before_the_first_byte_costs_nothing_and_is_raised_as_it_is() -> None:
    bench, _ = bench_of(UpstreamRejected("no such parameter"))
    with pytest.raises(UpstreamRejected, match="no such parameter"):
        await Asked(bench, request()).answer()
    assert bench.memory.entries == []


async def test_metrics_count_every_call_by_how_it_ended_and_none_that_was_not_made() -> None:
    before = calls_by_outcome()
    for fault in (UpstreamBusy("busy", retry_after_s=0.001), UpstreamLimited("full", retry_after_s=0.001)):
        await Asked(bench_of(fault, ScriptedReply())[0], request()).pieces()
    bench, _ = bench_of(asyncio.Event())
    asked = Asked(bench, request())
    answer = asyncio.create_task(asked.answer())
    await turn()
    asked.out.leave()
    with pytest.raises(CallerLeft):
        await answer
    with pytest.raises(UpstreamGarbled):
        await Asked(bench_of(ScriptedReply(EVENTS[:1], error=UpstreamGarbled("what?")))[0], request()).pieces()
    assert calls_by_outcome() - before == {UpstreamBusy.code: 1, "ok": 2, "cancelled": 1, "bad_answer": 1}


async def test_only_chat_models_chat_and_their_names_are_suggested() -> None:
    bench = Bench([model("a"), chat_model("a")], {}, chatting={"a": ScriptedChat()})
    with pytest.raises(WrongAction, match="acme/m does not support completion action. Use acme/chat instead"):
        await Asked(bench, request(model="acme/m")).answer()
    with pytest.raises(UnknownModel):
        await Asked(bench, request(model="nobody/knows")).answer()
    with pytest.raises(NotAnEmbeddingModel):
        await bench.embed(EmbedRequest("acme/chat", ("x",)))


async def test_a_caller_who_leaves_ends_the_stream_and_is_charged_for_what_came() -> None:
    bench, provider = bench_of(ScriptedReply(gate=asyncio.Event()))
    asked = Asked(bench, request())
    pieces = (await asked.stream()).pieces
    await anext(pieces)
    asked.out.leave()  # while the model thinks
    with pytest.raises(CallerLeft):
        await anext(pieces)
    assert provider.replies[0].is_closed
    entry = only_entry(bench)
    assert (entry.outcome, entry.tokens_estimated) == ("cancelled", True)
    assert (entry.tokens, entry.output_tokens) == (-(-len(MESSAGES) // 4), 4)
    assert await budget_states(bench) == [(entry.cost_picodollars, 0)]


async def test_a_caller_who_leaves_before_the_first_byte_has_had_the_model_read() -> None:
    bench, provider = bench_of(asyncio.Event())
    asked = Asked(bench, request())
    answer = asyncio.create_task(asked.answer())
    await turn()
    assert len(provider.requests) == 1
    asked.out.leave()
    with pytest.raises(CallerLeft):
        await answer
    entry = only_entry(bench)
    assert (entry.outcome, entry.tokens, entry.output_tokens) == ("cancelled", -(-len(MESSAGES) // 4), 0)
    assert entry.estimated_picodollars == entry.cost_picodollars > 0


@pytest.mark.parametrize(("costs", "budget"), [("held", None), ("by_budget", 10**6)])
async def test_a_stream_that_its_caller_left_costs_what_was_held_with_a_budget_or_where_that_is_set(
    costs: Any, budget: int | None
) -> None:
    rules = Rules(budgets=(BudgetRule(KEY, "day", budget),)) if budget else Rules()
    chatting = {"a": ScriptedChat([asyncio.Event(), ScriptedReply(gate=asyncio.Event())])}
    upstream = UpstreamSettings(left_stream_costs=costs)
    bench = Bench([chat_model("a")], {}, rules=rules, chatting=chatting, tokenizers=Unknown(), upstream=upstream)
    unbegun, begun = Asked(bench, request(), 1), Asked(bench, request(), 2)
    answer = asyncio.create_task(unbegun.answer())
    await turn()
    unbegun.out.leave()
    with pytest.raises(CallerLeft):
        await answer
    pieces = (await begun.stream()).pieces
    await anext(pieces)
    begun.out.leave()
    with pytest.raises(CallerLeft):
        await anext(pieces)
    for entry in bench.memory.entries:
        assert (entry.cost_picodollars, entry.estimated_picodollars, entry.tokens_estimated) == (HELD, HELD, True)
    assert len(bench.memory.entries) == 2


async def test_no_call_is_made_for_one_who_left_while_waiting_for_a_place() -> None:
    gate = asyncio.Event()
    rules = Rules(limits=(LimitRule(KEY, max_parallel=1, max_waiting=5),))
    bench, provider = bench_of(ScriptedReply(gate=gate), rules=rules)
    first, second = Asked(bench, request(), 1), Asked(bench, request(), 2)
    pieces = (await first.stream()).pieces
    waiting = asyncio.create_task(second.answer())
    await turn()
    second.out.leave()
    gate.set()
    assert b"".join([piece async for piece in pieces]) == b"".join(EVENTS)
    with pytest.raises(CallerLeft):
        await waiting
    assert len(provider.requests) == 1
    assert only_entry(bench).request_id == "req_1"


async def test_who_stops_reading_the_stream_has_left() -> None:
    bench, provider = bench_of(ScriptedReply(gate=asyncio.Event()))
    pieces = (await Asked(bench, request()).stream()).pieces
    await anext(pieces)
    await pieces.aclose()
    assert await bench.pipeline.running.drain(1) == 0
    assert provider.replies[0].is_closed
    assert only_entry(bench).outcome == "cancelled"


async def test_a_whole_answer_is_fetched_and_paid_for_also_when_its_caller_has_gone() -> None:
    bench, _ = bench_of(ScriptedReply())
    answer = asyncio.create_task(whole(bench, request()))
    await asyncio.sleep(0)
    answer.cancel()
    await asyncio.wait([answer])
    await bench.pipeline.running.drain(1)
    assert (only_entry(bench).outcome, only_entry(bench).cost_picodollars) == ("ok", COST)


async def test_the_provider_is_read_no_faster_than_the_caller_reads() -> None:
    bench, provider = bench_of(ScriptedReply([b"x" * 6] * 1_000))
    asked = Asked(bench, request(), max_bytes=10)
    pieces = (await asked.stream()).pieces
    await turn()
    assert provider.replies[0].n_read == 2
    await anext(pieces)
    await turn()
    assert provider.replies[0].n_read <= 5
    asked.out.leave()
    await bench.pipeline.running.drain(1)


async def test_the_time_of_a_request_holds_for_the_whole_answer() -> None:
    provider = ScriptedChat([ScriptedReply(gate=asyncio.Event())])
    bench = Bench([chat_model("a")], {}, chatting={"a": provider}, request_timeout_s=0.05)
    pieces = (await Asked(bench, request()).stream()).pieces
    await anext(pieces)
    with pytest.raises(UpstreamTimeout):
        await anext(pieces)
    assert only_entry(bench).outcome == "upstream_timeout"


async def test_a_shutdown_waits_for_streams_and_then_cuts_them() -> None:
    gate = asyncio.Event()
    bench, _ = bench_of(ScriptedReply(gate=gate), ScriptedReply(gate=asyncio.Event()))
    patient, cut = [(await Asked(bench, request(), number).stream()).pieces for number in (1, 2)]
    draining = asyncio.create_task(bench.pipeline.running.drain(0.1))
    await asyncio.sleep(0)
    gate.set()
    assert b"".join([piece async for piece in patient]) == b"".join(EVENTS)
    assert await draining == 1
    assert await anext(cut) == EVENTS[0]
    with pytest.raises(Overloaded, match="shutting down"):
        await anext(cut)
    assert [entry.outcome for entry in bench.memory.entries] == ["ok", "overloaded"]


async def test_a_policy_is_asked_about_a_completion_and_its_refusal_reaches_no_provider() -> None:
    bench, provider = bench_of()
    bench.policies.forbidden.add("a")
    with pytest.raises(NotPermitted, match="chat with acme/chat"):
        await Asked(bench, request(max_output_tokens=7)).answer()
    (question,) = bench.policies.questions
    assert (question.action, question.n_inputs, question.tokens, question.dim) == ("completion", 1, len(MESSAGES), 0)
    assert question.cost_picodollars == len(MESSAGES) * 5 + 7 * 20
    (event,) = bench.memory.events
    assert (event.action, event.outcome, event.target) == ("completion", "forbid", "acme/chat")
    assert provider.requests == []


async def test_limits_count_what_was_asked_for_and_then_what_was_used() -> None:
    gate = asyncio.Event()
    rules = Rules(limits=(LimitRule(KEY, tokens_per_minute=1_000),))
    bench, _ = bench_of(ScriptedReply(gate=gate), rules=rules)
    stream = await Asked(bench, request(max_output_tokens=50, n_choices=3)).stream()
    assert stream.rate is not None
    assert stream.rate.remaining_tokens == 1_000 - len(MESSAGES) - 150
    gate.set()
    assert b"".join([piece async for piece in stream.pieces]) == b"".join(EVENTS)
    rate = bench.limits.rate([KEY])
    assert rate is not None
    assert rate.remaining_tokens == 1_000 - USAGE.input_tokens - USAGE.output_tokens


async def test_no_budget_is_overspent_by_fifty_at_once() -> None:
    unit = len(MESSAGES) * 5 + 10 * 20
    rules = Rules(budgets=(BudgetRule(KEY, "total", 20 * unit),))
    used = ChatUsage(len(MESSAGES), 10)
    bench, provider = bench_of(*(ScriptedReply(reported=used) for _ in range(50)), rules=rules)
    asked = [Asked(bench, request(max_output_tokens=10), number) for number in range(50)]
    results = await asyncio.gather(*(each.pieces() for each in asked), return_exceptions=True)
    refused = [result for result in results if isinstance(result, BudgetExhausted)]
    assert len(refused) == 30
    assert len(provider.requests) == 20
    assert sum(entry.cost_picodollars for entry in bench.memory.entries) == 20 * unit


prices = st.integers(0, 10**7)


@settings(max_examples=100)
@given(
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.integers(0, 2 * 10**6),
    st.builds(
        Price,
        prices,
        output_picodollars_per_token=prices | st.none(),
        cached_input_picodollars_per_token=prices | st.none(),
    ),
)
def test_what_is_held_is_never_less_than_what_it_costs(tokens: int, output: int, cached: int, price: Price) -> None:
    asked = request(text_bytes=tokens, max_output_tokens=max(output, 1))
    found = chat_model("a", price=price)
    (weighed,) = asyncio.run(
        ChatWeigher(Words(), 1).weigh(asked, [Candidate(found, found.routes[0])], matters=False),
    )
    assert chat_cost_picodollars(ChatUsage(tokens, output, cached), price) <= weighed.cost_picodollars
    uncached = tokens * price.picodollars_per_token + output * (price.output_picodollars_per_token or 0)
    assert chat_cost_picodollars(ChatUsage(tokens, output), price) == uncached


async def test_the_bound_of_the_output_is_the_callers_then_the_models_then_the_gateways() -> None:
    async def held(max_output_tokens: int | None, of_model: int | None, n: int = 1) -> int:
        found = chat_model("a", price=Price(0, output_picodollars_per_token=1), max_output_tokens=of_model)
        asked = request(max_output_tokens=max_output_tokens, n_choices=n)
        (weighed,) = await ChatWeigher(Words(), 77).weigh(asked, [Candidate(found, found.routes[0])], matters=True)
        return weighed.cost_picodollars

    assert [await held(5, 100), await held(5, 100, n=3), await held(None, 100, n=2), await held(None, None)] == [
        5,
        15,
        200,
        77,
    ]


async def test_media_are_held_at_all_that_the_model_reads_and_counted_by_rule() -> None:
    found = chat_model("a", price=Price(1))
    asked = request(n_media=2)
    (weighed,) = await ChatWeigher(Words(), 1).weigh(asked, [Candidate(found, found.routes[0])], matters=True)
    assert weighed.cost_picodollars == found.max_input_tokens
    assert weighed.tokens == len(MESSAGES) + 2 * MEDIA_TOKENS


async def test_an_exact_tokenizer_is_asked_where_it_matters() -> None:
    found = chat_model("a", price=Price(1), tokenizer="tiktoken:cl100k_base")
    asked = structs.replace(request(), fields={"messages": b"one two three", "tools": b"four"})
    for matters, tokens in ((True, 4), (False, len(MESSAGES))):
        (weighed,) = await ChatWeigher(Words(), 1).weigh(asked, [Candidate(found, found.routes[0])], matters=matters)
        assert weighed.tokens == tokens
