"""docs/architecture.md against the code: the arrows between the rooms of the engine, and the modules it names."""

import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "embedgate"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
_ROOM_ROW = re.compile(r"^\| `([a-z_]+)(?:/|\.py)` \|[^|]+\|([^|]*)\|$", re.MULTILINE)


def rooms_of_the_page() -> dict[str, set[str]]:
    """What each room may use, as the table says."""
    table = PAGE.partition("## Rooms of the engine")[2].partition("\n## ")[0]
    rows = _ROOM_ROW.findall(table)
    names = {name for name, _ in rows}
    return {
        name: names - {name} if "all rooms" in uses else set(re.findall(r"`([a-z_]+)`", uses)) for name, uses in rows
    }


def rooms_of_the_code() -> dict[str, set[str]]:
    """What each room imports from others."""
    engine = PACKAGE / "engine"
    uses: dict[str, set[str]] = defaultdict(set)
    for module in engine.rglob("*.py"):
        room = module.relative_to(engine).parts[0].removesuffix(".py")
        if room != "__init__":
            text = module.read_text(encoding="utf-8")
            uses[room] |= set(re.findall(r"embedgate\.engine\.(\w+)", text)) - {room}
    return uses


@pytest.mark.parametrize("room", sorted(rooms_of_the_code()))
def test_a_room_uses_what_the_page_says(room: str) -> None:
    page, used = rooms_of_the_page(), rooms_of_the_code()[room]
    assert room in page
    if room == "pipeline":
        assert used <= page[room]
    else:
        assert used == page[room]


def test_every_module_of_administration_is_in_the_table() -> None:
    """But for those that hold no subject: the declaration of operations, changes, and what several subjects share."""
    table = PAGE.partition("## Administration")[2].partition("\n## ")[0]
    named = set(re.findall(r"`govern/(\w+)\.py`", table))
    modules = {module.stem for module in (PACKAGE / "govern").glob("*.py")} - {"__init__"}
    assert named <= modules
    with_operations = {
        module.stem
        for module in (PACKAGE / "govern").glob("*.py")
        if re.search(r"^@(reads|changes|runs)\(", module.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert with_operations
    assert with_operations <= named


def test_every_file_that_the_page_names_is_there() -> None:
    """Paths of the page lie in the package or in the repository; `*` and `<subject>` stand for any name."""
    for path in re.findall(r"`([a-z_]+/[a-z_/.]+\.[a-z]+)`", PAGE):
        places = (PACKAGE, PACKAGE / "engine", ROOT)
        assert any((place / path).exists() for place in places), f"{path} is not there"
