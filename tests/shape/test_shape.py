"""What CONVENTIONS.md asks of the code and no other tool checks: sizes, names, docstrings, imports without effects."""

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedgate.toolkit import libraries

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "embedgate"
MODULES = sorted(SOURCE.rglob("*.py"))
MAX_MODULE_LINES = 500
MAX_FUNCTION_LINES = 60
SHAPELESS_NAMES = {"utils", "helpers", "common", "misc"}

# Each has a bracket somewhere, so that this file does not find itself.
UNWANTED = re.compile(
    r"""(?<![\w.])/(?:wor[k]|roo[t]|hom[e]/\w+|User[s]/\w+)/        # folders of one machine
    | \b(?:pyp[i]\.org|pythonhoste[d]\.org|registry\.npmj[s]\.org)  # where packages come from is the reader's choice
    | \b(?:the\ user\ aske[d]|as\ requeste[d]|in\ this\ sessio[n]|as\ discusse[d]|the\ brie[f]\ says|as\ an\ A[I])\b
    """,
    re.VERBOSE | re.IGNORECASE,
)

Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@pytest.fixture(scope="module")
def trees() -> dict[Path, ast.Module]:
    """Every module of the package, parsed."""
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}


def place(path: Path, node: ast.AST | None = None) -> str:
    line = f":{node.lineno}" if isinstance(node, (ast.stmt, ast.expr)) else ""
    return f"{path.relative_to(ROOT)}{line}"


def test_modules_are_short_enough_to_be_read_at_once() -> None:
    lengths = {place(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {path: length for path, length in lengths.items() if length > MAX_MODULE_LINES} == {}


def test_functions_are_short_enough_to_be_seen_at_once(trees: dict[Path, ast.Module]) -> None:
    lengths = {
        f"{place(path, node)} {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES} == {}


def test_modules_are_named_for_a_subject() -> None:
    names = [path.stem for path in MODULES] + [path.name for path in SOURCE.rglob("*") if path.is_dir()]
    assert SHAPELESS_NAMES.isdisjoint(names)


def public_definitions(node: ast.AST, inside: str = "") -> Iterator[tuple[str, Documented]]:
    """Public classes and functions with their dotted names. What is inside something private, or a function, is not."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Documented) and not child.name.startswith("_"):
            yield f"{inside}{child.name}", child
            if isinstance(child, ast.ClassDef):
                yield from public_definitions(child, f"{inside}{child.name}.")


def test_every_module_and_every_public_name_says_what_it_is(trees: dict[Path, ast.Module]) -> None:
    silent = [place(path) for path, tree in trees.items() if not ast.get_docstring(tree)]
    silent += [
        f"{place(path, node)} {name}"
        for path, tree in trees.items()
        for name, node in public_definitions(tree)
        if not ast.get_docstring(node)
    ]
    assert silent == []


def test_only_the_settings_read_the_environment(trees: dict[Path, ast.Module]) -> None:
    readers = [
        place(path, node)
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv"})
        or (isinstance(node, ast.alias) and node.name in {"environ", "environb", "getenv"})
    ]
    assert {reader.partition(":")[0] for reader in readers} == {"src/embedgate/config.py"}


def test_imports_are_absolute(trees: dict[Path, ast.Module]) -> None:
    relative = [
        place(path, node)
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level > 0
    ]
    assert relative == []


def test_only_the_command_line_prints(trees: dict[Path, ast.Module]) -> None:
    printing = [
        place(path, node)
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert [line for line in printing if not line.startswith("src/embedgate/cli/")] == []


def test_the_project_names_no_machine_and_no_conversation() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    found = []
    for name in filter(None, listed.stdout.decode().split("\0")):
        file = ROOT / name
        text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
        found += [f"{name}: {match.group()}" for match in UNWANTED.finditer(text)]
    assert found == []


def test_every_test_file_has_a_name_of_its_own() -> None:
    own = [path.name for path in (ROOT / "tests").rglob("*.py") if "node_modules" not in path.parts]
    shared = {name: n for name, n in Counter(own).items() if n > 1 and name != "conftest.py"}
    assert shared == {}


def run_python(code: str, *arguments: str) -> str:
    """What the code prints, run by an interpreter of its own."""
    # -B: writing bytecode would count as opening files.
    command = [sys.executable, "-B", "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, check=False, cwd=ROOT, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_loads_no_engine_no_database_and_no_server() -> None:
    heavy = {"onnxruntime", "onnx", "sqlalchemy", "alembic", "uvicorn", "starlette", "pydantic", "pyreqwest", "typer"}
    heavy |= {"numpy", "scipy", "sklearn", "pyarrow", "matplotlib", "openTSNE", "ftfy", "rich", "usearch"}
    loaded = run_python("import embedgate, sys; print(*sys.modules)").split()
    assert heavy.isdisjoint(loaded)


def test_a_start_loads_nothing_that_only_some_starts_need() -> None:
    for_help = run_python("import embedgate.cli.main, sys; print(*sys.modules)").split()
    assert {"msgspec", "numpy", "sqlalchemy", "pydantic", "uvicorn", "rich"}.isdisjoint(for_help)
    serving = run_python("import embedgate.server.serve, embedgate.wiring, sys; print(*sys.modules)").split()
    assert {"cryptography.x509", "sqlalchemy.dialects.postgresql", "alembic", "onnxruntime"}.isdisjoint(serving)


def test_what_the_toolkit_stands_on_is_imported_when_it_is_used() -> None:
    alone = run_python("import sys; print(*sys.modules)").split()
    loaded = run_python("import embedgate, embedgate.toolkit, sys; print(*sys.modules)").split()
    assert len(set(loaded) - set(alone)) < 100  # 32 of the standard library and ours were seen
    modules = [path.stem for path in (SOURCE / "toolkit").glob("*.py") if path.stem != "__init__"]
    everything = ", ".join(f"embedgate.toolkit.{name}" for name in modules)
    loaded = run_python(f"import {everything}, sys; print(*sys.modules)").split()
    assert {*libraries.EXTRAS, "rich", "onnxruntime", "tokenizers"}.isdisjoint(loaded)


IMPORT_EVERYTHING = """
import importlib, os, sys, threading

effects = []

def watch(event, arguments):
    if event in ("socket.bind", "socket.connect", "subprocess.Popen", "os.mkdir", "sqlite3.connect"):
        effects.append(event)
    elif event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        effects.append(f"open {arguments[0]} for writing")

sys.addaudithook(watch)
for name in sys.argv[1:]:
    importlib.import_module(name)
effects += [f"thread {thread.name}" for thread in threading.enumerate() if thread is not threading.main_thread()]
print("\\n".join(effects))
"""


def test_importing_every_module_starts_nothing() -> None:
    # Alembic runs its scripts itself; they are not modules to import.
    scripts = SOURCE / "storage" / "migrations"
    relative = [path.relative_to(SOURCE.parent) for path in MODULES if scripts not in path.parents]
    names = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in relative]
    assert run_python(IMPORT_EVERYTHING, *names).strip() == ""


def test_the_conventions_name_the_layers_of_the_import_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (layers,) = (contract["layers"] for contract in contracts if contract["name"] == "Layers")
    rungs = [", ".join(f"`{name}`" for name in layer.split(" | ")) for layer in layers if layer != "__main__"]
    assert f"Imports point downward only: {' → '.join(rungs)}." in (ROOT / "CONVENTIONS.md").read_text(encoding="utf-8")
