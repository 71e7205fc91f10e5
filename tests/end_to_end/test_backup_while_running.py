"""Backup of a gateway that serves: an archive is of one moment; and a restore over a gateway that was killed."""

import functools
import itertools
import json
import os
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import fork_server
from administrator import administrator
from billing_provider import BillingProvider
from crowd import LOCAL_OFF, MODEL
from forked import Forks, forks
from running import clean_environment
from waiting import PATIENCE_S, wait_until
from wire import call

NUMBERS = itertools.count()
N = 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def parent(tmp_path: Path, host: BillingProvider) -> Iterator[Forks]:
    settings = f'{LOCAL_OFF}\n[providers.openai]\nbase_url = "{host.base_url}"\nmax_parallel = 50\n'
    (tmp_path / "embedgate.toml").write_text(settings, encoding="utf-8")
    with forks(tmp_path / "gateway.log", OPENAI_API_KEY="sk-upstream") as found:
        yield found


def run(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """A command on the folder, in a process of its own: its exit code, what it printed, and what it said."""
    printed, said = folder.with_name("printed"), folder.with_name("said")
    said.unlink(missing_ok=True)
    config = str(folder.parent / "embedgate.toml")
    process = fork_server.start(["--config", config, *arguments], clean_environment(), printed, said)
    return process.wait(PATIENCE_S), printed.read_text(), said.read_text()


def embed(url: str, secret: str) -> int:
    """The status of the answer to a request at a price."""
    body = {"model": MODEL, "input": f"caller {next(NUMBERS):08}"}
    return call(url, "/v1/embeddings", body, {"x-api-key": secret}).status


def test_archives_of_a_busy_gateway_are_each_of_one_moment(folder: Path, host: BillingProvider, parent: Forks) -> None:
    running = parent.start(folder, folder.parent / "embedgate.toml")
    secret = (folder / "user.key").read_text().strip()
    is_over = threading.Event()
    statuses = Counter({200: 0})

    def is_past(n: int) -> bool:
        return statuses.total() > n

    def ask_on() -> None:
        while not is_over.is_set():
            statuses[embed(running.url, secret)] += 1

    file = str(folder.with_name("a.zip"))
    with ThreadPoolExecutor(N) as callers:
        asking = [callers.submit(ask_on) for _ in range(N)]
        try:
            for n_answered in (2 * N, 6 * N):
                wait_until("so many are answered", functools.partial(is_past, n_answered))
                before = statuses.total()
                code, printed, said = run(folder, "backup", file, "--overwrite", "--data-dir", str(folder), "--json")
                assert code == 0, said
                books = json.loads(printed)["books"]
                assert books["is_intact"]
                assert books["entries"] >= before
            code, _, said = run(folder, "restore", file, "--replace", "--data-dir", str(folder))
            assert code == 1
            assert "A gateway runs on" in said
        finally:
            is_over.set()
        for each in asking:
            each.result()
    assert set(statuses) == {200}
    running.kill()
    parent.start(folder, folder.parent / "embedgate.toml").kill()
    with administrator(folder) as admin:
        every = admin.every_entry()
    target = folder.with_name("restored")
    code, _, said = run(folder, "restore", file, "--data-dir", str(target))
    assert code == 0, said
    with administrator(target) as admin:
        assert admin.trail_is_whole()
        found = admin.every_entry()
    assert every[: len(found)] == found
    # What was under way at that moment is not in the ledger, but in its intents.
    parent.start(target, folder.parent / "embedgate.toml").kill()
    with administrator(target) as admin:
        booked = admin.every_entry()[len(found) :]
    assert {entry.outcome for entry in booked} <= {"interrupted"}
    assert {entry.request_id for entry in booked} <= {entry.request_id for entry in every[len(found) :]}


def test_what_was_bought_after_the_backup_is_booked_by_a_restore_over_a_killed_gateway(
    folder: Path, host: BillingProvider, parent: Forks
) -> None:
    running = parent.start(folder, folder.parent / "embedgate.toml")
    secret = (folder / "user.key").read_text().strip()
    file = str(folder.with_name("a.zip"))
    assert [embed(running.url, secret) for _ in range(N)] == [200] * N
    assert run(folder, "backup", file, "--data-dir", str(folder))[0] == 0
    assert [embed(running.url, secret) for _ in range(N)] == [200] * N
    running.kill()
    os.truncate(folder / "embedgate.db", 5_000)
    code, _, said = run(folder, "restore", file, "--replace", "--data-dir", str(folder))
    assert code == 0, said
    parent.start(folder, folder.parent / "embedgate.toml").kill()
    with administrator(folder) as admin:
        assert admin.trail_is_whole()
        assert Counter(entry.outcome for entry in admin.every_entry()) == {"ok": N, "interrupted": N}
