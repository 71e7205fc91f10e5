"""The pages of docs/toolkit that analyse texts: their commands run and print what the pages show; their Python runs."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from embedgate.cli.main import COMMANDS
from program import Program

ROOT = Path(__file__).parents[2]
PAGES = ("classify", "cluster", "dedupe", "evaluate", "map", "outliers")

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MEASURED = re.compile(r"\b\d+(?:\.\d+)? (?:KB|ms)\b")
_NUMBER = re.compile(r"\d+\.\d+")
_ROUNDING = 0.005
"""What another processor may change in a number of three digits."""


class Step(NamedTuple):
    """Commands of a page, and what it says that they print; None if it does not say."""

    commands: tuple[str, ...]
    printed: str | None


def steps(text: str) -> Iterator[Step]:
    found = [(language, content) for language, content in _FENCE.findall(text) if language in ("sh", "text")]
    for (language, content), (following, printed) in zip(found, [*found[1:], ("", "")], strict=True):
        if language == "sh":
            commands = tuple(content.replace("\\\n", " ").splitlines())
            yield Step(commands, printed if following == "text" else None)


def page_text(page: str) -> str:
    return (ROOT / "docs" / "toolkit" / f"{page}.md").read_text(encoding="utf-8")


def comparable(text: str) -> list[str]:
    """The lines without the width of columns, numbers, and what is measured anew."""
    return [" ".join(_NUMBER.sub("N", _MEASURED.sub("MEASURED", line)).split()) for line in text.splitlines()]


def numbers(text: str) -> list[float]:
    return [float(number) for number in _NUMBER.findall(_MEASURED.sub("", text))]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder for all pages: most embed the same texts, and find their vectors in its cache."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def examples(folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMBEDGATE_DATA_DIR", str(data))
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_print_what_it_shows(page: str, program: Program, examples: Path) -> None:
    n_shown = 0
    for commands, printed in steps(page_text(page)):
        output = ""
        for command in commands:
            ended = program(*command.split()[1:])
            assert ended.code == 0, f"{command}: {ended.errors}"
            output += ended.text + ended.errors
        if printed is not None:
            assert comparable(output) == comparable(printed), commands
            assert numbers(output) == pytest.approx(numbers(printed), abs=_ROUNDING), commands
            n_shown += 1
    assert n_shown > 0
    assert page in COMMANDS


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_runs(page: str, examples: Path) -> None:
    """With vectors that cost nothing."""
    blocks = [content for language, content in _FENCE.findall(page_text(page)) if language == "python"]
    assert blocks
    for content in blocks:
        code = content.replace("LocalEmbedder()", "FakeEmbedder(dim=64)")
        assert code != content
        exec(compile(code, f"{page}.md", "exec"), {})
