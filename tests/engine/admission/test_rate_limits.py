"""The limits of requests and tokens per minute, and of requests in flight."""

import asyncio
import math
from collections.abc import Sequence

import pytest

from asking_limits import FAR_S, KEY, PROJECT, USER, Clock, admitted, refused, settle, start, wait_of
from embedgate.core.access import EVERY, LimitRule, Rate, RecentRequest, Subject
from embedgate.core.errors import Overloaded, RateLimited
from embedgate.engine.admission.rate_limits import MIN_KNOWN, RateLimits
from embedgate.engine.admission.sliding_window import SLOT_S


@pytest.fixture
def clock() -> Clock:
    return Clock()


# The minute.


async def test_of_500_at_once_exactly_as_many_as_allowed_are_let_in(clock: Clock) -> None:
    limits = RateLimits([LimitRule(USER, requests_per_minute=137)], clock)

    async def ask() -> bool:
        await asyncio.sleep(0)
        try:
            (await limits.enter((KEY, USER), 1, FAR_S)).leave()
        except RateLimited:
            return False
        return True

    answers = await asyncio.gather(*(ask() for _ in range(500)))
    assert sum(answers) == 137


async def test_of_500_at_once_no_more_tokens_than_allowed_are_let_in(clock: Clock) -> None:
    limits = RateLimits([LimitRule(USER, tokens_per_minute=1000, max_parallel=7, max_waiting=500)], clock)

    async def ask() -> int:
        try:
            place = await limits.enter((USER,), 30, FAR_S)
        except RateLimited:
            return 0
        await asyncio.sleep(0)
        place.leave()
        return 30

    assert sum(await asyncio.gather(*(ask() for _ in range(500)))) == 990


async def test_the_minute_slides(clock: Clock) -> None:
    limits = RateLimits([LimitRule(USER, requests_per_minute=2)], clock)
    await admitted(limits, USER)
    clock.now += 59
    await admitted(limits, USER)
    await refused(limits, USER)
    clock.now += 1
    await admitted(limits, USER)  # the first is a minute old, the second a second
    error = await refused(limits, USER)
    assert wait_of(error) == pytest.approx(59)


@pytest.mark.parametrize("start_s", [0.1, 1.7, 29.9, 31.3, 12345.678, 2.0**31 + 0.3])
async def test_the_wait_that_is_told_is_true_to_a_hair(start_s: float) -> None:
    clock = Clock(start_s)
    limits = RateLimits([LimitRule(USER, requests_per_minute=3, tokens_per_minute=100)], clock)
    for tokens in (50, 10, 40):
        await admitted(limits, USER, tokens=tokens)
        clock.now += 7.123
    for tokens in (50, 60, 61):  # each needs more of the old to be gone
        error = await refused(limits, USER, tokens=tokens)
        told_at = clock.now
        clock.now = math.nextafter(told_at + wait_of(error), 0)
        await refused(limits, USER, tokens=tokens)
        clock.now = told_at + wait_of(error)
        (await admitted(limits, USER, tokens=tokens)).withdraw()
        clock.now = told_at


async def test_the_wait_that_is_told_is_not_rounded_to_too_little(clock: Clock) -> None:
    clock.now = 0.3985551600379108
    limits = RateLimits([LimitRule(USER, requests_per_minute=1)], clock)
    await admitted(limits, USER)
    clock.now = 27.800315675016126  # 60.39... less this, added to this, is less than 60.39...
    clock.now += wait_of(await refused(limits, USER))
    await admitted(limits, USER)


async def test_the_wait_is_that_of_the_slowest_limit(clock: Clock) -> None:
    limits = RateLimits([LimitRule(KEY, requests_per_minute=1), LimitRule(USER, tokens_per_minute=10)], clock)
    await admitted(limits, KEY)
    clock.now += 20
    await admitted(limits, USER, tokens=10)
    error = await refused(limits, KEY, USER, tokens=1)
    assert wait_of(error) == 60
    assert error.message == (
        "Tokens of your user in the last minute: 10, and 1 of this request, of 10 allowed. "
        "Try again in 60 s, or send fewer inputs."
    )


async def test_who_is_refused_is_told_the_count_and_the_limit(clock: Clock) -> None:
    limits = RateLimits([LimitRule(KEY, requests_per_minute=1)], clock)
    await admitted(limits, KEY)
    clock.now += 0.5
    error = await refused(limits, KEY)
    assert error.message == "Requests of your key in the last minute: 1, of 1 allowed. Try again in 60 s."


async def test_a_request_too_big_for_any_minute_is_told_no_time(clock: Clock) -> None:
    limits = RateLimits([LimitRule(KEY, requests_per_minute=1), LimitRule(PROJECT, tokens_per_minute=10)], clock)
    error = await refused(limits, KEY, PROJECT, tokens=11)
    assert error.retry_after_s is None
    assert error.message == (
        "The request has 11 tokens; your project may use 10 tokens per minute. Send fewer inputs in one request."
    )
    await admitted(limits, KEY, PROJECT, tokens=10)


async def test_who_is_refused_by_one_subject_is_counted_by_none(clock: Clock) -> None:
    rules = [
        LimitRule(KEY, requests_per_minute=5, tokens_per_minute=50, max_parallel=5),
        LimitRule(USER, requests_per_minute=1),
        LimitRule(PROJECT, requests_per_minute=5, tokens_per_minute=50, max_parallel=5),
    ]
    limits = RateLimits(rules, clock)
    await admitted(limits, USER)
    for _ in range(20):
        await refused(limits, KEY, USER, PROJECT, tokens=10)
    for subject in (KEY, PROJECT):
        assert limits.rate((subject,)) == Rate(5, 5, 0.0, 50, 50, 0.0)
        for _ in range(5):
            await admitted(limits, subject, tokens=10)


async def test_a_subject_that_is_named_twice_is_counted_once(clock: Clock) -> None:
    limits = RateLimits([LimitRule(USER, requests_per_minute=2, max_parallel=2)], clock)
    await admitted(limits, USER, USER)
    await admitted(limits, USER)


# Estimates and their correction.


async def test_a_correction_gives_tokens_back(clock: Clock) -> None:
    limits = RateLimits([LimitRule(USER, tokens_per_minute=100)], clock)
    place = await admitted(limits, USER, tokens=100)
    await refused(limits, USER, tokens=1)
    place.correct(40)
    await admitted(limits, USER, tokens=60)
    await refused(limits, USER, tokens=1)


async def test_a_correction_takes_tokens_and_the_last_one_holds(clock: Clock) -> None:
    limits = RateLimits([LimitRule(USER, tokens_per_minute=100)], clock)
    place = await admitted(limits, USER, tokens=10)
    place.leave()
    place.correct(500)
    rate = limits.rate((USER,))
    assert rate is not None
    assert rate.remaining_tokens == 0
    place.correct(90)
    await refused(limits, USER, tokens=11)
    await admitted(limits, USER, tokens=10)


async def test_corrected_tokens_count_from_when_the_request_was_let_in(clock: Clock) -> None:
    limits = RateLimits([LimitRule(USER, tokens_per_minute=100)], clock)
    place = await admitted(limits, USER, tokens=1)
    clock.now += 50
    place.correct(100)
    assert wait_of(await refused(limits, USER)) == 10
    clock.now += 10
    await admitted(limits, USER, tokens=100)


async def test_a_correction_after_a_minute_changes_nothing(clock: Clock) -> None:
    limits = RateLimits([LimitRule(USER, tokens_per_minute=100)], clock)
    late = await admitted(limits, USER, tokens=50)
    later = await admitted(limits, USER, tokens=50)
    clock.now += 60
    late.correct(100)
    await admitted(limits, USER, tokens=100)
    later.correct(0)
    await refused(limits, USER)


async def test_a_request_that_is_withdrawn_was_never_counted(clock: Clock) -> None:
    limits = RateLimits([LimitRule(USER, requests_per_minute=1, tokens_per_minute=10, max_parallel=1)], clock)
    place = await admitted(limits, USER, tokens=7)
    place.correct(9)
    place.withdraw()
    place.withdraw()
    place.correct(10)
    assert limits.rate((USER,)) == Rate(1, 1, 0.0, 10, 10, 0.0)
    await admitted(limits, USER, tokens=10)
    await refused(limits, USER, tokens=1)


# Places in flight.


async def test_no_more_than_allowed_are_in_flight_and_the_others_come_in_order(clock: Clock) -> None:
    limits = RateLimits([LimitRule(USER, max_parallel=2, max_waiting=3)], clock)
    first, second = await admitted(limits, USER), await admitted(limits, USER)
    waiting = [await start(admitted(limits, USER)) for _ in range(3)]
    with pytest.raises(Overloaded) as caught:
        await admitted(limits, USER)
    assert caught.value.retry_after_s
    assert caught.value.message == (
        "Requests of your user in progress: 2, of 2 allowed; waiting: 3, of 3 allowed. Try again in a moment."
    )
    second.leave()
    second.leave()
    await settle()
    assert [task.done() for task in waiting] == [True, False, False]
    first.leave()
    waiting[0].result().leave()
    await settle()
    assert [task.done() for task in waiting] == [True, True, True]


async def test_without_a_waiting_line_a_full_subject_refuses(clock: Clock) -> None:
    limits = RateLimits([LimitRule(USER, requests_per_minute=9, max_parallel=1)], clock)
    place = await admitted(limits, USER)
    with pytest.raises(Overloaded):
        await admitted(limits, USER)
    place.leave()
    await admitted(limits, USER)
    rate = limits.rate((USER,))
    assert rate is not None
    assert rate.remaining_requests == 7


async def test_who_waits_is_counted_when_it_comes_in(clock: Clock) -> None:
    limits = RateLimits([LimitRule(USER, requests_per_minute=9, max_parallel=1, max_waiting=1)], clock)
    place = await admitted(limits, USER)
    task = await start(admitted(limits, USER))
    assert limits.rate((USER,)) == Rate(9, 8, 60.0)
    clock.now += 30
    place.leave()
    await task
    assert limits.rate((USER,)) == Rate(9, 7, 60.0)


async def test_who_comes_in_to_a_minute_that_is_used_up_is_refused_and_the_next_has_its_place(clock: Clock) -> None:
    limits = RateLimits([LimitRule(KEY, tokens_per_minute=20), LimitRule(USER, max_parallel=1, max_waiting=2)], clock)
    place = await admitted(limits, USER)
    big = await start(admitted(limits, KEY, USER, tokens=15))
    small = await start(admitted(limits, KEY, USER, tokens=10))
    await admitted(limits, KEY, tokens=10)
    place.leave()
    with pytest.raises(RateLimited) as caught:
        await big
    assert wait_of(caught.value) == 60
    await small


async def test_who_needs_two_places_waits_for_both_and_holds_neither(clock: Clock) -> None:
    rules = [LimitRule(USER, max_parallel=1, max_waiting=5), LimitRule(PROJECT, max_parallel=1, max_waiting=5)]
    limits = RateLimits(rules, clock)
    of_user, of_project = await admitted(limits, USER), await admitted(limits, PROJECT)
    both = await start(admitted(limits, USER, PROJECT))
    of_user.leave()
    await settle()
    assert not both.done()
    again = await admitted(limits, USER)  # its place is not kept empty
    of_project.leave()
    await settle()
    assert not both.done()
    again.leave()
    await both


async def test_who_waits_for_one_subject_holds_up_no_other(clock: Clock) -> None:
    rules = [LimitRule(USER, max_parallel=1, max_waiting=5), LimitRule(PROJECT, max_parallel=2, max_waiting=0)]
    limits = RateLimits(rules, clock)
    first = await admitted(limits, USER, PROJECT)
    waiting = [await start(admitted(limits, USER, PROJECT)) for _ in range(2)]
    other = await admitted(limits, PROJECT)
    other.leave()
    await admitted(limits, PROJECT)
    first.leave()
    await settle()
    assert [task.done() for task in waiting] == [True, False]


async def test_a_waiter_who_is_cancelled_leaves_the_line(clock: Clock) -> None:
    limits = RateLimits([LimitRule(USER, requests_per_minute=9, max_parallel=1, max_waiting=2)], clock)
    place = await admitted(limits, USER)
    gone, stays = await start(admitted(limits, USER)), await start(admitted(limits, USER))
    gone.cancel()
    await settle()
    assert gone.cancelled()
    third = await start(admitted(limits, USER))  # in the line again
    place.leave()
    (await stays).leave()
    (await third).leave()
    assert limits.rate((USER,)) == Rate(9, 6, 60.0)


async def test_a_waiter_who_is_cancelled_just_before_its_place_is_free_is_passed_over(clock: Clock) -> None:
    limits = RateLimits([LimitRule(USER, requests_per_minute=9, max_parallel=1, max_waiting=2)], clock)
    place = await admitted(limits, USER)
    gone, stays = await start(admitted(limits, USER)), await start(admitted(limits, USER))
    gone.cancel()
    place.leave()
    await stays
    assert gone.cancelled()
    assert limits.rate((USER,)) == Rate(9, 7, 60.0)


async def test_a_waiter_who_is_cancelled_just_after_it_got_a_place_hands_it_on(clock: Clock) -> None:
    limits = RateLimits([LimitRule(USER, requests_per_minute=2, max_parallel=1, max_waiting=2)], clock)
    place = await admitted(limits, USER)
    gone, stays = await start(admitted(limits, USER)), await start(admitted(limits, USER))
    place.leave()
    gone.cancel()
    await stays  # the minute has room for it: the other is counted no more
    assert gone.cancelled()
    assert limits.rate((USER,)) == Rate(2, 0, 60.0)


async def test_a_waiter_who_is_cancelled_just_after_it_was_refused_leaves_no_trace(clock: Clock) -> None:
    rules = [LimitRule(KEY, requests_per_minute=1), LimitRule(USER, max_parallel=1, max_waiting=1)]
    limits = RateLimits(rules, clock)
    place = await admitted(limits, USER)
    gone = await start(admitted(limits, KEY, USER))
    await admitted(limits, KEY)
    place.leave()
    gone.cancel()
    await settle()
    assert gone.cancelled()
    await admitted(limits, USER)


async def test_a_waiter_whose_deadline_passes_is_turned_away(clock: Clock) -> None:
    limits = RateLimits([LimitRule(USER, max_parallel=1, max_waiting=1)], clock)
    place = await admitted(limits, USER)
    with pytest.raises(Overloaded) as caught:
        await limits.enter((USER,), 1, clock.now)
    assert caught.value.retry_after_s
    assert caught.value.message == (
        "Requests of your user in progress: 1, of 1 allowed, and none ended in the time of this one. "
        "Try again in a moment."
    )
    task = await start(admitted(limits, USER))  # the line is empty again
    place.leave()
    await task


# Rules.


async def test_a_rule_for_every_one_counts_each_apart_and_yields_to_a_rule_of_its_own(clock: Clock) -> None:
    other, own = Subject("user", "u2"), Subject("user", "u3")
    limits = RateLimits([LimitRule(Subject("user", EVERY), 1), LimitRule(own, 3)], clock)
    for subject, n in ((USER, 1), (other, 1), (own, 3)):
        for _ in range(n):
            await admitted(limits, KEY, subject)
        await refused(limits, KEY, subject)
    assert [limits.requests_per_minute(user) for user in ("u1", "u3", "never seen")] == [1, 3, 1]


async def test_a_rule_of_its_own_sets_aside_the_whole_rule_for_every_one(clock: Clock) -> None:
    limits = RateLimits([LimitRule(Subject("user", EVERY), 1), LimitRule(USER, tokens_per_minute=10)], clock)
    await admitted(limits, USER)
    await admitted(limits, USER)
    assert limits.requests_per_minute("u1") is None


@pytest.mark.parametrize("rules", [[], [LimitRule(Subject("user", "other"), 1, 1, 1)]])
async def test_without_a_rule_nothing_is_limited_or_counted(rules: Sequence[LimitRule], clock: Clock) -> None:
    limits = RateLimits(rules, clock)
    for _ in range(3):
        place = await admitted(limits, KEY, USER, tokens=10**12)
        place.correct(10**13)
        place.leave()
        place.withdraw()
    assert limits.rate((KEY, USER)) is None
    assert not limits.applies((KEY, USER))
    assert limits.rate(()) is None
    assert limits.requests_per_minute("u1") is None


async def test_new_rules_keep_what_was_counted(clock: Clock) -> None:
    limits = RateLimits([LimitRule(USER, requests_per_minute=10, max_parallel=10)], clock)
    for _ in range(4):
        await admitted(limits, USER, tokens=5)
    limits.replace([LimitRule(USER, requests_per_minute=5, tokens_per_minute=30, max_parallel=5)])
    assert limits.rate((USER,)) == Rate(5, 1, 60.0, 30, 10, 60.0)
    limits.replace([LimitRule(USER, requests_per_minute=3)])
    await refused(limits, USER)
    limits.replace([])
    await admitted(limits, USER)
    limits.replace([LimitRule(Subject("user", EVERY), requests_per_minute=4)])
    assert wait_of(await refused(limits, USER)) == 60


async def test_new_rules_hold_for_those_who_wait(clock: Clock) -> None:
    def rules(max_parallel: int | None, rpm: int) -> list[LimitRule]:
        return [LimitRule(USER, rpm, None, max_parallel, 3), LimitRule(Subject("project", "p2"), 1)]

    limits = RateLimits(rules(1, 100), clock)
    place = await admitted(limits, USER, PROJECT)
    waiting = [await start(admitted(limits, USER, PROJECT)) for _ in range(3)]
    limits.replace(rules(2, 100))
    await settle()
    assert [task.done() for task in waiting] == [True, False, False]
    limits.replace([*rules(2, 100), LimitRule(PROJECT, max_parallel=1)])  # who waits now needs a place here, too
    place.leave()
    await waiting[1]
    assert not waiting[2].done()
    limits.replace(rules(None, 3))
    with pytest.raises(RateLimited):
        await waiting[2]


async def test_a_waiter_is_turned_away_by_the_subject_that_is_full_by_then(clock: Clock) -> None:
    limits = RateLimits([LimitRule(USER, max_parallel=1, max_waiting=1), LimitRule(PROJECT, max_parallel=1)], clock)
    await admitted(limits, USER)
    task = await start(limits.enter((USER, PROJECT), 1, clock.now + 0.01))
    await admitted(limits, PROJECT)
    limits.replace([LimitRule(PROJECT, max_parallel=1)])
    with pytest.raises(Overloaded, match="Requests of your project in progress: 1, of 1 allowed"):
        await task


async def test_the_rate_is_that_of_the_tightest_limit_of_each_sort(clock: Clock) -> None:
    rules = [
        LimitRule(KEY, requests_per_minute=10),
        LimitRule(USER, requests_per_minute=100, tokens_per_minute=1000, max_parallel=1),
        LimitRule(PROJECT, tokens_per_minute=500),
    ]
    limits = RateLimits(rules, clock)
    everyone = (KEY, USER, PROJECT)
    assert limits.applies(everyone)
    assert limits.rate(everyone) == Rate(10, 10, 0.0, 500, 500, 0.0)
    await admitted(limits, PROJECT, tokens=20)
    clock.now += 10
    (await admitted(limits, *everyone, tokens=30)).leave()
    clock.now += 10
    assert limits.rate(everyone) == Rate(10, 9, 50.0, 500, 450, 50.0)
    (await admitted(limits, USER, tokens=900)).correct(0)
    assert limits.rate((USER,)) == Rate(100, 98, 60.0, 1000, 970, 50.0)
    clock.now += 60
    assert limits.rate(everyone) == Rate(10, 10, 0.0, 500, 500, 0.0)


# Memory.


async def test_a_subject_that_never_rests_is_remembered_in_a_bounded_number_of_slots(clock: Clock) -> None:
    limits = RateLimits([LimitRule(USER, requests_per_minute=10**9)], clock)
    longest = 0
    for step_s in (SLOT_S / 3, SLOT_S, SLOT_S * 1.01):
        for _ in range(4000):
            clock.now += step_s
            (await admitted(limits, USER)).leave()
            longest = max(longest, len(limits._windows[USER]._slots))
    assert longest <= 1002


async def pass_by(limits: RateLimits, n: int, first: int = 0) -> None:
    """As many callers as that, each once: enough of them make the limits forget who is idle."""
    for number in range(first, first + n):
        (await admitted(limits, Subject("project", f"passing {number}"))).leave()


async def test_idle_subjects_are_forgotten(clock: Clock) -> None:
    limits = RateLimits([LimitRule(Subject("project", EVERY), requests_per_minute=1)], clock)
    most = 0
    for minute in range(5):
        await pass_by(limits, MIN_KNOWN, first=minute * MIN_KNOWN)
        clock.now += 61
        most = max(most, len(limits._windows), len(limits._known))
    assert most <= 2 * MIN_KNOWN


async def test_callers_without_a_limit_are_forgotten_too(clock: Clock) -> None:
    limits = RateLimits([LimitRule(USER, requests_per_minute=1)], clock)
    await pass_by(limits, 3 * MIN_KNOWN)
    assert len(limits._known) <= MIN_KNOWN


async def test_a_subject_counted_in_the_last_minute_is_not_forgotten(clock: Clock) -> None:
    limits = RateLimits([LimitRule(Subject("project", EVERY), 1), LimitRule(USER, requests_per_minute=1)], clock)
    (await admitted(limits, USER)).leave()
    clock.now += 59
    await pass_by(limits, 2 * MIN_KNOWN)
    assert wait_of(await refused(limits, USER)) == 1


async def test_a_subject_with_a_request_in_flight_is_not_forgotten(clock: Clock) -> None:
    limits = RateLimits([LimitRule(Subject("project", EVERY), 1), LimitRule(USER, max_parallel=1)], clock)
    place = await admitted(limits, USER)
    clock.now += 61
    await pass_by(limits, 2 * MIN_KNOWN)
    with pytest.raises(Overloaded):
        await admitted(limits, USER)
    place.leave()
    await admitted(limits, USER)


async def test_a_subject_with_someone_in_line_is_not_forgotten(clock: Clock) -> None:
    rules = [LimitRule(subject, max_parallel=1, max_waiting=1) for subject in (KEY, USER)]
    limits = RateLimits([LimitRule(Subject("project", EVERY), 1), *rules], clock)
    of_key, of_user = await admitted(limits, KEY), await admitted(limits, USER)
    both = await start(admitted(limits, KEY, USER))
    of_user.leave()
    clock.now += 61
    await pass_by(limits, 2 * MIN_KNOWN)
    await admitted(limits, USER)
    with pytest.raises(Overloaded):  # `both` is the one who may wait
        await admitted(limits, USER)
    assert not both.done()
    both.cancel()
    of_key.leave()
    await settle()


async def test_requests_more_than_a_slot_apart_count_for_exactly_a_minute(clock: Clock) -> None:
    clock.now = 0.0
    limits = RateLimits([LimitRule(USER, requests_per_minute=3)], clock)
    for at_s in (0.0, SLOT_S / 2, SLOT_S):
        clock.now = at_s
        await admitted(limits, USER)
    assert clock.now + wait_of(await refused(limits, USER)) == 60 + SLOT_S / 2  # that of the newest in its slot
    clock.now = 60 + SLOT_S / 2
    await admitted(limits, USER)
    await admitted(limits, USER)
    assert clock.now + wait_of(await refused(limits, USER)) == 60 + SLOT_S


async def test_what_an_earlier_process_admitted_counts_until_its_minute_is_over(clock: Clock) -> None:
    limits = RateLimits([LimitRule(USER, requests_per_minute=3, tokens_per_minute=100)], clock)
    requests = [RecentRequest(at_ms, (KEY, USER), 10) for at_ms in (940_000, 980_000, 1_000_500)]
    limits.restore(requests, now_ms=1_000_000)
    assert limits.rate((USER,)) == Rate(3, 1, 60.0, 100, 80, 60.0)
    (await limits.enter((KEY, USER), 80, FAR_S)).leave()
    assert wait_of(await refused(limits, USER)) == pytest.approx(40.0)
    clock.now += 40.0
    await limits.enter((USER,), 10, FAR_S)
