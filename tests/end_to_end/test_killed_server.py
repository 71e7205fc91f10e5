"""kill -9 under load, again and again: what was answered is in the ledger, once, and budgets go on from there."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from administrator import administrator
from crowd import LOCAL_OFF, Caller, all_at_once, exchange, weight
from embedgate.core.access import Subject
from forked import Fork, Forks, forks
from forms import dice as dice_of
from forms import scaled
from upstream import Answer, Upstream, error, running_upstream
from waiting import PATIENCE_S
from wire import Reply

N_KILLS = scaled(8, 30)
N_CALLERS = 12
TEXT = "caller {:08}"
UNIT = weight(TEXT.format(0)) * 20_000
"""What one request costs."""
SETTINGS = (
    LOCAL_OFF
    + """
    [providers.openai]
    base_url = "{base_url}"
    [upstream]
    max_retries = 10
    retry_wait_s = 0.005
"""
)


@pytest.fixture
def host() -> Iterator[Upstream]:
    """A provider that is sometimes slow, sometimes fails, and sometimes bills a wrong answer."""
    dice = dice_of("faults of the host")
    faults = [error(500, "something broke"), Answer(twist="zeros"), Answer(delay_s=0.05), Answer(ending="reset")]
    with running_upstream() as upstream:
        upstream.count_tokens = weight
        upstream.script(*(dice.choice(faults) if dice.random() < 0.2 else Answer() for _ in range(50_000)))
        yield upstream


@pytest.fixture
def parent(tmp_path: Path, host: Upstream) -> Iterator[Forks]:
    (tmp_path / "embedgate.toml").write_text(SETTINGS.format(base_url=host.base_url), encoding="utf-8")
    with forks(tmp_path / "gateway.log", OPENAI_API_KEY="sk-upstream") as found:
        yield found


@dataclass
class Books:
    """What the gateway has written, looked at while it is dead, and what its callers have been answered."""

    data_dir: Path
    secret: str = field(repr=False)
    cap: int = 0
    answered: list[str] = field(default_factory=list)
    n_dry: int = 0
    """After how many starts the budget was used up before the end."""

    def allow(self, units: int) -> None:
        """Let the key spend that much more than it has."""
        with administrator(self.data_dir) as admin:
            key = admin.find_key(self.secret)
            self.cap = admin.spent(key) + units * UNIT
            admin.set_budget(Subject("key", key.id), "total", self.cap)

    def check(self, replies: list[Reply]) -> None:
        """Every answer so far has one line in the ledger and one decision on record; the lines are within the cap."""
        statuses = Counter(reply.status for reply in replies)
        assert set(statuses) <= {200, 402}
        self.n_dry += statuses[402] > 0
        self.answered += (reply.headers["x-request-id"] for reply in replies if reply.status == 200)
        with administrator(self.data_dir) as admin:
            key = admin.find_key(self.secret)
            written = admin.entries(key)
            entries = Counter(entry.request_id for entry in written)
            assert set(self.answered) <= entries.keys()
            assert set(entries.values()) <= {1}
            assert admin.spent(key) <= self.cap
            decided = Counter(event.request_id for event in admin.decisions(key))
            # The decision on a request that was at its provider when the process died may have died with it.
            assert {entry.request_id for entry in written if entry.outcome != "interrupted"} <= decided.keys()
            assert set(decided.values()) <= {1}


@pytest.mark.hostile
def test_a_killed_server_has_recorded_what_it_answered_and_overspends_nothing(
    tmp_path: Path, host: Upstream, parent: Forks
) -> None:
    config = tmp_path / "embedgate.toml"
    parent.start(tmp_path, config).kill()
    books = Books(tmp_path, (tmp_path / "user.key").read_text().strip())
    dice = dice_of("kills")
    texts = map(TEXT.format, itertools.count())
    for _ in range(N_KILLS):
        books.allow(dice.randint(3 * N_CALLERS, 80))  # more than what the kill before has left to be booked
        running = parent.start(tmp_path, config)
        books.check(asyncio.run(load_until_killed(running, books.secret, texts, dice.randint(1, 100))))
    assert len(books.answered) > 3 * N_KILLS
    assert 0 < books.n_dry < N_KILLS

    parent.start(tmp_path, config).kill()  # books what the last kill has left
    host.reset()
    host.count_tokens = weight
    books.allow(7)
    running = parent.start(tmp_path, config)
    last = asyncio.run(all_at_once(running.url, [Caller(next(texts), books.secret) for _ in range(20)]))
    running.kill()
    assert Counter(reply.status for reply in last if reply) == {200: 7, 402: 13}
    books.check([reply for reply in last if reply])
    with administrator(tmp_path) as admin:
        assert admin.spent(admin.find_key(books.secret)) == books.cap
        assert admin.trail_is_whole()


async def load_until_killed(running: Fork, key: str, texts: Iterator[str], after: int) -> list[Reply]:
    """What callers who ask one request after the other are answered, until the server is killed after so many."""
    replies: list[Reply] = []
    are_enough = asyncio.Event()

    async def keep_asking() -> None:
        with suppress(ConnectionError):
            while (reply := await exchange(running.url, Caller(next(texts), key))) is not None:
                replies.append(reply)
                if len(replies) >= after:
                    are_enough.set()

    asking = [asyncio.create_task(keep_asking()) for _ in range(N_CALLERS)]
    async with asyncio.timeout(PATIENCE_S):
        await are_enough.wait()
    await asyncio.to_thread(running.kill)
    await asyncio.gather(*asking)
    return replies
