"""Files of the data folder that somebody deletes, cuts or overwrites under a running gateway: no money is lost to it.

What is seen keeps everything from being bought that could not be booked, and what was bought before is booked over the
backup that an operator then restores.
"""

import itertools
import os
import shutil
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from http.client import HTTPException
from pathlib import Path

import pytest

from administrator import administrator
from billing_provider import BillingProvider
from crowd import LOCAL_OFF, MODEL
from embedgate.core.types import LedgerEntry
from embedgate.storage.intents import INTENTS_FOLDER
from forked import Fork, Forks, forks
from forms import scaled
from waiting import wait_until
from wire import call

NUMBERS = itertools.count()
FILES = ("embedgate.db", "embedgate.db-wal", "embedgate.db-shm")
N = 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def parent(tmp_path: Path, host: BillingProvider) -> Iterator[Forks]:
    settings = f"""
        {LOCAL_OFF}
        [providers.openai]
        base_url = "{host.base_url}"
        max_parallel = 50
        [storage]
        ledger_patience_s = 0.2
        ledger_check_s = 0.2
    """
    (tmp_path / "embedgate.toml").write_text(settings, encoding="utf-8")
    with forks(tmp_path / "gateway.log", OPENAI_API_KEY="sk-upstream") as found:
        yield found


def start(parent: Forks, folder: Path) -> Fork:
    return parent.start(folder, folder.parent / "embedgate.toml")


def embed(running: Fork, secret: str) -> int:
    """The status of the answer to a request at a price; 0 without one."""
    body = {"model": MODEL, "input": f"caller {next(NUMBERS):08}"}
    with suppress(OSError, HTTPException):
        return call(running.url, "/v1/embeddings", body, {"x-api-key": secret}).status
    return 0


def secret_of(folder: Path) -> str:
    return (folder / "user.key").read_text().strip()


def is_ready(running: Fork) -> bool:
    return call(running.url, "/readyz").status == 200


def entries(folder: Path) -> Sequence[LedgerEntry]:
    with administrator(folder) as admin:
        assert admin.trail_is_whole()
        return admin.every_entry()


def assert_books_hold(folder: Path, host: BillingProvider) -> Counter[str]:
    """The ledger is not below the bill, and above it by what is marked. Returns how many entries have which outcome."""
    found = entries(folder)
    tokens, marked = sum(entry.tokens for entry in found), sum(entry.estimated_tokens for entry in found)
    assert host.input_tokens <= tokens <= host.input_tokens + marked
    return Counter(entry.outcome for entry in found)


def settle_down(running: Fork, folder: Path) -> None:
    """All that was written is in the database's own file, and the gateway has looked at it."""
    with closing(sqlite3.connect(folder / FILES[0])) as other:
        other.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    since_s = time.monotonic()
    # Two looks that are asked for at the same moment are one.
    wait_until("it is looked at", lambda: is_ready(running) and time.monotonic() - since_s > 0.2)


def cut(folder: Path, _: Path) -> None:
    os.truncate(folder / FILES[0], 2048)


def emptied(folder: Path, _: Path) -> None:
    os.truncate(folder / FILES[0], 0)


def overwritten(folder: Path, backup: Path) -> None:
    shutil.copyfile(backup, folder / FILES[0])


def replaced(folder: Path, backup: Path) -> None:
    shutil.copyfile(backup, folder / "new.db")
    (folder / "new.db").replace(folder / FILES[0])


def log_deleted(folder: Path, _: Path) -> None:
    (folder / FILES[1]).unlink()


def index_deleted(folder: Path, _: Path) -> None:
    """And a command has made another, which the gateway knows nothing of."""
    (folder / FILES[2]).unlink()
    with administrator(folder) as admin:
        admin.new_key()


FEW = [overwritten, log_deleted, index_deleted]


@pytest.mark.hostile
@pytest.mark.parametrize("spoil", scaled(FEW, [*FEW, cut, emptied, replaced]))
def test_nothing_is_bought_with_spoiled_books_and_what_was_is_booked_over_a_backup(
    folder: Path, host: BillingProvider, parent: Forks, spoil: Callable[[Path, Path], None]
) -> None:
    running = start(parent, folder)
    secret = secret_of(folder)
    backup = folder.with_name("backup.db")
    with closing(sqlite3.connect(folder / FILES[0])) as other:
        other.execute("VACUUM INTO ?", (str(backup),))
    assert [embed(running, secret) for _ in range(N)] == [200] * N
    settle_down(running, folder)
    spoil(folder, backup)
    wait_until("readiness says it", lambda: not is_ready(running))
    n_billed = host.calls_billed
    assert 200 not in {embed(running, secret) for _ in range(N)}
    assert host.calls_billed == n_billed
    running.kill(signal.SIGTERM)
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    shutil.copyfile(backup, folder / FILES[0])
    start(parent, folder).kill()
    assert assert_books_hold(folder, host) == {"interrupted": N}


def is_deleted(journals: Path) -> bool:
    """Delete them, unless the gateway makes some anew at the same moment."""
    with suppress(OSError):
        shutil.rmtree(journals)
        return True
    return False


def is_replaced_by_a_file(journals: Path) -> bool:
    """Put a file in their place, unless the gateway makes some anew at the same moment."""
    with suppress(OSError):
        return is_deleted(journals) and bool(journals.write_text("in the way of a folder", encoding="ascii"))
    return False


def test_readiness_says_when_intents_cannot_be_kept(folder: Path, host: BillingProvider, parent: Forks) -> None:
    running = start(parent, folder)
    secret = secret_of(folder)
    assert embed(running, secret) == 200
    wait_until("a file is in the way of the folder", lambda: is_replaced_by_a_file(folder / INTENTS_FOLDER))
    wait_until("readiness says it", lambda: not is_ready(running))
    assert embed(running, secret) == 503
    assert host.calls_billed == 1
    (folder / INTENTS_FOLDER).unlink()
    wait_until("they are kept again", lambda: is_ready(running))
    assert embed(running, secret) == 200


@pytest.fixture
def callers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(N) as pool:
        yield pool


def leave_open(callers: ThreadPoolExecutor, running: Fork, host: BillingProvider, secret: str) -> list[Future[int]]:
    """Calls that are at the provider."""
    host.every_call("hang")
    found = [callers.submit(embed, running, secret) for _ in range(N)]
    wait_until("they are at the provider", lambda: host.calls_by_mode()["hang"] == N)
    return found


@pytest.mark.parametrize("is_moved", [False, True], ids=["deleted", "moved"])
def test_intents_that_are_deleted_are_written_anew(
    folder: Path, host: BillingProvider, parent: Forks, callers: ThreadPoolExecutor, is_moved: bool
) -> None:
    running = start(parent, folder)
    secret = secret_of(folder)
    asked = leave_open(callers, running, host, secret)
    journals = folder / INTENTS_FOLDER
    if is_moved:
        journals.rename(folder / "elsewhere")
    else:
        wait_until("they are deleted", lambda: is_deleted(journals))
    wait_until("they are back", lambda: any(file.stat().st_size for file in journals.glob("*.journal")))
    running.kill()
    assert {future.result() for future in asked} == {0}
    start(parent, folder).kill()
    assert assert_books_hold(folder, host) == {"interrupted": N}


def test_a_cut_index_ends_the_process_and_loses_nothing(
    folder: Path, host: BillingProvider, parent: Forks, callers: ThreadPoolExecutor
) -> None:
    """A bus error, as the file is mapped: as sudden as a kill, and booked like one."""
    running = start(parent, folder)
    secret = secret_of(folder)
    assert embed(running, secret) == 200
    asked = leave_open(callers, running, host, secret)
    os.truncate(folder / FILES[2], 0)
    assert {future.result() for future in asked} == {0}
    start(parent, folder).kill()
    assert assert_books_hold(folder, host) == {"ok": 1, "interrupted": N}
