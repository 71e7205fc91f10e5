"""What a provider bills is in the ledger, whatever becomes of answer and process; above the bill is what is marked.

The provider keeps its own bill, in the process of the test: it survives every gateway that is killed.
"""

import asyncio
import itertools
import random
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from http.client import HTTPException
from pathlib import Path

import pytest

from administrator import administrator
from billing_provider import SILENT, BillingProvider, Mode
from crowd import LOCAL_OFF, Caller, exchange, weight
from embedgate.core.access import Subject
from embedgate.core.types import LedgerEntry
from embedgate.govern import keys, projects, users
from embedgate.govern.keys import WhichKey
from embedgate.govern.projects import NewProject, WhichProject
from embedgate.govern.users import NewUser, WhichUser
from embedgate.storage.intents import INTENTS_FOLDER
from forked import Fork, Forks, forks
from upstream import Seen
from waiting import wait_until
from wire import Reply, call

PRICE = 20_000
TEXT = "caller {:08}"
UNIT = weight(TEXT.format(0)) * PRICE
"""What one request costs."""
WORTH = 50
CHAT_MODEL = "openai/gpt-4o-mini"
RERANK_MODEL = "jina/jina-reranker-v3"
SETTINGS = (
    LOCAL_OFF
    + """
    [providers.openai]
    base_url = "{base_url}"
    max_parallel = 500
    [upstream]
    max_retries = 3
    retry_wait_s = 0.005
    circuit_patience_s = 3600
    {upstream}
"""
)


@pytest.fixture
def parent(tmp_path: Path, host: BillingProvider) -> Iterator[Forks]:
    configure(tmp_path, host)
    with forks(tmp_path / "gateway.log", OPENAI_API_KEY="sk-upstream", JINA_API_KEY="jina-key") as found:
        yield found


def configure(folder: Path, host: BillingProvider, upstream: str = "") -> None:
    text = SETTINGS.format(base_url=host.base_url, upstream=upstream)
    (folder / "embedgate.toml").write_text(text, encoding="utf-8")


def start(parent: Forks, folder: Path) -> Fork:
    return parent.start(folder, folder / "embedgate.toml")


def key_with(folder: Path, units: int) -> str:
    """A key that may spend so many requests in all."""
    with administrator(folder) as admin:
        key, secret = admin.new_key()
        admin.set_budget(Subject("key", key.id), "total", units * UNIT)
    return secret


def entries(folder: Path) -> list[LedgerEntry]:
    with administrator(folder) as admin:
        return list(admin.every_entry())


def assert_books_hold(
    folder: Path, host: BillingProvider, *, is_priced_as_embeddings: bool = True
) -> list[LedgerEntry]:
    """The ledger is never below the provider's bill, and above it by no more than what is marked."""
    found = entries(folder)
    tokens, cost = sum(entry.tokens for entry in found), sum(entry.cost_picodollars for entry in found)
    marked = sum(entry.estimated_tokens for entry in found)
    assert len({entry.request_id for entry in found}) == len(found)
    assert host.input_tokens <= tokens <= host.input_tokens + marked
    if not is_priced_as_embeddings:
        return found
    assert host.input_tokens * PRICE <= cost
    assert cost - sum(entry.estimated_picodollars for entry in found) <= host.input_tokens * PRICE
    return found


async def ask_all(running: Fork, secret: str, texts: Sequence[str]) -> list[Reply | None]:
    async def ask(text: str) -> Reply | None:
        with suppress(ConnectionError):  # the gateway is killed
            return await exchange(running.url, Caller(text, secret))
        return None

    return await asyncio.gather(*map(ask, texts))


def texts(numbers: Iterator[int], n: int) -> list[str]:
    return [TEXT.format(next(numbers)) for _ in range(n)]


def test_a_budget_worth_fifty_pays_for_fifty_calls_ever_whatever_breaks_and_dies(
    tmp_path: Path, host: BillingProvider, parent: Forks
) -> None:
    """200 callers, a provider that bills and closes, a kill in the middle, and a restart."""
    dice, numbers = random.Random(50), itertools.count()
    secret = key_with(tmp_path, WORTH)
    running = start(parent, tmp_path)

    def mode_of(_: Seen) -> Mode:
        if host.calls_billed >= 20:
            return "hang"
        return dice.choice(("normal", "close", "break", "reset", "garbage", "wrong_size", "gateway_timeout"))

    host.every_call(mode_of)

    async def come_until_killed() -> None:
        asking = asyncio.create_task(ask_all(running, secret, texts(numbers, 200)))
        await asyncio.to_thread(wait_until, "calls hang at the provider", lambda: host.calls_by_mode()["hang"] >= 5)
        await asyncio.to_thread(running.kill)
        await asking

    asyncio.run(come_until_killed())
    assert host.calls_billed <= WORTH
    host.let_go()
    host.every_call(lambda _: dice.choice(("normal", "close", "wrong_and_silent")))
    running = start(parent, tmp_path)
    asyncio.run(ask_all(running, secret, texts(numbers, 100)))
    assert host.calls_billed <= WORTH
    running.kill()
    found = assert_books_hold(tmp_path, host)
    outcomes = Counter(entry.outcome for entry in found)
    assert outcomes["interrupted"] >= 5
    assert sum(entry.cost_picodollars for entry in found) <= WORTH * UNIT


def test_calls_at_the_provider_when_the_process_is_killed_are_booked_at_the_next_start(
    tmp_path: Path, host: BillingProvider, parent: Forks
) -> None:
    secret = key_with(tmp_path, 10)
    running = start(parent, tmp_path)
    host.every_call("refused")
    asyncio.run(ask_all(running, secret, ["refused", "and free"]))  # what costs nothing leaves no intent
    host.every_call("hang")

    async def come_until_killed() -> None:
        asking = asyncio.create_task(ask_all(running, secret, texts(itertools.count(), 40)))
        await asyncio.to_thread(wait_until, "ten calls are at the provider", lambda: host.calls_billed == 10)
        await asyncio.to_thread(running.kill)
        await asking

    asyncio.run(come_until_killed())
    assert entries(tmp_path) == []
    running = start(parent, tmp_path)
    (refused,) = asyncio.run(ask_all(running, secret, ["one more"]))
    assert refused is not None
    assert refused.status == 402  # counted from the first request on
    running.kill()
    found = assert_books_hold(tmp_path, host)
    assert Counter(entry.outcome for entry in found) == {"interrupted": 10}
    assert all(entry.tokens_estimated and entry.estimated_picodollars == UNIT for entry in found)
    assert list((tmp_path / INTENTS_FOLDER).iterdir()) == []


def test_who_and_what_is_gone_by_the_restart_is_booked_all_the_same(
    tmp_path: Path, host: BillingProvider, parent: Forks
) -> None:
    """Key, user, project, provider and price are others than when the calls left."""
    with administrator(tmp_path) as admin:
        project = admin.call(projects.create_project, NewProject("short-lived"))
        user = admin.call(users.create_user, NewUser("leaver"))
        key, secret = admin.add_key(user.id, "leaver", project.id)
        admin.set_budget(Subject("key", key.id), "total", 10 * UNIT)
    running = start(parent, tmp_path)
    host.every_call("hang")
    with ThreadPoolExecutor(1) as callers:
        callers.submit(lambda: asyncio.run(ask_all(running, secret, [TEXT.format(1)])))
        wait_until("a call is at the provider", lambda: host.calls_billed == 1)
        with administrator(tmp_path) as admin:
            admin.set_price("openai/text-embedding-3-small", "openai", 50 * PRICE)
            admin.call(keys.revoke_key, WhichKey(key.id))
            admin.call(keys.delete_key, WhichKey(key.id))
            admin.call(users.delete_user, WhichUser(user.id))
            admin.call(projects.delete_project, WhichProject(project.id))
        running.kill()
    host.let_go()
    config = (tmp_path / "embedgate.toml").read_text(encoding="utf-8")
    (tmp_path / "embedgate.toml").write_text(
        config.replace("[providers.openai]", "[providers.fake]\nenabled = true\n[providers.openai]\nenabled = false"),
        encoding="utf-8",
    )
    start(parent, tmp_path).kill()
    (entry,) = assert_books_hold(tmp_path, host)
    assert (entry.outcome, entry.cost_picodollars) == ("interrupted", UNIT)  # at the price when it was let in
    assert (entry.key_id, entry.user_id, entry.project_id) == (key.id, user.id, project.id)
    assert (entry.provider, entry.model) == ("openai", "openai/text-embedding-3-small")


def test_what_waits_for_a_locked_ledger_when_the_process_is_killed_is_booked(
    tmp_path: Path, host: BillingProvider, parent: Forks
) -> None:
    secret = key_with(tmp_path, 10)
    host.every_call("slow")
    running = start(parent, tmp_path)

    async def come_until_killed() -> None:
        asking = asyncio.create_task(ask_all(running, secret, texts(itertools.count(), 10)))
        await asyncio.to_thread(wait_until, "ten calls are at the provider", lambda: host.calls_billed == 10)
        with closing(sqlite3.connect(tmp_path / "embedgate.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            host.let_go()
            await asyncio.sleep(0.3)  # they are answered meanwhile, or not: none of them is in the ledger either way
            await asyncio.to_thread(running.kill)
            await asking

    asyncio.run(come_until_killed())
    assert entries(tmp_path) == []
    start(parent, tmp_path).kill()
    assert Counter(entry.outcome for entry in assert_books_hold(tmp_path, host)) == {"interrupted": 10}


def test_chats_streams_and_rankings_have_their_intents_too(
    tmp_path: Path, host: BillingProvider, parent: Forks
) -> None:
    config = tmp_path / "embedgate.toml"
    jina = f'[providers.jina]\nbase_url = "{host.base_url}"\n'
    config.write_text(config.read_text(encoding="utf-8") + jina, encoding="utf-8")
    with administrator(tmp_path) as admin:
        _, secret = admin.new_key()
    running = start(parent, tmp_path)
    host.every_call("hang")
    chat = {"model": CHAT_MODEL, "messages": [{"role": "user", "content": "Are you there?"}], "max_tokens": 5}
    asked: list[tuple[str, dict[str, object]]] = [
        ("/v1/chat/completions", chat),
        ("/v1/chat/completions", {**chat, "stream": True}),
        ("/v1/rerank", {"model": RERANK_MODEL, "query": "Where?", "documents": ["here", "there"]}),
    ]

    def ask(path: str, body: dict[str, object]) -> None:
        with suppress(OSError, HTTPException):
            call(running.url, path, body, {"x-api-key": secret})

    with ThreadPoolExecutor(len(asked)) as callers:
        for path, body in asked:
            callers.submit(ask, path, body)
        wait_until("all are at the provider", lambda: host.calls_billed == len(asked))
        running.kill()
    start(parent, tmp_path).kill()
    found = assert_books_hold(tmp_path, host, is_priced_as_embeddings=False)
    assert Counter(entry.action for entry in found) == {"completion": 2, "rerank": 1}
    assert {entry.outcome for entry in found} == {"interrupted"}
    assert all(entry.cost_picodollars == entry.estimated_picodollars > 0 for entry in found)
    assert sum(entry.output_tokens for entry in found) == 10


PARTS = """
[[model]]
id = "acme/parts"
dims = { default = 256 }
max_input_tokens = 1000
[[model.route]]
provider = "dear"
upstream_model = "dear"
max_inputs = 1
usd_per_million_input_tokens = "1"
[[model.route]]
provider = "cheap"
upstream_model = "cheap"
max_inputs = 1
usd_per_million_input_tokens = "0.001"
"""


def test_what_a_dearer_route_has_billed_stays_booked_when_a_cheaper_one_goes_on(
    tmp_path: Path, host: BillingProvider, parent: Forks
) -> None:
    """The first route bills and answers one part and fails the other; the second is asked when the kill comes."""
    (tmp_path / "catalog.toml").write_text(PARTS, encoding="utf-8")
    providers = "".join(f'[providers.{name}]\nbase_url = "{host.base_url}"\n' for name in ("dear", "cheap"))
    catalog = f'[catalog]\nfile = "{tmp_path / "catalog.toml"}"\n'
    (tmp_path / "embedgate.toml").write_text(LOCAL_OFF + catalog + providers, encoding="utf-8")
    with administrator(tmp_path) as admin:
        _, secret = admin.new_key()
    running = start(parent, tmp_path)
    host.every_call(
        lambda seen: "hang" if seen.json["model"] == "cheap" else "normal" if b"number 1" in seen.body else "error"
    )
    order = {"routing": {"type": "order", "providers": ["dear", "cheap"]}}
    body = {"model": "acme/parts", "input": ["number 1", "number 2"], "provider": order}

    def ask() -> None:
        with suppress(OSError, HTTPException):
            call(running.url, "/v1/embeddings", body, {"x-api-key": secret})

    with ThreadPoolExecutor(1) as callers:
        callers.submit(ask)
        wait_until("the second route is asked", lambda: host.calls_by_mode()["hang"] == 1)
        running.kill()
    start(parent, tmp_path).kill()
    (entry,) = entries(tmp_path)
    prices = {"dear": 1_000_000, "cheap": 1_000}
    assert entry.cost_picodollars >= sum(line.input_tokens * prices[line.model] for line in host.bill)
    assert (entry.outcome, entry.estimated_picodollars) == ("interrupted", entry.cost_picodollars)


def test_a_call_that_is_billed_and_not_answered_is_paid_for_each_time_it_is_made(
    tmp_path: Path, host: BillingProvider, parent: Forks
) -> None:
    """One request in each mode, every attempt of which the provider bills."""
    secret = key_with(tmp_path, 10_000)
    running = start(parent, tmp_path)
    for mode in sorted(SILENT - {"hang"}):
        host.every_call(mode)
        billed_before = host.calls_billed
        (reply,) = asyncio.run(ask_all(running, secret, [f"billed each time: {mode}"]))
        assert reply is not None
        assert reply.status == 502, mode
        never_improves = mode == "wrong_and_silent"
        n = host.calls_billed - billed_before
        assert n == (1 if never_improves else 4), mode  # max_retries is 3, and nothing else repeats a call
    running.kill()
    found = assert_books_hold(tmp_path, host)
    assert sum(entry.estimated_tokens for entry in found) == host.input_tokens
