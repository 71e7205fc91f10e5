"""The Python of the pages of docs/toolkit that analyse texts runs. Their commands: test_cli_toolkit_guides.py."""

import re
import shutil
from pathlib import Path

import pytest

from embedgate.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = ("classify", "cluster", "dedupe", "evaluate", "map", "outliers")

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def page_text(page: str) -> str:
    return (ROOT / "docs" / "toolkit" / f"{page}.md").read_text(encoding="utf-8")


@pytest.fixture
def examples(folder: Path) -> Path:
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_runs(page: str, examples: Path) -> None:
    """With vectors that cost nothing."""
    assert page in COMMANDS
    blocks = [content for language, content in _FENCE.findall(page_text(page)) if language == "python"]
    assert blocks
    for content in blocks:
        code = content.replace("LocalEmbedder()", "FakeEmbedder(dim=64)")
        assert code != content
        exec(compile(code, f"{page}.md", "exec"), {})
