"""The pages of docs/toolkit show what the program prints, with the embedded model.

A page works on files that it shows itself, and on `examples`. Numbers of a time or a speed are not compared.
"""

import re
from pathlib import Path

import pytest

from guides import run_command, steps
from kept_models import share_models
from program import Program

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "toolkit").glob("[a-z]*.md"))
_SPEED = re.compile(r"\b\d[\d,.]*(?= ?(?:ms|s|seconds|texts/s)\b)")


def comparable(text: str) -> list[str]:
    return [" ".join(_SPEED.sub("N", line).split()) for line in text.splitlines()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_page_shows_what_the_program_prints(page: Path, program: Program, folder: Path) -> None:
    (folder / "examples").symlink_to(ROOT / "examples")
    share_models(folder / "data")
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
