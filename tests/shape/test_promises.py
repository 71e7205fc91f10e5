"""docs/promises.md: every promise names tests, and every test that it names is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
PROMISES = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
_TEST = re.compile(r"^- `(tests/[\w/]+\.py)::(\w+)`( \(\*long\*\))?$", re.MULTILINE)


@pytest.mark.parametrize("promise", PROMISES, ids=[promise.partition("\n")[0] for promise in PROMISES])
def test_a_promise_is_held_by_tests_that_are_there(promise: str) -> None:
    named = _TEST.findall(promise)
    assert named
    for path, function, long in named:
        source = (ROOT / path).read_text(encoding="utf-8")
        found = re.search(rf"((?:^@.*\n)*)(?:^[ )].*\n)*^(?:async )?def {function}\(", source, re.MULTILINE)
        assert found, f"{path} has no {function}"
        is_hostile = "pytest.mark.hostile" in source[: found.end()][-600:]
        assert is_hostile == bool(long), f"{function}: marked hostile, or said to be long, but not both"
