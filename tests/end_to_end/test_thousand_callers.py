"""A thousand callers at once, of whom many leave, on a provider that often fails: answers are right, nothing is left.

What each caller does and how the provider answers each call is drawn from a fixed seed; only when it happens is not.
"""

import asyncio
import base64
import json
import random
import resource
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from running import RunningGateway, gateway
from upstream import Answer, Upstream, error, running_upstream
from waiting import PATIENCE_S, wait_until
from wire import Reply, call

MODEL = "openai/text-embedding-3-small"
DIM = 1536
PRICE_PICODOLLARS = 20_000
N_CALLERS = 1_000
N_LEAVERS = N_CALLERS // 3
LEAVING_S = 2.0  # about as long as all of it takes
MAX_PARALLEL = 4
POOL_MAX_IDLE = 2
LATE_FILES = 10  # connections of the pool, and those to the database that are opened only under load
OPEN_FILES = 4_096
LISTENING = "0A"
KNOWN = [f"known before {i}" for i in range(50)]
SHARED = [f"wanted by several {i}" for i in range(400)]

SETTINGS = """
    [providers.local]
    enabled = false
    [providers.openai]
    base_url = "{base_url}"
    batching = true
    max_parallel = {max_parallel}
    [server]
    drain_timeout_s = 600
    [transport]
    pool_max_idle = {pool_max_idle}
    [upstream]
    max_retries = 1
    retry_wait_s = 0.05
    attempt_timeout_s = 300
    [catalog]
    file = "{catalog}"
"""
# At the 2,048 inputs that the provider really takes, a few calls would serve everybody.
CATALOG = f"""
    [[model]]
    id = "{MODEL}"
    [[model.route]]
    provider = "openai"
    max_inputs = 8
"""


@dataclass(frozen=True)
class Caller:
    """What one caller asks for. leaves_after_s: None for one who stays. share_sent: of its request it sends."""

    texts: Sequence[str]
    dim: int = DIM
    leaves_after_s: float | None = None
    share_sent: float = 1.0

    @property
    def waits_for_provider(self) -> bool:
        """Whether it stays, and asks for more than the gateway knows."""
        return self.leaves_after_s is None and not set(self.texts) <= set(KNOWN)


@pytest.fixture
def many_files() -> Iterator[None]:
    """Leave to open enough files for both ends of every connection; the gateway inherits it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < OPEN_FILES:
        pytest.skip(f"a process may open {hard} files here, a thousand callers need {OPEN_FILES}")
    if soft != resource.RLIM_INFINITY and soft < OPEN_FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.skipif(sys.platform != "linux", reason="counts connections in /proc, which only Linux has")
def test_a_thousand_callers_with_departures_and_failures_leave_nothing_behind(tmp_path: Path, many_files: None) -> None:
    dice = random.Random(20)
    callers = drawn_callers(dice)
    with running_upstream() as host, shared_gateway(tmp_path, host) as running:
        assert ask(running, KNOWN).status == 200
        wait_until("what is known is on disk", lambda: kept_on_disk(running) == len(KNOWN))
        files_before = len(open_files(running))

        gate = threading.Event()
        host.script(*[Answer(gate=gate)] * MAX_PARALLEL, *drawn_answers(dice))
        replies = asyncio.run(all_at_once(running, callers, gate))
        assert_right(callers, replies)

        wait_until("no request runs", lambda: metric(running, "embedgate_requests_running") == 0)
        wait_until("no caller is connected", lambda: connections(running)[0] == 0)
        wait_until("few connections to the provider are kept", lambda: connections(running)[1] <= POOL_MAX_IDLE)
        wait_until("the provider sees no others", lambda: host.open_connections <= POOL_MAX_IDLE)
        billed = sum(host.billed)
        assert_ledger_is_true(running, billed, replies)

        # A text that nobody brings any more, or a place that nobody gives back, would keep this one waiting.
        host.reset()
        everything = Caller(sorted({*KNOWN, *(text for caller in callers for text in caller.texts)}))
        last = ask(running, everything.texts)
        assert_right([everything], [last])
        assert_ledger_is_true(running, billed + sum(host.billed), [*replies, last])
        wait_until("every text is on disk, once", lambda: kept_on_disk(running) == len(everything.texts))
        wait_until("files are closed", lambda: len(open_files(running)) <= files_before + LATE_FILES)

        began_s = time.monotonic()
        assert running.terminate() == 0
        assert time.monotonic() - began_s < PATIENCE_S  # much less than a drain may take
    # The last connection to end deletes SQLite's log, unless a transaction was left open.
    assert not (tmp_path / "embedgate.db-wal").exists()
    assert {line.split()[1] for line in running.log.read_text(encoding="utf-8").splitlines()} <= {"info", "warning"}


@contextmanager
def shared_gateway(data_dir: Path, host: Upstream) -> Iterator[RunningGateway]:
    """A gateway that batches across callers, with caps so low that they are reached."""
    catalog = data_dir / "catalog.toml"
    catalog.write_text(CATALOG, encoding="utf-8")
    settings = SETTINGS.format(
        base_url=host.base_url, catalog=catalog, max_parallel=MAX_PARALLEL, pool_max_idle=POOL_MAX_IDLE
    )
    with gateway(data_dir, settings, {"OPENAI_API_KEY": "sk-upstream"}) as running:
        yield running


def drawn_callers(dice: random.Random) -> list[Caller]:
    """Single texts and batches; known, shared, repeated and new ones; two sizes; a third who leave at any moment."""
    leavers = set(dice.sample(range(N_CALLERS), N_LEAVERS))
    callers = []
    for number in range(N_CALLERS):
        n = dice.randint(20, 80) if dice.random() < 0.03 else dice.randint(1, 5)
        new = [f"wanted by caller {number} alone {i}" for i in range(2)]
        texts = [dice.choice(dice.choice((KNOWN, SHARED, SHARED, new))) for _ in range(n)]
        leaves_after_s = dice.random() * LEAVING_S if number in leavers else None
        share_sent = dice.random() if number in leavers and dice.random() < 0.25 else 1.0
        callers.append(Caller(texts, dice.choice((DIM, 256)), leaves_after_s, share_sent))
    return callers


def drawn_answers(dice: random.Random) -> list[Answer]:
    """How the provider answers one call after the other, more than will be made: every fourth goes wrong."""
    faults = [
        error(500, "something broke"),
        error(429, "slow down", headers={"retry-after": "0.05"}),
        Answer(ending="half"),
        Answer(ending="reset"),
        Answer(twist="zeros"),  # wrong, but billed
        Answer(body=b'{"object": "list", "data": []}'),
    ]
    slow = Answer(delay_s=0.2)
    return [
        dice.choice(faults) if dice.random() < 0.25 else slow if dice.random() < 0.05 else Answer(delay_s=0.01)
        for _ in range(5_000)
    ]


async def all_at_once(running: RunningGateway, callers: Sequence[Caller], gate: threading.Event) -> list[Reply | None]:
    """What each caller is answered, None for one who left. The gate opens when all who need the provider are there."""
    tasks = [asyncio.create_task(exchange(running, caller)) for caller in callers]
    n_waiting = sum(caller.waits_for_provider for caller in callers)
    try:
        await asyncio.to_thread(
            wait_until, "all are there", lambda: metric(running, "embedgate_requests_running") >= n_waiting
        )
    finally:
        gate.set()
    return await asyncio.gather(*tasks)


async def exchange(running: RunningGateway, caller: Caller) -> Reply | None:
    """One request on a connection of its own. None if the caller has left before the answer was there."""
    address = urlsplit(running.url)
    body = json.dumps(body_of(caller)).encode()
    head = f"POST /v1/embeddings HTTP/1.1\r\nhost: {address.netloc}\r\nx-api-key: {running.key}\r\n"
    request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        async with asyncio.timeout(caller.leaves_after_s or PATIENCE_S):
            writer.write(request[: int(len(request) * caller.share_sent)])
            return await reply_from(reader)
    except TimeoutError:
        assert caller.leaves_after_s is not None, "no answer came"
        return None
    finally:
        writer.transport.abort()


async def reply_from(reader: asyncio.StreamReader) -> Reply:
    """The whole answer, whichever way it tells its length."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = b""
    if "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    else:
        while size_bytes := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(size_bytes + 2))[:-2]
    return Reply(int(first.split(" ")[1]), headers, body)


def body_of(caller: Caller) -> dict[str, object]:
    return {"model": MODEL, "input": caller.texts, "dimensions": caller.dim, "encoding_format": "base64"}


def ask(running: RunningGateway, texts: Sequence[str]) -> Reply:
    """One request of a caller who waits."""
    return call(running.url, "/v1/embeddings", body_of(Caller(texts)), {"x-api-key": running.key})


def assert_right(callers: Sequence[Caller], replies: Sequence[Reply | None]) -> None:
    """Every text has its own vector, in its place, in the size asked for; else the provider's fault is told."""
    n_right = 0
    for caller, reply in zip(callers, replies, strict=True):
        if reply is None:
            continue
        if reply.status != 200:
            assert (reply.status, reply.json["error"]["code"]) == (502, "upstream_error")
            continue
        data = reply.json["data"]
        assert [item["index"] for item in data] == list(range(len(caller.texts)))
        found = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in data]
        np.testing.assert_allclose(found, [Upstream.vector(text, caller.dim) for text in caller.texts], atol=1e-6)
        n_right += 1
    assert n_right > sum(reply is not None for reply in replies) / 2


def assert_ledger_is_true(running: RunningGateway, billed_tokens: int, replies: Sequence[Reply | None]) -> None:
    """One line per request, the lines add up to the provider's bill, and each answer is on its own line.

    The bill is for calls that were answered with vectors, in full. Whether a provider charges for an answer that
    broke off, nobody on this side can know; this one does not, so that the ledger is above the bill by what is marked
    as estimated.
    """
    with closing(sqlite3.connect(running.data_dir / "embedgate.db")) as database:
        lines = database.execute(
            "SELECT request_id, outcome, tokens, reused_tokens, cost_picodollars, estimated_tokens, "
            "estimated_picodollars FROM ledger"
        )
        ledger = {request_id: line for request_id, *line in lines}
        assert database.execute("SELECT count(*) FROM ledger").fetchone() == (len(ledger),)
    tokens, cost, *estimated = (sum(line[column] for line in ledger.values()) for column in (1, 3, 4, 5))
    assert estimated[1] == estimated[0] * PRICE_PICODOLLARS > 0
    assert (tokens - estimated[0], cost - estimated[1]) == (billed_tokens, billed_tokens * PRICE_PICODOLLARS)
    outcomes = [outcome for outcome, *_ in ledger.values()]
    assert outcomes.count("ok") == metric(running, "embedgate_requests_total", dialect="openai", outcome="ok")
    for reply in replies:
        if reply is not None and reply.status == 200:
            outcome, paid, reused, *_ = ledger[reply.headers["x-request-id"]]
            assert (outcome, reused) == ("ok", int(reply.headers["x-embedgate-cached-tokens"]))
            assert paid + reused >= reply.json["usage"]["total_tokens"]  # more where a wrong answer was billed before


def metric(running: RunningGateway, name: str, **labels: str) -> float:
    """The value of one metric; 0 if it has not been counted yet."""
    text = call(running.url, "/metrics").body.decode()
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return next((sample.value for sample in samples if sample.name == name and sample.labels == labels), 0.0)


def kept_on_disk(running: RunningGateway) -> int:
    return int(metric(running, "embedgate_cache_entries", tier="disk"))


def open_files(running: RunningGateway) -> list[str]:
    """What the file descriptors of the gateway lead to."""
    found = []
    for descriptor in Path(f"/proc/{running.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since it was listed
            found.append(str(descriptor.readlink()))
    return found


def connections(running: RunningGateway) -> tuple[int, int]:
    """The gateway's connections from callers, and those to the provider."""
    own_port = urlsplit(running.url).port
    own_sockets = set(open_files(running))
    inbound = outbound = 0
    for line in Path(f"/proc/{running.process.pid}/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, *_ = fields = line.split()
        if state != LISTENING and f"socket:[{fields[9]}]" in own_sockets:
            is_inbound = int(local.partition(":")[2], 16) == own_port
            inbound += is_inbound
            outbound += not is_inbound
    return inbound, outbound
