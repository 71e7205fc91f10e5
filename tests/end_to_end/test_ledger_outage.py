"""While the ledger cannot be written nothing is bought: `/readyz` says so, and it heals by itself."""

import contextlib
import resource
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from administrator import Administrator
from crowd import LOCAL_OFF, MODEL, metric
from embedgate.govern.keys import Key
from running import RunningGateway, gateway
from upstream import Upstream
from waiting import wait_until
from wire import Reply, call

FREE = "fake/deterministic"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, far_side: Upstream) -> Iterator[RunningGateway]:
    settings = f"""
        {LOCAL_OFF}
        [providers.fake]
        enabled = true
        [providers.openai]
        base_url = "{far_side.base_url}"
        [storage]
        ledger_check_s = 0.2
    """
    with gateway(tmp_path_factory.mktemp("outage"), settings, {"OPENAI_API_KEY": "sk-upstream"}) as started:
        yield started


@pytest.fixture(autouse=True)
def host(far_side: Upstream) -> Upstream:
    far_side.reset()
    return far_side


@contextlib.contextmanager
def locked(running: RunningGateway) -> Iterator[None]:
    """Another process holds the lock of the database."""
    with contextlib.closing(sqlite3.connect(running.data_dir / "embedgate.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@contextlib.contextmanager
def full(running: RunningGateway) -> Iterator[None]:
    """No file can grow, as on a full disk. SQLite's log is new, so that it has to."""
    size = (running.data_dir / "embedgate.db-wal").stat().st_size
    before = resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    yield
    resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def moved(running: RunningGateway) -> Iterator[None]:
    """The database is not where it was."""
    file = running.data_dir / "embedgate.db"
    aside = file.rename(file.with_name("aside.db"))
    yield
    aside.rename(file)


@contextlib.contextmanager
def replaced(running: RunningGateway) -> Iterator[None]:
    """Another file has the name of the database: a backup that was put in its place."""
    file = running.data_dir / "embedgate.db"
    aside = file.with_name("aside.db")
    aside.hardlink_to(file)
    copy = Path(shutil.copy(file, file.with_name("copy.db")))
    copy.replace(file)
    yield
    aside.replace(file)


def is_ready(running: RunningGateway) -> bool:
    reply = call(running.url, "/readyz")
    if reply.status != 200:
        assert (reply.status, reply.json) == (503, {"status": "not ready", "missing": ["ledger"]})
    return reply.status == 200


def embed(running: RunningGateway, secret: str, model: str, **more: Any) -> Reply:
    return call(running.url, "/v1/embeddings", {"model": model, "input": "x", **more}, {"x-api-key": secret})


@pytest.mark.parametrize("outage", [locked, full, moved, replaced])
def test_what_has_a_price_is_refused_before_the_provider_until_the_ledger_is_back(
    running: RunningGateway, admin: Administrator, account: tuple[Key, str], host: Upstream, outage: Any
) -> None:
    key, secret = account
    assert embed(running, secret, MODEL).status == 200
    assert is_ready(running)
    host.reset()
    with outage(running):
        wait_until("readiness says it", lambda: not is_ready(running))
        assert metric(running, "embedgate_ledger_writable") == 0
        refused = embed(running, secret, MODEL, cache="no-store")
        assert (refused.status, refused.json["error"]["code"]) == (503, "ledger_unavailable")
        assert int(refused.headers["retry-after"]) > 0
        body = {"provider": "openai", "model": MODEL.partition("/")[2], "input": "x"}
        other = call(running.url, "/api/embeddings", body, {"x-api-key": secret})
        assert (other.status, other.json["code"]) == (503, "QUEUE_FULL")
        assert host.requests == []
        assert embed(running, secret, FREE).status == 200
        assert "ledger_unavailable" in running.log.read_text()
    wait_until("it is written again", lambda: is_ready(running))
    assert embed(running, secret, MODEL, cache="no-store").status == 200
    wait_until("nothing is missing", lambda: [entry.model for entry in admin.entries(key)] == [MODEL, FREE, MODEL])
    assert admin.trail_is_whole()
