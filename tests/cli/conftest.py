"""The program as a function: arguments in, exit code and output out, with nothing of this machine's settings."""

import io
import itertools
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from embedgate.cli.main import run
from embedgate.core.types import LedgerEntry
from embedgate.storage.appender import Appender
from embedgate.storage.database import open_database
from empty_database import write_empty_database
from program import FAKE_ONLY, AddEntries, Ended, Program
from running import gateway
from upstream import Upstream, running_upstream


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with an empty database, and an environment that says only where the data go."""
    for name in list(os.environ):
        if re.match(r"EMBEDGATE_|.*_API_KEY$|.*_TOKEN$", name):
            monkeypatch.delenv(name)
    monkeypatch.setenv("EMBEDGATE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    write_empty_database(tmp_path / "data")
    return tmp_path


@pytest.fixture
def no_data(folder: Path) -> None:
    """No database and no folder for it, as on a new machine."""
    shutil.rmtree(folder / "data")


@pytest.fixture
def program(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> Iterator[Program]:
    """Runs `embedgate` with arguments; `stdin` is what is piped into it."""

    def call(*arguments: str, stdin: bytes = b"") -> Ended:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as ended:
            run(arguments)
        output, errors = capsysbinary.readouterr()
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, output, errors.decode())

    root, handlers = logging.getLogger(), logging.getLogger().handlers[:]
    yield call
    root.handlers[:] = handlers


@pytest.fixture
def fake_only(folder: Path) -> None:
    """Settings under which every vector comes from the `fake` provider."""
    (folder / "embedgate.toml").write_text(FAKE_ONLY, encoding="utf-8")


@pytest.fixture
def remote(program: Program, folder: Path) -> Iterator[Program]:
    """Runs `embedgate` as `program` does, on a gateway that serves the same data folder, over `--url`.

    The gateway is the first to use the folder: its administrator's key is made then.
    """
    with gateway(folder / "data", FAKE_ONLY) as running:
        yield lambda *arguments, **more: program(
            *arguments, "--url", running.url, "--api-key", running.admin_key, **more
        )


@pytest.fixture
def add_entries(folder: Path) -> AddEntries:
    """Writes entries into the ledger; each is given by the fields that differ from those of a small request."""
    usual = LedgerEntry(
        request_id="",
        at_ms=1_795_212_000_000,  # 2026-11-20T22:00Z
        dialect="openai",
        user_id="user_0000000000000000",
        key_id="key_0000000000000000",
        end_user=None,
        model="openai/text-embedding-3-small",
        space="openai/text-embedding-3-small",
        provider="openai",
        upstream_model="text-embedding-3-small",
        items=2,
        tokens=1_000,
        reused_tokens=500,
        tokens_estimated=False,
        price_picodollars=20_000,
        price_as_of=None,
        cost_picodollars=20_000_000,
        outcome="ok",
        total_ms=41.5,
        upstream_ms=38.0,
    )

    numbers = itertools.count(1)

    def add(*changes: dict[str, Any]) -> None:
        database = open_database(folder / "data")
        try:
            with database.write() as connection:
                Appender(database.dialect)(
                    connection.exec_driver_sql,
                    [structs.replace(usual, **{"request_id": f"req_{next(numbers)}"} | change) for change in changes],
                )
        finally:
            database.close()

    return add


@pytest.fixture
def server() -> Iterator[Upstream]:
    """A gateway elsewhere: anything that speaks the OpenAI format."""
    with running_upstream() as upstream:
        yield upstream
