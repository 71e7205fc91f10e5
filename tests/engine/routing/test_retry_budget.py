"""Further attempts are a share of the calls, and a small reserve."""

from hypothesis import given
from hypothesis import strategies as st

from embedgate.engine.routing.route_health import RetryBudget


def spent(budget: RetryBudget, now_s: float, tries: int = 1000) -> int:
    """How many further attempts it grants at once."""
    return sum(budget.spend(now_s) for _ in range(tries))


def test_a_quiet_route_has_its_reserve_and_gets_it_again() -> None:
    budget = RetryBudget(0.2, 10, 0.0)
    assert spent(budget, 1) == 10
    assert spent(budget, 11) == 0  # those of the window before still count
    assert spent(budget, 40) == 10


def test_calls_earn_their_share() -> None:
    budget = RetryBudget(0.2, 10, 0.0)
    for _ in range(100):
        budget.earn(1)
    assert spent(budget, 2) == 30


def test_nothing_is_granted_where_nothing_is_allowed() -> None:
    budget = RetryBudget(0.0, 0, 0.0)
    budget.earn(0)
    assert spent(budget, 1) == 0


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 3)), max_size=400))
def test_a_storm_is_impossible(steps: list[tuple[bool, float]]) -> None:
    """Of any twenty seconds, no more attempts than the share of the calls around them and twice the reserve."""
    budget = RetryBudget(0.2, 3, 0.0)
    now_s = 0.0
    calls: list[float] = []
    granted: list[float] = []
    for is_call, pause_s in steps:
        now_s += pause_s
        if is_call:
            calls.append(now_s)
            budget.earn(now_s)
        elif budget.spend(now_s):
            granted.append(now_s)
    for at_s in granted:
        window = sum(at_s - 10 <= other <= at_s for other in granted)
        earned = 0.2 * sum(at_s - 30 <= other <= at_s for other in calls)
        assert window <= 2 * 3 + earned
