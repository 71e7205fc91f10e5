"""When a route is left alone, for how long, and how it earns its way back: on a clock and dice of the test's own."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doubles import model
from embedgate.core.errors import (
    GatewayError,
    InvalidInput,
    UpstreamBusy,
    UpstreamDenied,
    UpstreamFailed,
    UpstreamGarbled,
    UpstreamLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamTooLarge,
)
from embedgate.core.types import Candidate
from embedgate.engine.routing.route_health import HealthReport, RouteHealth, RouteHealths
from embedgate.observe import metrics
from embedgate.settings import UpstreamSettings

SETTINGS = UpstreamSettings()
FAILED = UpstreamFailed("broke")


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        """Now."""
        return self.now_s

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds


def states(clock: Clock, settings: UpstreamSettings = SETTINGS) -> RouteHealths:
    return RouteHealths(settings, clock, jitter=lambda: 0.5, now_ms=lambda: int(clock.now_s * 1000))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(clock: Clock) -> RouteHealth:
    """A route; it waits exactly as long as the settings say, since the dice always show one half."""
    found = model("a")
    return states(clock).of(Candidate(found, found.routes[0]))


def fail(state: RouteHealth, n: int = 1, error: GatewayError = FAILED) -> None:
    for _ in range(n):
        state.failed(error, 0.0)


def succeed(state: RouteHealth, n: int = 1) -> None:
    for _ in range(n):
        state.succeeded(0.0)


def well(state: RouteHealth) -> bool:
    """`is_well`, without a type checker that takes it for constant."""
    return state.is_well


def due(state: RouteHealth) -> bool:
    """`is_due`, likewise."""
    return state.is_due


def until_probed(state: RouteHealth, clock: Clock) -> float:
    """Seconds until somebody should find out if the route works."""
    begun_s = clock.now_s
    while not due(state):
        clock.wait(0.25)
        assert clock.now_s < begun_s + 5000
    return clock.now_s - begun_s


@pytest.mark.parametrize(
    "error",
    [FAILED, UpstreamTimeout("late"), UpstreamGarbled("wrong"), UpstreamBusy("busy")],
    ids=lambda error: type(error).__name__,
)
def test_a_circuit_opens_when_a_share_of_the_last_calls_failed(state: RouteHealth, error: GatewayError) -> None:
    succeed(state, 20)
    fail(state, 4, error)
    assert well(state)
    fail(state, 1, error)
    assert not well(state)
    assert state.health().state == "failing"


def test_three_failures_are_needed_at_least(state: RouteHealth) -> None:
    fail(state, 2)
    assert well(state)
    fail(state)
    assert not well(state)


def test_failures_of_long_ago_count_no_more(state: RouteHealth, clock: Clock) -> None:
    fail(state, 2)
    clock.wait(61)
    fail(state, 2)
    assert well(state)


@pytest.mark.parametrize(
    "error",
    [UpstreamRejected("no"), UpstreamTooLarge("at most 3"), InvalidInput("is empty"), UpstreamLimited("no room")],
    ids=lambda error: type(error).__name__,
)
def test_what_says_nothing_of_the_routes_health_changes_nothing(state: RouteHealth, error: GatewayError) -> None:
    fail(state, 50, error)
    assert well(state)
    assert state.refusal() is None


def test_a_refused_key_opens_it_at_once_and_for_long(state: RouteHealth, clock: Clock) -> None:
    fail(state, 1, UpstreamDenied("bad key"))
    assert not well(state)
    assert until_probed(state, clock) == SETTINGS.circuit_max_wait_s


def test_a_provider_that_asks_us_to_wait_is_left_alone_for_just_so_long(state: RouteHealth, clock: Clock) -> None:
    fail(state, 1, UpstreamBusy("slow down", retry_after_s=20))
    assert not well(state)
    refusal = state.refusal()
    assert isinstance(refusal, UpstreamBusy)
    assert refusal.retry_after_s == 20
    clock.wait(19.5)
    assert not well(state)
    clock.wait(0.5)
    assert well(state)
    assert state.refusal() is None


def test_it_refuses_requests_without_another_route_only_when_nothing_has_worked_for_a_while(
    state: RouteHealth, clock: Clock
) -> None:
    fail(state, 20)
    assert not well(state)
    assert state.refusal() is None  # not long enough
    clock.wait(SETTINGS.circuit_patience_s)
    assert state.refusal() is None  # nobody has tried since
    fail(state)
    refusal = state.refusal()
    assert isinstance(refusal, UpstreamFailed)
    assert refusal.retry_after_s == 2 * SETTINGS.circuit_wait_s
    assert "21 failures in a row" in refusal.message
    assert "broke" in refusal.message
    clock.wait(refusal.retry_after_s)
    assert state.refusal() is None
    succeed(state)
    assert state.refusal() is None


def test_half_of_the_answers_are_better_than_none(state: RouteHealth, clock: Clock) -> None:
    for _ in range(200):
        fail(state)
        succeed(state)
        clock.wait(1)
    assert not well(state)
    assert state.refusal() is None


def test_one_at_a_time_finds_out_and_three_good_answers_close_it(state: RouteHealth, clock: Clock) -> None:
    fail(state, 3)
    succeed(state, 50)  # of calls that had begun before: they prove nothing
    assert not well(state)
    assert until_probed(state, clock) == SETTINGS.circuit_wait_s
    for _ in range(3):
        assert due(state)
        assert not well(state)
        assert state.health().state == "probing"
        state.lease()
        assert not due(state)
        clock.wait(0.1)
        succeed(state)
    assert well(state)
    assert state.health().state == "ok"
    fail(state, 2)
    assert well(state)  # what was before it closed is forgotten


def test_the_wait_doubles_with_every_probe_that_fails_up_to_a_bound(state: RouteHealth, clock: Clock) -> None:
    fail(state, 3)
    waits = []
    for _ in range(9):
        waits.append(until_probed(state, clock))
        state.lease()
        fail(state)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_relapse_waits_longer_than_the_first_time(state: RouteHealth, clock: Clock) -> None:
    for wait_s in (1, 2, 4):
        fail(state, 3)
        assert until_probed(state, clock) == wait_s
        succeed(state, 3)
        assert well(state)
    clock.wait(61)
    fail(state, 3)
    assert until_probed(state, clock) == 1


def test_a_probe_that_tells_nothing_lets_another_one_find_out(state: RouteHealth, clock: Clock) -> None:
    fail(state, 3)
    until_probed(state, clock)
    state.lease()
    fail(state, 1, UpstreamLimited("no room"))
    assert due(state)
    state.lease()
    clock.wait(SETTINGS.attempt_timeout_s)  # it never came back
    assert due(state)


def test_while_one_finds_out_others_are_told_to_come_back_soon(state: RouteHealth, clock: Clock) -> None:
    fail(state, 5)
    clock.wait(11)
    fail(state)
    until_probed(state, clock)
    state.lease()
    refusal = state.refusal()
    assert refusal is not None
    assert refusal.retry_after_s == 1
    assert "right now" in refusal.message


def test_a_call_that_was_given_little_time_is_no_proof(state: RouteHealth) -> None:
    for _ in range(30):
        state.succeeded(1.0)
    for _ in range(30):
        state.failed(UpstreamTimeout("late"), 1.9)
    assert well(state)
    for _ in range(5):
        state.failed(UpstreamTimeout("late"), 2.1)
    assert not well(state)


def test_a_call_that_had_all_the_time_there_is_counts_even_on_a_slow_route(state: RouteHealth) -> None:
    for _ in range(30):
        state.succeeded(0.8 * SETTINGS.attempt_timeout_s)
    for _ in range(5):
        state.failed(UpstreamTimeout("late"), SETTINGS.attempt_timeout_s)
    assert not well(state)


def test_a_provider_that_is_forgotten_is_in_no_metric_until_it_is_asked_again(clock: Clock) -> None:
    known = states(clock)
    found = model("forgotten")
    state = known.of(Candidate(found, found.routes[0]))
    fail(state, 3)
    line = 'embedgate_route_works{model="acme/m",provider="forgotten"}'
    assert f"{line} 0.0" in metrics.text(None).decode()
    known.forget("forgotten")
    assert line not in metrics.text(None).decode()
    succeed(state)
    assert f"{line} 1.0" in metrics.text(None).decode()


def test_what_another_route_answers_was_refused_wrongly(state: RouteHealth) -> None:
    for _ in range(3):
        state.failed(UpstreamRejected("no such deployment"), 0.1)
        state.disproved(UpstreamRejected("no such deployment"))
    assert not well(state)


def test_health_tells_what_was_seen(state: RouteHealth, clock: Clock) -> None:
    assert state.health() == HealthReport()
    for milliseconds in range(1, 101):
        state.succeeded(milliseconds / 1000, tokens=10)
    clock.wait(5)
    state.failed(UpstreamTimeout("late"), 5.0)
    health = state.health()
    assert (health.state, health.p50_ms, health.p95_ms) == ("ok", 51.0, 96.0)
    assert health.failure_share == pytest.approx(1 / 20)
    assert (health.last_failure_code, health.last_failure_at_ms) == ("upstream_timeout", 1_005_000)


def test_states_are_kept_by_model_and_provider_until_a_provider_changes(clock: Clock) -> None:
    known = states(clock)
    both = model("a", "b")
    first, second = (Candidate(both, route) for route in both.routes)
    fail(known.of(first), 3)
    assert not well(known.of(Candidate(model("a"), model("a").routes[0])))
    assert well(known.of(second))
    known.forget("a")
    assert well(known.of(first))


Act = Callable[[RouteHealth, Clock], object]
ACTS: list[Act] = [
    lambda state, _: state.succeeded(0.1),
    lambda state, _: state.failed(FAILED, 0.1),
    lambda state, _: state.failed(UpstreamBusy("b", retry_after_s=7), 0.1),
    lambda state, _: state.failed(UpstreamDenied("d"), 0.1),
    lambda state, _: state.failed(UpstreamRejected("r"), 0.1),
    lambda state, _: state.outrun(0.5),
    lambda state, _: state.lease(),
    lambda _, clock: clock.wait(0.3),
    lambda _, clock: clock.wait(30),
]


@given(st.lists(st.sampled_from(ACTS), max_size=120))
def test_whatever_happens_a_route_that_works_again_comes_back_and_says_true_waits(acts: list[Act]) -> None:
    clock = Clock()
    found = model("a")
    state = states(clock).of(Candidate(found, found.routes[0]))
    for act in acts:
        act(state, clock)
        refusal = state.refusal()
        if refusal is not None:
            assert refusal.retry_after_s is not None
            assert 0 < refusal.retry_after_s <= 3600
            assert not well(state)
        assert not (well(state) and due(state))
    for _ in range(10):
        if well(state):
            break
        if not due(state):
            clock.wait(SETTINGS.circuit_max_wait_s * 1.25)
        state.lease()
        state.succeeded(0.0)
    assert well(state)
