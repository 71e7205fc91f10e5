"""docs/architecture.md against the code: the arrows between the rooms of the engine, and the modules it names."""

import ast
import functools
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


@functools.cache
def names_in(module: Path) -> set[str]:
    """The classes and functions of a module, its constants, and methods and fields as `Class.name`."""
    found: set[str] = set()
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            for part in node.body:
                if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
                    found.add(f"{node.name}.{part.name}")
                elif isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                    found.add(f"{node.name}.{part.target.id}")
    return found


PAGES = [
    ROOT / "docs" / "architecture.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs" / "contribute").glob("*.md")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_method_that_a_page_names_is_there(page: Path) -> None:
    known = set().union(*(names_in(module) for module in PACKAGE.rglob("*.py")))
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"`([A-Z]\w*[a-z]\w*\.[a-z_]\w*)(?:\(\))?`", text))
    assert named <= known


def test_a_method_stands_in_the_file_that_its_row_names() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("|")]
    placed = [
        (path, name) for row in rows for path, name in re.findall(r"`([a-z_/]+\.py)`(?: \||,) `([A-Z]\w+\.\w+)`", row)
    ]
    assert len(placed) > 20
    for path, name in placed:
        modules = [place / path for place in (PACKAGE, PACKAGE / "engine") if (place / path).exists()]
        assert any(name in names_in(module) for module in modules), f"{name} is not in {path}"


_THREAD = re.compile(r"""(?:thread_name_prefix|name)=f?"(embedgate-[a-z-]+|parse-)|WorkQueue\("([a-z]+)\"""")


def test_every_thread_is_in_the_table() -> None:
    """Those of a gateway: clients and the toolkit have others."""
    table = PAGE.partition("## Threads and processes")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(embedgate-[a-z-]+|parse-)", table))
    started = {
        thread or f"embedgate-{queue}"
        for module in PACKAGE.rglob("*.py")
        if module.name != "client.py" and module.relative_to(PACKAGE).parts[0] not in ("cli", "toolkit")
        for thread, queue in _THREAD.findall(module.read_text(encoding="utf-8"))
    } - {"embedgate-"}
    assert named == started
