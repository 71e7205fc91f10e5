"""The program as a function: arguments in, exit code and output out, with nothing of this machine's settings."""

import io
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedgate.cli.main import run
from program import FAKE_ONLY, Ended, Program
from upstream import Upstream, running_upstream


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and an environment that says only where the data go."""
    for name in list(os.environ):
        if re.match(r"EMBEDGATE_|.*_API_KEY$|.*_TOKEN$", name):
            monkeypatch.delenv(name)
    monkeypatch.setenv("EMBEDGATE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


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
def server() -> Iterator[Upstream]:
    """A gateway elsewhere: anything that speaks the OpenAI format."""
    with running_upstream() as upstream:
        yield upstream
