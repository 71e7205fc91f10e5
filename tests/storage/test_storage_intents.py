"""The journal of intents: what it says survives the process and is booked once; it refuses when the disk refuses it."""

import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedgate.core.types import LedgerEntry
from embedgate.storage.database import Database
from embedgate.storage.intents import INTENTS_FOLDER, IntentJournal, recover
from embedgate.storage.ledger import SqlLedger
from governing import entries_in

FULL_DISK = """
import asyncio, resource, sys
from pathlib import Path
from embedgate.core.errors import LedgerUnavailable
from embedgate.storage.intents import IntentJournal
from test_storage_intents import intent

async def main():
    journal = IntentJournal(Path(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))
    for number in range(100):
        try:
            await journal.write(intent(f"req_{number}"))
        except LedgerUnavailable as error:
            print(number, error.status, error.retry_after_s, len(journal), flush=True)
            return

asyncio.run(main())
import os
os._exit(0)
"""


def intent(request_id: str, cost: int = 7) -> LedgerEntry:
    return LedgerEntry(
        request_id, 1, "openai", "user", "key", None, "m", "m", "p", "u", 1, 3, 0, True, 2, None, cost,
        "interrupted", 0.0, 0.0, estimated_tokens=3, estimated_picodollars=cost,
    )  # fmt: skip


def booked(database: Database) -> dict[str, int]:
    return {entry.request_id: entry.cost_picodollars for entry in entries_in(database)}


def leave_behind(folder: Path) -> None:
    """Leave copies of the files of a journal, as its process does that is killed now: the same bytes, and no lock."""
    for path in list((folder / INTENTS_FOLDER).iterdir()):
        shutil.copy(path, path.with_name(f"dead-{path.name}"))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[IntentJournal]:
    journal = IntentJournal(tmp_path)
    yield journal
    journal.close()


def files(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / INTENTS_FOLDER).iterdir()]


async def test_what_a_dead_process_left_open_is_booked_once_and_nothing_else(
    tmp_path: Path, database: Database, journal: IntentJournal
) -> None:
    for name in ("open", "free", "raised", "in the ledger"):
        await journal.write(intent(name))
    await journal.write(intent("raised", cost=9))
    journal.drop("free")
    ledger = SqlLedger(database)
    await ledger.record(intent("in the ledger", cost=1))
    ledger.close()
    leave_behind(tmp_path)
    assert recover(tmp_path, database) == 2
    assert booked(database) == {"in the ledger": 1, "open": 7, "raised": 9}
    assert {entry.outcome for entry in entries_in(database)} == {"interrupted"}
    leave_behind(tmp_path)  # as if the recovery had been killed before it deleted the file
    assert recover(tmp_path, database) == 0
    assert len(booked(database)) == 3


async def test_a_process_that_lives_is_left_alone(tmp_path: Path, database: Database, journal: IntentJournal) -> None:
    await journal.write(intent("alive"))
    assert recover(tmp_path, database) == 0
    assert (booked(database), len(files(tmp_path))) == ({}, 1)
    journal.close()  # without its cost in a ledger: as a process ends whose ledger could not be written
    assert recover(tmp_path, database) == 1
    assert files(tmp_path) == []


async def test_a_torn_line_was_never_relied_upon_and_a_damaged_one_is_told(
    tmp_path: Path, database: Database, journal: IntentJournal, caplog: pytest.LogCaptureFixture
) -> None:
    await journal.write(intent("whole"))
    await journal.write(intent("damaged"))
    await journal.write(intent("torn"))
    leave_behind(tmp_path)
    (dead,) = [path for path in (tmp_path / INTENTS_FOLDER).iterdir() if path.name.startswith("dead")]
    dead.write_bytes(dead.read_bytes()[:-20].replace(b'"damaged"', b'"dam\xff\xffd"'))
    with caplog.at_level(logging.WARNING, "embedgate"):
        assert recover(tmp_path, database) == 1
    assert booked(database) == {"whole": 7}
    assert [record.getMessage() for record in caplog.records] == ["intents_unreadable", "interrupted_booked"]


async def test_files_are_bounded_by_what_is_open(tmp_path: Path, journal: IntentJournal) -> None:
    await journal.write(intent("stays open"))
    for number in range(6_000):
        await journal.write(intent(f"req_{number}"))
        journal.settle(f"req_{number}")
    assert len(journal) == 1
    assert len(files(tmp_path)) == 2  # that of the open one, and the current one
    journal.settle("stays open")
    assert sum(path.stat().st_size for path in (tmp_path / INTENTS_FOLDER).iterdir()) < 1_100_000
    journal.close()
    assert files(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files")
def test_a_full_disk_refuses_with_503_and_keeps_what_was_promised(tmp_path: Path, database: Database) -> None:
    here = Path(__file__).parent
    ended = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        env={"PYTHONPATH": f"{here}:{here.parent}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    n, status, retry_after_s, n_open = ended.stdout.split()
    assert (status, retry_after_s) == ("503", "5.0")
    assert int(n) == int(n_open) > 3
    assert recover(tmp_path, database) == int(n)
    assert set(booked(database)) == {f"req_{number}" for number in range(int(n))}
