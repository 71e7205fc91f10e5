"""The pages of docs/toolkit show what the program prints, with the embedded model.

A page works on files that it shows itself, and on `examples`. Numbers of a time or a speed are not compared.
"""

import re
from pathlib import Path

import pytest

from embedgate.cli.main import COMMANDS
from guides import run_command, steps
from kept_models import share_models
from program import Program

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "toolkit").glob("[a-z]*.md"))
_SPEED = re.compile(r"\b\d[\d,.]*(?= ?(?:ms|s|seconds|texts/s)\b)")


def comparable(text: str) -> list[str]:
    return [" ".join(_SPEED.sub("N", line).split()) for line in text.splitlines()]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vector cache for all pages: most embed the same texts."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_page_shows_what_the_program_prints(page: Path, program: Program, folder: Path, cache: Path) -> None:
    (folder / "examples").symlink_to(ROOT / "examples")
    share_models(folder / "data")
    (folder / "data" / "cache").symlink_to(cache, target_is_directory=True)
    n_shown = 0
    for step in steps(page, folder):
        printed = ""
        for command in step.commands:
            if not command.startswith("embedgate "):
                continue
            ended = run_command(program, folder, command)
            assert ended.code == 0, (command, ended.errors)
            printed += ended.text + ended.errors
        if step.printed is not None:
            assert comparable(step.printed) == comparable(printed), step.commands
            n_shown += 1
    assert n_shown > 0 or page.stem not in COMMANDS
