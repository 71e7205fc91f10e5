"""A budget worth fifty requests serves fifty of two hundred, to a picodollar, whatever callers and provider do."""

import asyncio
import functools
import itertools
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from administrator import Administrator
from crowd import LOCAL_OFF, MODEL, Caller, all_at_once, ask, in_both_dialects, metric, weight
from embedgate.catalog import Catalog
from embedgate.config import Loaded, load
from embedgate.core.access import Subject
from embedgate.core.errors import BudgetExhausted
from embedgate.core.types import EmbedRequest
from embedgate.govern.keys import Key
from embedgate.wiring.gateway import open_gateway
from empty_database import write_empty_database
from running import RunningGateway, gateway
from upstream import Answer, Upstream, error
from waiting import wait_until
from wire import Reply

N_CALLERS = 200
WORTH = 50
TEXT = "Größe, 日本語 and ½: caller {:04}"
SETTINGS = (
    LOCAL_OFF
    + """
    [providers.openai]
    base_url = "{base_url}"
    max_parallel = 64
    [upstream]
    max_retries = 10
    retry_reserve = 1000
    retry_wait_s = 0.02
"""
)
UPSTREAM_KEY = {"OPENAI_API_KEY": "sk-upstream"}
_numbers = itertools.count()


@functools.cache
def price() -> int:
    model = Catalog.load(None).find(MODEL)
    assert model is not None
    assert model.routes[0].price is not None
    return model.routes[0].price.picodollars_per_token


UNIT = weight(TEXT.format(0)) * price()
"""What one request costs."""


def new_texts(n: int = N_CALLERS) -> list[str]:
    """Texts that nothing has kept, all of one weight."""
    texts = [TEXT.format(next(_numbers)) for _ in range(n)]
    assert {weight(text) * price() for text in texts} == {UNIT}
    return texts


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, far_side: Upstream) -> Iterator[RunningGateway]:
    settings = SETTINGS.format(base_url=far_side.base_url)
    with gateway(tmp_path_factory.mktemp("budgets"), settings, UPSTREAM_KEY) as started:
        yield started


@pytest.fixture
def host(far_side: Upstream) -> Upstream:
    far_side.reset()
    far_side.count_tokens = weight
    return far_side


@pytest.fixture
def account(running: RunningGateway, admin: Administrator) -> tuple[Key, str]:
    """A new key whose budget is worth fifty requests, and its secret."""
    key, secret = admin.new_key()
    set_cap(running, admin, key, WORTH)
    return key, secret


def set_cap(running: RunningGateway, admin: Administrator, key: Key, units: int) -> None:
    """Give a key so many requests in all, from its first to its last."""
    admin.set_budget(Subject("key", key.id), "total", units * UNIT)
    admin.wait_until_in_force(running)


def n_served(replies: Sequence[Reply]) -> int:
    """How many were served. All others were refused for lack of money, each in the words of its dialect."""
    for reply in replies:
        if reply.status == 402:
            assert reply.json["error"]["code"] == "insufficient_quota"
        elif reply.status == 403:
            assert reply.json["code"] == "AUTHORIZATION_DENIED"
            assert "are left of the total budget of this key" in reply.json["reason"]
        else:
            assert reply.status == 200, reply.body
    return Counter(reply.status for reply in replies)[200]


def assert_used_up(running: RunningGateway, admin: Administrator, key: Key, secret: str, units: int) -> None:
    """The ledger has just these costs, and nothing is on hold: a cap that is one request higher serves one more."""
    assert admin.spent(key) == units * UNIT
    set_cap(running, admin, key, units + 1)
    assert n_served(ask(running, in_both_dialects(new_texts(4), secret))) == 1
    assert admin.spent(key) == (units + 1) * UNIT


def test_exactly_as_many_are_served_as_the_budget_is_worth(
    running: RunningGateway, admin: Administrator, host: Upstream, account: tuple[Key, str]
) -> None:
    key, secret = account
    replies = ask(running, in_both_dialects(new_texts(), secret))
    assert n_served(replies) == WORTH
    assert {reply.status for reply in replies} == {200, 402, 403}
    assert sum(host.billed) * price() == WORTH * UNIT
    answered = {reply.headers["x-request-id"] for reply in replies if reply.status == 200}
    assert {entry.request_id for entry in admin.entries(key)} == answered
    assert_used_up(running, admin, key, secret, WORTH)


def test_who_leaves_is_paid_for_and_leaves_nothing_on_hold(
    running: RunningGateway, admin: Administrator, host: Upstream, account: tuple[Key, str]
) -> None:
    key, secret = account
    gate = threading.Event()
    host.usually(Answer(gate=gate))
    refused_before = refusals(running)

    def all_are_in_or_out() -> bool:
        return refusals(running) - refused_before == N_CALLERS - WORTH and len(host.requests) == WORTH

    async def come_and_go() -> list[Reply | None]:
        leave = asyncio.Event()
        texts = new_texts()
        callers = [
            Caller(text, secret, "ziri" if number % 4 < 2 else "openai", leave if number % 2 else None)
            for number, text in enumerate(texts)
        ]
        replies = asyncio.create_task(all_at_once(running.url, callers))
        await asyncio.to_thread(wait_until, "everybody is let in or refused", all_are_in_or_out)
        leave.set()
        gate.set()
        return await replies

    replies = [reply for reply in asyncio.run(come_and_go()) if reply is not None]
    wait_until("no request runs", lambda: metric(running, "embedgate_requests_running") == 0)
    assert n_served(replies) < WORTH
    assert [entry.outcome for entry in admin.entries(key)] == ["ok"] * WORTH
    assert sum(host.billed) * price() == WORTH * UNIT
    assert_used_up(running, admin, key, secret, WORTH)


def refusals(running: RunningGateway) -> int:
    """How many requests have been refused for lack of money."""
    dialects = ("openai", "ziri")
    name = "embedgate_requests_total"
    return int(sum(metric(running, name, dialect=each, outcome="insufficient_quota") for each in dialects))


def test_a_provider_that_refuses_one_time_in_three_takes_nothing_from_the_budget(
    running: RunningGateway, admin: Administrator, host: Upstream, account: tuple[Key, str]
) -> None:
    key, secret = account
    right = Answer()
    faults = [error(500, "something broke"), error(429, "slow", headers={"retry-after": "0"}), error(503, "not now")]
    host.script(*[answer for fault in faults * 20 for answer in (right, right, fault)])
    assert n_served(ask(running, in_both_dialects(new_texts(), secret))) == WORTH
    assert len(host.requests) > WORTH * 5 / 4
    assert sum(host.billed) * price() == WORTH * UNIT
    assert_used_up(running, admin, key, secret, WORTH)


def test_wrong_answers_that_are_billed_are_paid_for_out_of_the_budget(
    running: RunningGateway, admin: Administrator, host: Upstream, account: tuple[Key, str]
) -> None:
    key, secret = account
    host.script(*[Answer(), Answer(twist="zeros"), error(500, "something broke")] * 40)
    served = n_served(ask(running, in_both_dialects(new_texts(), secret)))
    assert 0 < served < WORTH
    assert admin.spent(key) == sum(host.billed) * price() <= WORTH * UNIT
    left = WORTH - admin.spent(key) // UNIT
    host.reset()
    host.count_tokens = weight
    assert n_served(ask(running, in_both_dialects(new_texts(WORTH + 10), secret))) == left
    assert_used_up(running, admin, key, secret, WORTH)


def settings_in(data_dir: Path, host: Upstream, **cache: str) -> Loaded:
    """For a gateway in this process, whose budgets can be asked themselves."""
    file = data_dir / "embedgate.toml"
    file.write_text(SETTINGS.format(base_url=host.base_url), encoding="utf-8")
    write_empty_database(data_dir)
    return load(file, UPSTREAM_KEY, {"storage": {"data_dir": data_dir}, "cache": cache})


async def test_nothing_is_held_once_all_have_ended_and_the_books_say_so(tmp_path: Path, host: Upstream) -> None:
    """The same in this process; and the next one finds it all again in the ledger."""
    loaded = settings_in(tmp_path, host)
    opened = await open_gateway(loaded)
    admin = Administrator(opened.database)
    key, secret = admin.new_key()
    admin.set_budget(Subject("user", key.user_id), "month", WORTH * UNIT)
    await opened.catch_up()
    caller = await opened.pipeline.identify(secret)
    requests = [EmbedRequest(MODEL, (text,)) for text in new_texts()]
    ends = await asyncio.gather(
        *(opened.pipeline.embed_as(f"req_{n}", caller, each) for n, each in enumerate(requests)),
        return_exceptions=True,
    )
    assert sum(isinstance(end, BudgetExhausted) for end in ends) == N_CALLERS - WORTH
    (state,) = await opened.budgets.state()
    assert (state.spent_picodollars, state.held_picodollars) == (WORTH * UNIT, 0)
    await opened.aclose()
    again = await open_gateway(loaded)
    assert await again.budgets.state() == [state]
    await again.aclose()


@pytest.mark.parametrize(("reuse_costs", "hit"), [("nothing", 0), ("full", UNIT)])
async def test_what_a_hit_costs_is_a_setting_and_counts_in_budgets(
    tmp_path: Path, host: Upstream, reuse_costs: str, hit: int
) -> None:
    opened = await open_gateway(settings_in(tmp_path, host, reuse_costs=reuse_costs))
    admin = Administrator(opened.database)
    key, secret = admin.new_key()
    admin.set_budget(Subject("key", key.id), "total", 10 * UNIT)
    await opened.catch_up()
    caller = await opened.pipeline.identify(secret)
    (text,) = new_texts(1)
    costs = []
    for number in range(3):
        result = await opened.pipeline.embed_as(f"req_{number}", caller, EmbedRequest(MODEL, (text,)))
        costs.append(result.cost_picodollars)
    (state,) = await opened.budgets.state()
    await opened.aclose()
    assert costs == [UNIT, hit, hit]
    assert (state.spent_picodollars, state.held_picodollars) == (UNIT + 2 * hit, 0)
    assert len(host.requests) == 1
