"""A wall clock that jumps, forward and back, over days and years: no budget is overspent, nothing is lost.

Budgets of a day go by the date of the ledger's entries, so the sum is taken by their dates. Limits per minute go by the
monotonic clock, which does not jump.
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from administrator import administrator
from billing_provider import BillingProvider, billing_provider
from crowd import LOCAL_OFF, Caller, all_at_once, weight
from embedgate.core.access import Subject
from forked import WallClock, forks
from forms import dice, scaled

TEXT = "caller {:08}"
PICODOLLARS_PER_TOKEN = 20_000
UNIT = weight(TEXT.format(0)) * PICODOLLARS_PER_TOKEN
HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
JUMPS_S = (1.0, 61.0, HOUR_S, DAY_S, 31 * DAY_S, 3 * 365 * DAY_S)
N_JUMPS = scaled(8, 80)
N_CALLERS = 12
UNITS_PER_DAY = 30
MAX_PER_MINUTE = scaled(60, 300)
DAY_MS = 86_400_000


@pytest.fixture
def host() -> Iterator[BillingProvider]:
    with billing_provider() as provider:
        provider.count_tokens = weight
        yield provider


@pytest.mark.hostile
def test_a_clock_that_jumps_overspends_no_day_and_loses_no_entry(tmp_path: Path, host: BillingProvider) -> None:
    config = tmp_path / "embedgate.toml"
    config.write_text(f'{LOCAL_OFF}\n[providers.openai]\nbase_url = "{host.base_url}"\n', encoding="utf-8")
    clock = WallClock(tmp_path / "shift")
    draw = dice("jumps")
    texts = map(TEXT.format, itertools.count())
    answered_s: list[float] = []
    replies: Counter[int] = Counter()
    shift_s = 0.0
    with forks(tmp_path / "gateway.log", OPENAI_API_KEY="sk-upstream", **clock.environment) as parent:
        parent.start(tmp_path, config).kill()
        secret = (tmp_path / "user.key").read_text().strip()
        with administrator(tmp_path) as admin:
            key = admin.find_key(secret)
            admin.set_budget(Subject("key", key.id), "day", UNITS_PER_DAY * UNIT)
            admin.set_limit(Subject("key", key.id), requests_per_minute=MAX_PER_MINUTE)
        running = parent.start(tmp_path, config)
        for _ in range(N_JUMPS):
            for reply in asyncio.run(all_at_once(running.url, [Caller(next(texts), secret) for _ in range(N_CALLERS)])):
                assert reply is not None
                replies[reply.status] += 1
                answered_s += [time.monotonic()] * (reply.status == 200)
            # Not before the true time: keys are not made yet then.
            shift_s = max(0.0, shift_s + draw.choice((1, -1)) * draw.choice(JUMPS_S))
            clock.shift(shift_s)
        running.kill()
        with administrator(tmp_path) as admin:
            entries = [entry for entry in admin.entries(key) if entry.cost_picodollars]
            assert admin.trail_is_whole()
    assert replies.keys() <= {200, 402, 429}
    assert replies[200] > N_CALLERS
    assert len(entries) == replies[200] == len(host.bill)
    by_day = Counter(entry.at_ms // DAY_MS for entry in entries)
    assert max(by_day.values()) <= UNITS_PER_DAY
    for first_s in answered_s:
        assert sum(first_s <= at_s < first_s + 60 for at_s in answered_s) <= MAX_PER_MINUTE
