"""Ledger against bill: a provider that bills and breaks, callers who leave, a gateway that is killed in the middle.

For each kind of request the ledger must never be below the provider's bill, above it only by what is marked as
estimated, and within the budget all told.
"""

import asyncio
import itertools
import json
import signal
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from administrator import administrator
from billing_provider import BillingProvider, Mode, billing_provider
from chatting import MODEL as CHAT_MODEL
from chatting import cost_of, price_of
from crowd import LOCAL_OFF, weight
from crowd import MODEL as EMBEDDING_MODEL
from embedgate.core.access import Subject
from forked import Fork, forks
from forms import dice, scaled
from upstream import Seen
from waiting import PATIENCE_S

RERANK_MODEL = "cohere/rerank-v3.5"
N_ROUNDS = scaled(2, 40)
N_CALLERS = 16
BUDGETS_PICODOLLARS = (2 * 10**8, 10**9, 4 * 10**9)
"""Some run dry in the middle of a round."""
HARMLESS: tuple[Mode, ...] = ("normal",) * 14
HARMFUL: tuple[Mode, ...] = (
    "close", "reset", "break", "wrong_size", "wrong_count", "nan", "zeros", "no_usage", "wrong_and_silent",
    "garbage", "gateway_timeout", "error", "busy", "refused", "hang",
)  # fmt: skip
SETTINGS = """
    [server]
    request_timeout_s = 1.5
    chat_timeout_s = 1.5
    [upstream]
    attempt_timeout_s = 0.5
    retry_wait_s = 0.005
    circuit_patience_s = 3600
    retry_reserve = 1000
"""


@dataclass(frozen=True)
class Wish:
    """One request: where to, what, and how many seconds its caller stays; None to the end."""

    path: str
    body: Mapping[str, Any]
    patience_s: float | None


@pytest.fixture
def host() -> Iterator[BillingProvider]:
    with billing_provider() as provider:
        provider.count_tokens = weight
        draw = dice("modes of the host")

        def mode_of(_: Seen) -> Mode:
            return draw.choice(HARMLESS + HARMFUL)

        provider.every_call(mode_of)
        yield provider


def wishes() -> Iterator[Wish]:
    """Requests of every kind, none of which is in any cache."""
    draw = dice("wishes")
    for number in itertools.count():
        text = f"question {number:08}"
        messages = [{"role": "user", "content": text}]
        chat = {"model": CHAT_MODEL, "messages": messages, "max_completion_tokens": 64}
        path, body = draw.choice(
            (
                ("/v1/embeddings", {"model": EMBEDDING_MODEL, "input": text}),
                ("/v1/embeddings", {"model": EMBEDDING_MODEL, "input": [f"{text}, part {part}" for part in range(5)]}),
                ("/v1/chat/completions", chat),
                ("/v1/chat/completions", {**chat, "stream": True}),
                ("/v1/rerank", {"model": RERANK_MODEL, "query": text, "documents": ["one", "two", "three"]}),
            )
        )
        yield Wish(path, body, draw.choice((None, None, None, 0.0, 0.02)))


async def ask(url: str, key: str, wish: Wish) -> tuple[int, str] | None:
    """Status and request id of the answer; None for a caller who left or was cut off before it began."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    body = json.dumps(wish.body).encode()
    head = f"POST {wish.path} HTTP/1.0\r\nhost: a\r\nx-api-key: {key}\r\ncontent-length: {len(body)}\r\n\r\n"
    try:
        writer.write(head.encode() + body)
        async with asyncio.timeout(PATIENCE_S if wish.patience_s is None else wish.patience_s):
            answer = await reader.read()
    except TimeoutError:
        assert wish.patience_s is not None, "no answer came"
        return None
    finally:
        writer.transport.abort()
    first, _, rest = answer.partition(b"\r\n")
    ids = [line.partition(b":")[2].strip() for line in rest.splitlines() if line.lower().startswith(b"x-request-id:")]
    return (int(first.split(b" ")[1]), ids[0].decode()) if ids else None


async def load_until_killed(
    running: Fork, key: str, made: Iterator[Wish], after: int, number: signal.Signals
) -> list[tuple[int, str]]:
    """What callers are answered who ask again and again, until the gateway gets a signal after so many requests."""
    answers: list[tuple[int, str]] = []
    n_asked = 0
    is_enough = asyncio.Event()

    async def keep_asking() -> None:
        nonlocal n_asked
        with suppress(ConnectionError):
            while True:
                answer = await ask(running.url, key, next(made))
                n_asked += 1
                if answer is not None:
                    answers.append(answer)
                if n_asked >= after:
                    is_enough.set()

    asking = [asyncio.create_task(keep_asking()) for _ in range(N_CALLERS)]
    async with asyncio.timeout(PATIENCE_S):
        await is_enough.wait()
    await asyncio.to_thread(running.kill, number)
    await asyncio.gather(*asking)
    return answers


def billed(host: BillingProvider) -> Counter[str]:
    """Picodollars on the bill by kind of request."""
    search = price_of(RERANK_MODEL).picodollars_per_search
    token = price_of(EMBEDDING_MODEL).picodollars_per_token
    assert search is not None
    sums: Counter[str] = Counter()
    for line in host.bill:
        if line.action == "chat":
            sums["completion"] += cost_of(CHAT_MODEL, line.input_tokens, line.output_tokens)
        elif line.action == "rerank":
            sums["rerank"] += line.searches * search
        else:
            sums["embedding"] += line.input_tokens * token
    return sums


@pytest.mark.hostile
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_the_ledger_is_never_below_the_bill_and_above_it_by_what_is_marked(
    tmp_path: Path, host: BillingProvider, number: signal.Signals
) -> None:
    config = tmp_path / "embedgate.toml"
    providers = (f'[providers.{name}]\nbase_url = "{host.base_url}"\n' for name in ("openai", "cohere"))
    config.write_text(LOCAL_OFF + "".join(providers) + SETTINGS, encoding="utf-8")
    draw = dice("rounds")
    made = wishes()
    answers: list[tuple[int, str]] = []
    cap = 0
    environment = {"OPENAI_API_KEY": "sk-upstream", "COHERE_API_KEY": "co-upstream"}
    with forks(tmp_path / "gateway.log", **environment) as parent:
        parent.start(tmp_path, config).kill()
        secret = (tmp_path / "user.key").read_text().strip()
        for _ in range(N_ROUNDS):
            with administrator(tmp_path) as admin:
                key = admin.find_key(secret)
                # Not below the old cap: what the killed one held within it is booked at the next start only.
                cap = max(cap, admin.spent(key) + draw.choice(BUDGETS_PICODOLLARS))
                admin.set_budget(Subject("key", key.id), "total", cap)
            running = parent.start(tmp_path, config)
            answers += asyncio.run(load_until_killed(running, secret, made, draw.randint(20, scaled(60, 150)), number))
            host.let_go()
            host.hold_again()
        parent.start(tmp_path, config).kill()  # books what the last one left
    with administrator(tmp_path) as admin:
        key = admin.find_key(secret)
        entries = admin.entries(key)
        assert admin.trail_is_whole()
        spent = admin.spent(key)
    assert set(Counter(entry.request_id for entry in entries).values()) == {1}
    assert {request_id for status, request_id in answers if status == 200} <= {entry.request_id for entry in entries}
    ledger, marked = Counter[str](), Counter[str]()
    for entry in entries:
        ledger[entry.action] += entry.cost_picodollars
        marked[entry.action] += entry.estimated_picodollars
    bill = billed(host)
    print(f"bill {bill}, ledger {ledger}, of it estimated {marked}, cap {cap}")  # noqa: T201 - shown when it fails
    for action, amount in bill.items():
        assert amount <= ledger[action] <= amount + marked[action], action
    assert spent <= cap
