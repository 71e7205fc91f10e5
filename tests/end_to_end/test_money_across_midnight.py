"""Days and months of UTC that end while money is held, and clocks that were wrong: each cost is in one period, once.

The wall clock of the gateways is put to the last hour of a month, so that no slow machine sees the end of it too early.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from administrator import administrator
from billing_provider import BillingProvider
from crowd import LOCAL_OFF, Caller, exchange, weight
from embedgate.core.access import Period, Subject
from embedgate.core.clock import ms_of
from embedgate.core.types import LedgerEntry
from forked import Fork, Forks, WallClock, forks
from waiting import wait_until

TEXT = "caller {:08}"
UNIT = weight(TEXT.format(0)) * 20_000
"""What one request costs, in picodollars."""
WORTH = 6
LAST_HOUR = datetime(2031, 1, 31, 23, tzinfo=UTC)
NEXT_DAY = LAST_HOUR + timedelta(hours=2)


@pytest.fixture
def clock(tmp_path: Path) -> WallClock:
    return WallClock(tmp_path / "shift")


@pytest.fixture
def parent(tmp_path: Path, host: BillingProvider, clock: WallClock) -> Iterator[Forks]:
    text = f'{LOCAL_OFF}\n[providers.openai]\nbase_url = "{host.base_url}"\nmax_parallel = 500\n'
    (tmp_path / "embedgate.toml").write_text(text, encoding="utf-8")
    with forks(tmp_path / "gateway.log", OPENAI_API_KEY="sk-upstream", **clock.environment) as found:
        yield found


@pytest.fixture
def texts() -> Iterator[str]:
    return map(TEXT.format, itertools.count())


def start(parent: Forks, folder: Path) -> Fork:
    return parent.start(folder, folder / "embedgate.toml")


def put(clock: WallClock, moment: datetime) -> None:
    clock.shift((moment - datetime.now(UTC)).total_seconds())


def key_with(folder: Path, *periods: Period) -> str:
    """A key that may spend so much in each of the periods."""
    with administrator(folder) as admin:
        key, secret = admin.new_key()
        for period in periods:
            admin.set_budget(Subject("key", key.id), period, WORTH * UNIT)
    return secret


def entries(folder: Path) -> Sequence[LedgerEntry]:
    with administrator(folder) as admin:
        return admin.every_entry()


async def statuses(running: Fork, secret: str, texts: Sequence[str]) -> Counter[int]:
    """How many of the requests were answered with which status; 0: with none."""

    async def ask(text: str) -> int:
        with suppress(ConnectionError):  # the gateway is killed
            reply = await exchange(running.url, Caller(text, secret))
            return reply.status if reply is not None else 0
        return 0

    return Counter(await asyncio.gather(*map(ask, texts)))


def ask(running: Fork, secret: str, texts: Iterator[str], n: int) -> Counter[int]:
    return asyncio.run(statuses(running, secret, list(itertools.islice(texts, n))))


def test_what_was_under_way_before_midnight_is_booked_to_that_day_by_the_start_of_the_next(
    tmp_path: Path, host: BillingProvider, clock: WallClock, parent: Forks, texts: Iterator[str]
) -> None:
    """Killed in the last hour of a month, started in the first ones of the next, and the clock set back after that."""
    secret = key_with(tmp_path, "day", "month")
    put(clock, LAST_HOUR)
    running = start(parent, tmp_path)
    host.every_call("hang")

    async def come_until_killed() -> None:
        asking = asyncio.create_task(statuses(running, secret, list(itertools.islice(texts, 2 * WORTH))))
        await asyncio.to_thread(wait_until, "calls hang", lambda: host.calls_billed == WORTH)
        await asyncio.to_thread(running.kill)
        await asking

    asyncio.run(come_until_killed())
    host.every_call("normal")
    put(clock, NEXT_DAY)
    running = start(parent, tmp_path)
    begun = ms_of(NEXT_DAY.replace(hour=0))
    assert [(entry.outcome, entry.at_ms < begun) for entry in entries(tmp_path)] == [("interrupted", True)] * WORTH
    assert ask(running, secret, texts, WORTH + 3) == {200: WORTH, 402: 3}  # a day and a month of its own
    put(clock, LAST_HOUR)
    assert ask(running, secret, texts, 2) == {402: 2}
    put(clock, NEXT_DAY)
    assert ask(running, secret, texts, 2) == {402: 2}
    assert host.calls_billed == 2 * WORTH


def test_what_is_held_at_midnight_is_booked_to_the_day_it_ends_in_and_overspends_neither(
    tmp_path: Path, host: BillingProvider, clock: WallClock, parent: Forks, texts: Iterator[str]
) -> None:
    secret = key_with(tmp_path, "day", "month")
    put(clock, LAST_HOUR)
    running = start(parent, tmp_path)
    assert ask(running, secret, texts, 2) == {200: 2}
    host.every_call("slow")

    async def come_over_midnight() -> tuple[Counter[int], Counter[int]]:
        before = asyncio.create_task(statuses(running, secret, list(itertools.islice(texts, WORTH - 2))))
        await asyncio.to_thread(wait_until, "four are called", lambda: host.calls_billed == WORTH)
        put(clock, NEXT_DAY)
        after = asyncio.create_task(statuses(running, secret, list(itertools.islice(texts, WORTH))))
        await asyncio.to_thread(wait_until, "two more are", lambda: host.calls_billed == WORTH + 2)
        host.let_go()
        return await before, await after

    before, after = asyncio.run(come_over_midnight())
    assert before == {200: WORTH - 2}
    assert after == {200: 2, 402: WORTH - 2}  # what is held still counts
    begun = ms_of(NEXT_DAY.replace(hour=0))
    by_day = Counter(entry.at_ms >= begun for entry in entries(tmp_path))
    assert by_day == {False: 2, True: WORTH}
    assert ask(running, secret, texts, 1) == {402: 1}


def test_a_day_that_an_earlier_process_has_spent_ahead_of_time_is_not_spent_again_when_it_comes(
    tmp_path: Path, host: BillingProvider, clock: WallClock, parent: Forks, texts: Iterator[str]
) -> None:
    """The clock was two hours ahead until a restart, over midnight."""
    secret = key_with(tmp_path, "day", "month")
    put(clock, NEXT_DAY)
    running = start(parent, tmp_path)
    assert ask(running, secret, texts, WORTH) == {200: WORTH}
    running.kill()
    put(clock, LAST_HOUR)
    running = start(parent, tmp_path)
    assert ask(running, secret, texts, 1) == {402: 1}  # what is in the future counts, too
    put(clock, NEXT_DAY)
    assert ask(running, secret, texts, 2) == {402: 2}
    assert host.calls_billed == WORTH
