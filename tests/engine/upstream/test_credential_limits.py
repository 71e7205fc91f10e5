"""One account at a provider: who is let in, who waits, who is refused, and what is learned from answers."""

import asyncio

import pytest

from embedgate.core.errors import UpstreamLimited
from embedgate.core.hints import Allowance, RateHints
from embedgate.engine.upstream.gauges import SOON_S
from embedgate.engine.upstream.limits import MAX_BLOCK_S, CredentialLimits, QueueLimits, Ticket
from virtual_time import now, virtually

FAR_S = 1e9
M, OTHER = "embedder", "talker"


def meter(
    *, rpm: int | None = None, tpm: int | None = None, max_wait_s: float = 2.0, max_waiting: int = 100
) -> CredentialLimits:
    line = QueueLimits(max_wait_s, max_waiting)
    return CredentialLimits("acme#2", line, requests_per_minute=rpm, tokens_per_minute=tpm, clock=now)


async def refused_s(account: CredentialLimits, tokens: int = 0, model: str = M) -> float:
    with pytest.raises(UpstreamLimited) as caught:
        await account.enter(model, tokens, FAR_S)
    assert caught.value.retry_after_s is not None
    return caught.value.retry_after_s


def waiting(
    account: CredentialLimits, tokens: int = 0, model: str = M, deadline_s: float = FAR_S
) -> asyncio.Task[Ticket]:
    return asyncio.create_task(account.enter(model, tokens, deadline_s))


def said(remaining: int, reset_s: float, limit: int | None = None) -> RateHints:
    return RateHints(Allowance(limit, remaining, reset_s))


def tokens_said(remaining: int, reset_s: float, limit: int | None = None) -> RateHints:
    return RateHints(tokens=Allowance(limit, remaining, reset_s))


@virtually
async def test_without_a_limit_everything_goes_at_once() -> None:
    account = meter()
    tickets = [await account.enter(M, 10**9, FAR_S) for _ in range(1000)]
    assert account.in_flight == 1000
    assert not account.counts_tokens(M)
    for ticket in tickets:
        ticket.end(5)
    assert account.in_flight == 0


@virtually
async def test_a_call_counts_until_a_minute_after_its_end() -> None:
    account = meter(rpm=1)
    first = await account.enter(M, 0, FAR_S)
    await asyncio.sleep(100)
    assert await refused_s(account) == 60  # at the earliest: it has not ended yet
    first.end()
    await asyncio.sleep(59)
    assert account.wait_s(M, 0) == pytest.approx(1)
    began_s = now()
    (await account.enter(M, 0, FAR_S)).end()
    assert now() - began_s == pytest.approx(1)


@virtually
async def test_a_long_answer_is_one_request_as_of_its_beginning_and_its_tokens_count_to_its_end() -> None:
    account = meter(rpm=1, tpm=100)
    stream = await account.enter(M, 80, FAR_S)
    stream.learn(RateHints())
    await asyncio.sleep(60)
    (await account.enter(M, 20, FAR_S)).withdraw()
    assert await refused_s(account, 21) == SOON_S
    stream.end(5)
    assert account.in_flight == 0
    (await account.enter(M, 95, FAR_S)).end()


@virtually
async def test_a_refusal_says_when_there_will_be_room_and_costs_nothing() -> None:
    account = meter(rpm=2)
    for _ in range(2):
        (await account.enter(M, 0, FAR_S)).end()
    await asyncio.sleep(20)
    for _ in range(5):
        assert await refused_s(account) == pytest.approx(40)
    assert account.in_flight == 0
    await asyncio.sleep(40)
    assert account.wait_s(M, 0) == 0


@virtually
async def test_a_refusal_names_the_account_the_model_and_the_settings() -> None:
    account = meter(rpm=1)
    await account.enter(M, 0, FAR_S)
    with pytest.raises(UpstreamLimited, match=r"acme#2 .* embedder for 60 s.* 2 s .*max_limit_wait_s.* 100 at once"):
        await account.enter(M, 0, FAR_S)


@virtually
async def test_tokens_are_counted_as_they_were_and_not_as_they_could_have_been() -> None:
    account = meter(tpm=100)
    first = await account.enter(M, 80, FAR_S)
    first.end(20)
    second = await account.enter(M, 80, FAR_S)
    second.end(None)
    assert await refused_s(account, 1) == pytest.approx(60)


@virtually
async def test_a_call_waits_for_others_to_turn_out_smaller_than_they_might_have_been() -> None:
    account = meter(tpm=100)
    first = await account.enter(M, 80, FAR_S)
    second = waiting(account, 60)
    await asyncio.sleep(0.5)
    assert not second.done()
    first.end(20)
    await asyncio.sleep(0)
    assert second.done()
    third = waiting(account, 90)
    await asyncio.sleep(0)
    assert third.done()  # 20 are used, and of the 60 in flight likely 15: that is too many
    with pytest.raises(UpstreamLimited) as caught:
        await third
    assert caught.value.retry_after_s == pytest.approx(60)
    assert await refused_s(account, 65) == SOON_S
    assert now() == 1002.5


@virtually
async def test_a_call_larger_than_the_minute_goes_when_the_minute_is_empty() -> None:
    account = meter(tpm=100)
    small = await account.enter(M, 1, FAR_S)
    assert await refused_s(account, 500) == 60
    small.end(0)
    (await account.enter(M, 500, FAR_S)).end(150)
    await asyncio.sleep(58)
    ticket = await account.enter(M, 1, FAR_S)
    assert now() == 1060
    ticket.end()


@virtually
async def test_a_call_whose_time_ends_before_there_is_room_is_refused_at_once() -> None:
    account = meter(rpm=1)
    (await account.enter(M, 0, FAR_S)).end()
    await asyncio.sleep(59)
    began_s = now()
    with pytest.raises(UpstreamLimited):
        await account.enter(M, 0, now() + 0.5)
    assert now() == began_s


@virtually
async def test_those_who_wait_go_in_the_order_of_coming_and_no_further_than_the_line_is_long() -> None:
    account = meter(tpm=10, max_waiting=3)
    for _ in range(5):
        (await account.enter(M, 2, FAR_S)).end()
        await asyncio.sleep(0.1)
    await asyncio.sleep(58.5)
    order: list[int] = []

    async def come(n: int, tokens: int) -> None:
        ticket = await account.enter(M, tokens, FAR_S)
        order.append(n)
        ticket.end(0)

    tasks = [asyncio.create_task(come(n, tokens)) for n, tokens in enumerate([6, 1, 1])]
    await asyncio.sleep(0)
    assert await refused_s(account, 1) > 1  # behind the others, not before them
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2]


@virtually
async def test_a_line_that_would_take_too_long_is_not_joined() -> None:
    account = meter(rpm=2)
    for _ in range(2):
        (await account.enter(M, 0, FAR_S)).end()
        await asyncio.sleep(10)
    await asyncio.sleep(38.5)
    first = waiting(account)
    await asyncio.sleep(0)
    assert await refused_s(account) == pytest.approx(11.5)
    await first


@virtually
async def test_who_is_cancelled_in_line_leaves_no_trace() -> None:
    account = meter(rpm=1)
    (await account.enter(M, 0, FAR_S)).end()
    await asyncio.sleep(58.5)
    first, second = waiting(account), waiting(account)
    await asyncio.sleep(0)
    assert second.done()  # behind the first, a minute later
    with pytest.raises(UpstreamLimited):
        await second
    third = asyncio.create_task(asyncio.sleep(0))
    first.cancel()
    await asyncio.gather(first, third, return_exceptions=True)
    assert account.wait_s(M, 0) == pytest.approx(1.5)
    (await account.enter(M, 0, FAR_S)).end()
    assert account.in_flight == 0


@virtually
async def test_who_is_let_in_and_cancelled_in_the_same_moment_is_not_counted() -> None:
    account = meter(rpm=1)
    holder = await account.enter(M, 0, FAR_S)
    account.block(M, 1)
    holder.withdraw()
    task = waiting(account)
    await asyncio.sleep(0)

    def let_in_and_cancel() -> None:
        account.serve_queue()
        task.cancel()

    asyncio.get_running_loop().call_at(now() + 1.0, let_in_and_cancel)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert account.in_flight == 0
    assert account.wait_s(M, 0) == 0


@virtually
async def test_a_blocked_model_is_left_alone_and_others_are_not() -> None:
    account = meter()
    account.block(M, 30)
    assert await refused_s(account) == pytest.approx(30)
    (await account.enter(OTHER, 0, FAR_S)).end()
    account.block(M, 5)  # a shorter word does not shorten the longer one
    assert await refused_s(account) == pytest.approx(30)
    await asyncio.sleep(28.5)
    await account.enter(M, 0, FAR_S)
    assert now() == pytest.approx(1030)
    account.block(M, 1e9)
    assert await refused_s(account) == MAX_BLOCK_S


@virtually
async def test_a_block_sends_those_away_who_cannot_wait_that_long() -> None:
    account = meter(rpm=1)
    (await account.enter(M, 0, FAR_S)).end()
    await asyncio.sleep(59)
    task = waiting(account)
    await asyncio.sleep(0)
    account.block(M, 20)
    began_s = now()
    with pytest.raises(UpstreamLimited) as caught:
        await task
    assert now() == began_s
    assert caught.value.retry_after_s == pytest.approx(20)


@virtually
async def test_set_limits_are_of_the_account_and_learned_ones_of_the_model() -> None:
    account = meter(rpm=2)
    (await account.enter(M, 0, FAR_S)).end()
    (await account.enter(OTHER, 0, FAR_S)).end()
    assert await refused_s(account) == pytest.approx(60)
    learning = meter()
    ticket = await learning.enter(M, 0, FAR_S)
    ticket.learn(said(0, 30, 10))
    ticket.end()
    assert await refused_s(learning) == pytest.approx(30)
    (await learning.enter(OTHER, 0, FAR_S)).end()


@virtually
async def test_a_set_limit_is_not_overruled_by_answers() -> None:
    account = meter(rpm=5)
    ticket = await account.enter(M, 0, FAR_S)
    ticket.learn(said(0, 1000, 1))
    ticket.end()
    for _ in range(4):
        (await account.enter(M, 0, FAR_S)).end()
    assert await refused_s(account) == pytest.approx(60)


@virtually
async def test_what_remains_is_shared_by_calls_in_flight_until_a_window_ends() -> None:
    account = meter()
    first = await account.enter(M, 0, FAR_S)
    first.learn(said(3, 10, 4))
    others = [await account.enter(M, 0, FAR_S) for _ in range(3)]
    assert await refused_s(account) == pytest.approx(10)
    first.end()
    for ticket in others:
        ticket.end()
    assert await refused_s(account) == pytest.approx(10)
    await asyncio.sleep(10)
    for _ in range(4):  # the next window has as much, which the first answer in it will say
        await account.enter(M, 0, FAR_S)
    assert await refused_s(account) == pytest.approx(10)


@virtually
async def test_an_answer_that_was_overtaken_gives_nothing_back() -> None:
    account = meter()
    first, second = [await account.enter(M, 0, FAR_S) for _ in range(2)]
    second.learn(said(8, 30, 10))
    first.learn(said(9, 30, 10))
    for ticket in (first, second):
        ticket.end()
    tickets = [await account.enter(M, 0, FAR_S) for _ in range(8)]
    assert len(tickets) == 8
    assert await refused_s(account) == pytest.approx(30)


@virtually
async def test_a_bucket_is_recognised_and_filled_as_time_goes() -> None:
    account = meter()
    first = await account.enter(M, 0, FAR_S)
    first.learn(said(599, 0.1, 600))  # 600 a minute: one comes back every 100 ms
    first.end()
    for _ in range(599):
        (await account.enter(M, 0, FAR_S)).end()
    began_s = now()
    for _ in range(20):
        last = await account.enter(M, 0, FAR_S)
        last.learn(said(0, 60, 600))
        last.end()
    assert now() - began_s == pytest.approx(2, abs=0.01)


@virtually
async def test_a_bucket_of_a_day_is_waited_for_piece_by_piece() -> None:
    account = meter()
    first = await account.enter(M, 0, FAR_S)
    first.learn(said(14_399, 6, 14_400))
    first.end()
    last = await account.enter(M, 0, FAR_S)
    last.learn(said(0, 86_400, 14_400))
    last.end()
    assert await refused_s(account) == pytest.approx(6)


@virtually
async def test_a_window_that_seems_to_last_for_hours_is_asked_about_again_in_a_minute() -> None:
    account = meter()
    ticket = await account.enter(M, 0, FAR_S)
    ticket.learn(said(0, 7200, 100))
    ticket.end()
    assert await refused_s(account) == pytest.approx(60)


@pytest.mark.parametrize("hints", [RateHints(Allowance(10, None, 5)), RateHints(Allowance(10, 0, None)), RateHints()])
@virtually
async def test_half_a_word_limits_nothing(hints: RateHints) -> None:
    account = meter()
    for _ in range(20):
        ticket = await account.enter(M, 0, FAR_S)
        ticket.learn(hints)
        ticket.end()


@virtually
async def test_a_reset_right_now_leaves_no_more_in_flight_than_the_limit() -> None:
    account = meter()
    (first := await account.enter(M, 0, FAR_S)).learn(said(4, 0, 4))
    first.end()
    for _ in range(4):
        await account.enter(M, 0, FAR_S)
    began_s = now()
    with pytest.raises(UpstreamLimited):
        await account.enter(M, 0, FAR_S)
    assert now() - began_s == pytest.approx(2, abs=0.06)  # it looks every 0.05 s, and never too late


@virtually
async def test_learned_tokens_count_what_the_provider_counted() -> None:
    account = meter()
    first = await account.enter(M, 4000, FAR_S)
    first.learn(tokens_said(900, 30, 1000))
    first.end(70)  # the provider's own estimate stands: 100
    assert account.counts_tokens(M)
    second = await account.enter(M, 900, FAR_S)
    assert await refused_s(account, 1) == SOON_S
    second.end(400)  # no word in this answer: its usage counts
    (await account.enter(M, 500, FAR_S)).end(0)


@virtually
async def test_a_ticket_ends_once() -> None:
    account = meter(rpm=10)
    ticket = await account.enter(M, 0, FAR_S)
    ticket.end()
    ticket.end()
    ticket.withdraw()
    assert account.in_flight == 0
    assert account.wait_s(M, 0) == 0
