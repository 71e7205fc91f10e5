"""Where a request goes when a route fails, how often it asks, and what it says in the end. Waits take virtual time."""

import asyncio
import dataclasses
import random
import time
from collections.abc import Sequence

import pytest

from doubles import Bench, DictCache, ScriptedProvider, Step, model
from embedgate.core.access import Caller
from embedgate.core.errors import (
    BudgetExhausted,
    CallerLeft,
    GatewayError,
    InvalidInput,
    UpstreamBusy,
    UpstreamDenied,
    UpstreamError,
    UpstreamFailed,
    UpstreamGarbled,
    UpstreamLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamTooLarge,
)
from embedgate.core.models import Route
from embedgate.core.types import Batch, Call, Candidate, ChatRequest, EmbedRequest, ProviderReply
from embedgate.engine.routing.failover import in_order_of_health, with_failover
from embedgate.engine.routing.route_health import RouteHealths
from embedgate.settings import UpstreamSettings
from virtual_time import now

QUICK = UpstreamSettings(max_retries=2, retry_wait_s=0.001, circuit_patience_s=0, max_wait_s=0.2)
FAILED, REJECTED = UpstreamFailed("broke"), UpstreamRejected("no")
BUSY_NOW = UpstreamBusy("slow down", retry_after_s=0.0)


class Script:
    """What each route does with each call: an error, or None for an answer; an answer when its list is used up."""

    def __init__(self, settings: UpstreamSettings = QUICK, **routes: Sequence[GatewayError | None]) -> None:
        self.settings = settings
        self.states = RouteHealths(settings, now)
        found = model(*routes)
        self.candidates = {route.provider: Candidate(found, route) for route in found.routes}
        self._left = {name: list(errors) for name, errors in routes.items()}
        self.asked = ""
        self.gate = asyncio.Event()
        self.gate.set()

    async def _ask(self, candidate: Candidate, _until_s: float) -> str:
        name = candidate.route.provider
        self.asked += name
        await self.gate.wait()
        error = self._left[name].pop(0) if self._left[name] else None
        if error is not None:
            raise error
        return f"answer of {name}"

    async def run(self, time_s: float = 5.0) -> str:
        """One request. Its answer, which must come from who is said to have given it."""
        now_s = time.monotonic()
        call = Call(
            "req_1", "openai", Caller("u", "u", "k"), ChatRequest("acme/m", {}, 1, 1), now_s, 0.0, now_s + time_s
        )
        candidates = list(self.candidates.values())
        candidate, answer = await with_failover(call, candidates, self.states, self.settings, self._ask)
        assert answer == f"answer of {candidate.route.provider}"
        return candidate.route.provider

    async def fails(self, kind: type[GatewayError], match: str, time_s: float = 5.0) -> GatewayError:
        """One request that must fail so."""
        with pytest.raises(kind, match=match) as caught:
            await self.run(time_s)
        return caught.value

    def break_open(self, name: str, error: UpstreamError = FAILED, n: int = 5) -> None:
        """Let a route have failed so often."""
        for _ in range(n):
            self.states.of(self.candidates[name]).failed(error, 0.0)


async def test_the_next_route_is_asked_at_once_and_nothing_is_repeated_meanwhile() -> None:
    script = Script(a=[FAILED], b=[UpstreamBusy("later", retry_after_s=100)], c=[])
    assert await script.run() == "c"
    assert script.asked == "abc"


async def test_the_only_route_is_asked_again() -> None:
    script = Script(a=[FAILED, UpstreamGarbled("wrong")])
    assert await script.run() == "a"
    assert script.asked == "aaa"
    error = await Script(a=[FAILED] * 9).fails(UpstreamFailed, r"^broke \(3 attempts\)$")
    assert error.retry_after_s is None


@pytest.mark.parametrize("error", [REJECTED, UpstreamDenied("bad key")], ids=["rejected", "denied"])
async def test_what_cannot_succeed_is_not_repeated(error: UpstreamError) -> None:
    script = Script(a=[error])
    await script.fails(type(error), f"^{error.message}$")
    assert script.asked == "a"


async def test_it_comes_back_to_a_route_whose_fault_may_have_passed() -> None:
    script = Script(a=[FAILED], b=[REJECTED])
    assert await script.run() == "a"
    assert script.asked == "aba"
    script = Script(a=[FAILED, FAILED], b=[FAILED] * 3)
    assert await script.run() == "a"
    assert script.asked == "abbbaa"


async def test_each_route_is_asked_no_more_often_than_the_settings_say_and_the_error_tells() -> None:
    script = Script(a=[FAILED] * 9, b=[UpstreamFailed("broke too")] * 9, c=[REJECTED])
    script.settings = UpstreamSettings(max_retries=2, retry_wait_s=0.001)
    script.states = RouteHealths(script.settings, now)
    error = await script.fails(UpstreamFailed, "No route could serve acme/m. Tried ")
    assert sorted(script.asked) == list("aaabbbc")
    for part in ("a: broke (3 attempts)", "b: broke too (3 attempts)", "c: no"):
        assert part in error.message


async def test_other_errors_end_the_request_as_they_are() -> None:
    script = Script(a=[CallerLeft("gone")], b=[])
    await script.fails(CallerLeft, "gone")
    assert script.asked == "a"


async def test_a_wait_that_is_asked_for_is_kept_if_it_is_short_and_nowhere_else_is_to_go() -> None:
    script = Script(a=[UpstreamBusy("slow down", retry_after_s=0.1)])
    begun_s = time.monotonic()
    assert await script.run() == "a"
    assert 0.1 <= time.monotonic() - begun_s < 0.2
    script = Script(a=[UpstreamBusy("slow down", retry_after_s=30)])
    begun_s = time.monotonic()
    error = await script.fails(UpstreamBusy, "slow down")
    assert error.retry_after_s == 30
    assert time.monotonic() - begun_s < 0.1


async def test_requests_that_come_while_a_provider_wants_to_be_left_alone_wait_with_it() -> None:
    script = Script(a=[UpstreamBusy("slow down", retry_after_s=0.1)])
    begun_s = time.monotonic()
    assert await asyncio.gather(*(script.run() for _ in range(5))) == ["a"] * 5
    assert time.monotonic() - begun_s >= 0.1
    assert len(script.asked) == 6  # only one was sent away
    script.break_open("a", UpstreamBusy("slow down", retry_after_s=50), n=1)
    error = await script.fails(UpstreamBusy, "a asked us to wait")
    assert 49 < (error.retry_after_s or 0) <= 50


async def test_no_wait_goes_beyond_the_requests_time() -> None:
    script = Script(a=[FAILED] * 9)
    script.settings = UpstreamSettings(retry_wait_s=9.0, max_retries=9)
    begun_s = time.monotonic()
    await script.fails(UpstreamFailed, "broke", time_s=0.05)
    assert time.monotonic() - begun_s < 0.06


async def test_the_budget_of_further_attempts_ends_a_storm() -> None:
    settings = UpstreamSettings(max_retries=10, retry_wait_s=1e-6, retry_share=0.2, retry_reserve=5)
    script = Script(settings, a=[FAILED] * 10_000)
    for _ in range(100):
        await script.fails(UpstreamFailed, "broke")
    assert 100 + 5 <= len(script.asked) <= 1.25 * 100 + 5 + 1


async def test_a_route_that_fails_is_left_out_while_another_one_works() -> None:
    script = Script(a=[FAILED] * 99, b=[])
    script.break_open("a")
    assert [await script.run() for _ in range(5)] == ["b"] * 5
    assert script.asked == "bbbbb"


async def test_when_nothing_else_works_a_route_that_often_fails_is_better_than_none() -> None:
    patient = UpstreamSettings(max_retries=0, retry_wait_s=0.001)
    script = Script(patient, a=[], b=[FAILED])
    script.break_open("a")
    assert await script.run() == "a"
    assert script.asked == "ba"


async def test_when_all_refuse_the_error_says_so_and_when_to_come_back() -> None:
    script = Script(a=[], b=[])
    script.break_open("a")
    script.break_open("b", UpstreamGarbled("zeros"))
    error = await script.fails(UpstreamFailed, "No route could serve acme/m")
    assert script.asked == ""
    assert "a: not asked, a is left alone after 5 failures in a row, the last one: broke" in error.message
    assert "b: not asked" in error.message
    assert 0 < (error.retry_after_s or 0) <= 1.25


async def test_without_another_route_the_request_is_the_probe_one_at_a_time() -> None:
    script = Script(UpstreamSettings(max_retries=0, circuit_patience_s=0, circuit_wait_s=0.02), a=[FAILED])
    script.break_open("a")
    await script.fails(UpstreamFailed, "left alone")
    assert script.asked == ""
    await asyncio.sleep(0.03)
    first = asyncio.create_task(script.fails(UpstreamFailed, "^broke$"))
    second = asyncio.create_task(script.fails(UpstreamFailed, "right now|left alone"))
    await first
    await second
    assert script.asked == "a"
    await asyncio.sleep(0.06)
    assert await script.run() == "a"


async def test_where_others_work_one_request_probes_the_route_and_is_served_elsewhere_if_it_still_fails() -> None:
    script = Script(UpstreamSettings(circuit_wait_s=0.02), a=[FAILED], b=[])
    script.break_open("a")
    await asyncio.sleep(0.03)
    assert await script.run() == "b"
    assert script.asked == "ab"
    assert await script.run() == "b"
    assert script.asked == "abb"


async def test_a_probe_aside_keeps_requests_out_of_it() -> None:
    script = Script(UpstreamSettings(circuit_wait_s=0.02), a=[], b=[])
    script.break_open("a")
    probed: list[Candidate] = []

    def probe(candidate: Candidate) -> bool:
        probed.append(candidate)
        return len(probed) == 1

    def order() -> str:
        ordered = in_order_of_health(list(script.candidates.values()), script.states, probe)
        return "".join(candidate.route.provider for candidate in ordered)

    assert order() == "ba"
    assert probed == []  # too early
    await asyncio.sleep(0.03)
    assert order() == "ba"
    assert order() == "ab"  # it could not be probed aside
    assert [candidate.route.provider for candidate in probed] == ["a", "a"]


async def test_limits_of_ours_open_no_circuit() -> None:
    script = Script(a=[UpstreamLimited("no room", retry_after_s=60)] * 50, b=[])
    assert [await script.run() for _ in range(50)] == ["b"] * 50
    assert script.states.of(script.candidates["a"]).is_well


async def test_a_provider_that_asks_for_no_wait_at_all_is_waited_for_as_one_that_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = Script(UpstreamSettings(max_retries=1, retry_wait_s=60.0, max_wait_s=60.0), a=[BUSY_NOW])
    monkeypatch.setattr(random, "uniform", lambda _, longest: longest)
    began = now()
    assert await script.run(time_s=100) == "a"
    assert now() - began == pytest.approx(60, abs=0.001)
    assert script.asked == "aa"
    script = Script(a=[BUSY_NOW] * 99)
    for _ in range(2):
        await script.fails(UpstreamBusy, "slow down")
    await script.fails(UpstreamBusy, "left alone")


@pytest.mark.parametrize("error", [BudgetExhausted("no money"), InvalidInput("is odd"), CallerLeft("gone")])
async def test_a_request_that_ends_for_its_own_reasons_keeps_nobody_from_a_route_on_trial(error: GatewayError) -> None:
    script = Script(UpstreamSettings(max_retries=0, circuit_patience_s=0, circuit_wait_s=0.02), a=[error])
    script.break_open("a")
    await asyncio.sleep(0.03)
    await script.fails(type(error), error.message)
    assert await script.run() == "a"


async def test_a_request_that_is_cancelled_keeps_nobody_from_a_route_on_trial() -> None:
    script = Script(UpstreamSettings(max_retries=0, circuit_patience_s=0, circuit_wait_s=0.02), a=[])
    script.break_open("a")
    await asyncio.sleep(0.03)
    script.gate.clear()
    trial = asyncio.create_task(script.run())
    await asyncio.sleep(0)
    await script.fails(UpstreamFailed, "right now")
    trial.cancel()
    await asyncio.wait([trial])
    script.gate.set()
    assert await script.run() == "a"


async def test_a_route_that_refuses_a_call_as_wrong_is_there_for_others() -> None:
    script = Script(UpstreamSettings(max_retries=0, circuit_patience_s=0, circuit_wait_s=0.02), a=[REJECTED])
    script.break_open("a")
    await asyncio.sleep(0.03)
    await script.fails(UpstreamRejected, "no")
    assert await script.run() == "a"


async def test_when_one_of_several_faults_may_pass_that_is_what_the_caller_is_told() -> None:
    script = Script(a=[UpstreamBusy("later", retry_after_s=50)], b=[UpstreamDenied("bad key")])
    error = await script.fails(UpstreamBusy, "a: later; b: bad key")
    assert (error.may_retry, error.retry_after_s) == (True, 50)


async def test_an_attempt_that_had_less_time_than_the_request_tells_what_it_had_and_what_it_waited_for() -> None:
    settings = UpstreamSettings(attempt_timeout_s=0.05, max_retries=0)
    script = Script(settings, a=[UpstreamTimeout("All 8 places were taken for the call's time")], b=[REJECTED])
    told = r"All 8 places were taken for the call's time, which is 0\.05 s \(upstream\.attempt_timeout_s\)"
    await script.fails(UpstreamRejected, told)


async def test_waits_for_room_within_our_own_limits_are_no_further_attempts() -> None:
    settings = UpstreamSettings(max_retries=2, retry_share=0, retry_reserve=0)
    script = Script(settings, a=[UpstreamLimited("no room", retry_after_s=0.001)] * 2)
    assert await script.run() == "a"


async def test_an_error_tells_the_fallback_by_its_id_however_it_was_named() -> None:
    bench = Bench(
        [model("a"), model("b", name="acme/other")],
        {"a": ScriptedProvider(steps=[fail(REJECTED)]), "b": ScriptedProvider(steps=[fail(REJECTED)])},
    )
    with pytest.raises(UpstreamRejected, match="Tried a: no; acme/other at b: no"):
        await bench.embed(EmbedRequest("acme/m", ("x",), fallback_model="other"))


# Embeddings: the same, in parts, joined in flight.


def fail(error: GatewayError) -> Step:
    def step(_batch: Batch, _reply: ProviderReply) -> ProviderReply:
        raise error

    return step


class Stalling(ScriptedProvider):
    """Never answers."""

    async def embed(self, batch: Batch, route: Route, deadline_s: float) -> ProviderReply:
        """Times out when it is time."""
        self.batches.append(batch)
        await asyncio.sleep(max(0.0, deadline_s - time.monotonic()))
        raise UpstreamTimeout("a did not answer within the call's time")


async def test_a_stall_is_given_up_where_another_route_can_be_tried() -> None:
    settings = UpstreamSettings(attempt_timeout_s=0.05)
    bench = Bench([model("a", "b")], {"a": Stalling(), "b": ScriptedProvider()}, upstream=settings)
    begun_s = time.monotonic()
    assert (await bench.embed(EmbedRequest("acme/m", ("x",)))).provider == "b"
    assert time.monotonic() - begun_s < 0.5
    alone = Bench([model("a")], {"a": Stalling()}, upstream=settings, request_timeout_s=0.2)
    with pytest.raises(UpstreamTimeout, match="within the call's time$"):
        await alone.embed(EmbedRequest("acme/m", ("x",)))
    assert len(alone.providers["a"].batches) == 1


async def test_who_joined_a_stalled_call_goes_on_too() -> None:
    settings = UpstreamSettings(attempt_timeout_s=0.1)
    bench = Bench([model("a", "b")], {"a": Stalling(), "b": ScriptedProvider()}, upstream=settings)
    pinned = asyncio.create_task(bench.embed(EmbedRequest("acme/m", ("x",), provider="a")))  # has ten seconds
    while not bench.providers["a"].batches:
        await asyncio.sleep(0)
    assert (await bench.embed(EmbedRequest("acme/m", ("x",)))).provider == "b"
    pinned.cancel()
    await bench.pipeline.running.drain(0)


async def test_a_thousand_joined_waiters_do_not_repeat_a_failed_call_each() -> None:
    provider = ScriptedProvider(gate=asyncio.Event(), steps=[fail(FAILED)] * 9)
    settings = UpstreamSettings(max_retries=2, retry_wait_s=0.001)
    bench = Bench([model("a")], {"a": provider}, upstream=settings)
    tasks = [asyncio.create_task(bench.embed(EmbedRequest("acme/m", ("x",)))) for _ in range(100)]
    await asyncio.sleep(0.01)
    assert provider.gate is not None
    provider.gate.set()
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(error, UpstreamFailed) for error in errors)
    assert len(provider.batches) == 3


async def test_what_is_kept_is_found_though_every_route_refuses() -> None:
    provider = ScriptedProvider()
    bench = Bench([model("a")], {"a": provider}, upstream=QUICK, cache=DictCache())
    await bench.embed(EmbedRequest("acme/m", ("x",)))
    provider.steps = [fail(FAILED)] * 9
    for text in ("y", "z"):
        with pytest.raises(UpstreamFailed):
            await bench.embed(EmbedRequest("acme/m", (text,)))
    asked = len(provider.batches)
    with pytest.raises(UpstreamFailed, match="left alone"):
        await bench.embed(EmbedRequest("acme/m", ("more",)))
    assert (await bench.embed(EmbedRequest("acme/m", ("x",)))).usage.reused_tokens == 1
    assert len(provider.batches) == asked


async def test_a_route_that_refuses_what_another_answers_is_soon_asked_no_more() -> None:
    bench = Bench([model("a", "b")], {"a": ScriptedProvider(steps=[fail(REJECTED)] * 99), "b": ScriptedProvider()})
    for number in range(10):
        assert (await bench.embed(EmbedRequest("acme/m", (f"text {number}",)))).provider == "b"
    assert len(bench.providers["a"].batches) == 3


@pytest.mark.parametrize("why", ["another model", "an option", "too large", "too long"])
async def test_a_refusal_that_only_says_what_a_route_does_not_take_is_no_fault_of_it(why: str) -> None:
    found = model("a", "b")
    a, b = (dataclasses.replace(route, accepts_unknown_options=True) for route in found.routes)
    if why == "too long":
        b = dataclasses.replace(b, max_input_tokens=2 * a.max_input_tokens)
    other = model("c", name="acme/other")
    c = dataclasses.replace(other.routes[0], accepts_unknown_options=True)
    refused = UpstreamTooLarge("at most 3") if why == "too large" else REJECTED
    bench = Bench(
        [
            dataclasses.replace(found, routes=(a,) if why == "another model" else (a, b)),
            dataclasses.replace(other, routes=(c,)),
        ],
        {"a": ScriptedProvider(steps=[fail(refused)] * 99), "b": ScriptedProvider(), "c": ScriptedProvider()},
    )
    options = {"odd": b"1"} if why == "an option" else {}
    for number in range(10):
        request = EmbedRequest("acme/m", (f"text {number}",), options=options, fallback_model="acme/other")
        assert (await bench.embed(request)).provider == ("c" if why == "another model" else "b")
    assert len(bench.providers["a"].batches) == 10


async def test_a_request_that_cannot_be_sent_keeps_nobody_from_a_route_on_trial() -> None:
    settings = UpstreamSettings(max_retries=0, circuit_patience_s=0, circuit_wait_s=0.02)
    bench = Bench([found := model("a")], {"a": ScriptedProvider()}, upstream=settings)
    state = bench.states.of(Candidate(found, found.routes[0]))
    for _ in range(5):
        state.failed(FAILED, 0.0)
    await asyncio.sleep(0.03)
    with pytest.raises(InvalidInput, match="vocabulary"):
        await bench.embed(EmbedRequest("acme/m", ((99,),)))
    assert (await bench.embed(EmbedRequest("acme/m", ("x",)))).provider == "a"


class SlowToRefuse(ScriptedProvider):
    """Refuses each text once, the first at once, each further one a little later, and asks for a tenth of a second."""

    async def embed(self, batch: Batch, route: Route, deadline_s: float) -> ProviderReply:
        """One call."""
        n_calls = len(self.batches)
        reply = await super().embed(batch, route, deadline_s)
        if sum(other.inputs == batch.inputs for other in self.batches) == 1:
            await asyncio.sleep(0.01 * n_calls)
            raise UpstreamBusy("slow down", retry_after_s=0.1)
        return reply


async def test_parts_that_wait_at_the_same_time_wait_once() -> None:
    settings = UpstreamSettings(max_retries=1, retry_wait_s=0.001, max_wait_s=0.5)
    bench = Bench([model("a", max_inputs=1)], {"a": SlowToRefuse()}, upstream=settings)
    texts = tuple(f"text {n}" for n in range(20))
    assert (await bench.embed(EmbedRequest("acme/m", texts))).provider == "a"
