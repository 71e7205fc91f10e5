"""What pyproject.toml asks for: every dependency is used, and uvicorn is bounded to the versions that are tested."""

import ast
import functools
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENTS = [
    Requirement(line)
    for line in (
        *PROJECT["dependencies"],
        *(line for extra in PROJECT["optional-dependencies"].values() for line in extra),
    )
]
UVICORN = next(requirement for requirement in REQUIREMENTS if requirement.name == "uvicorn")


def words_of(module: Path) -> Iterator[str]:
    """The modules that a file imports, and its strings: some packages are imported by name, or only when needed."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@functools.cache
def used() -> set[str]:
    """The first part of each such word in the package."""
    return {word.partition(".")[0] for module in (ROOT / "src").rglob("*.py") for word in words_of(module)}


installed = functools.cache(packages_distributions)
"""The distributions of each module. It reads the files of all of them."""


@pytest.mark.parametrize("name", sorted({requirement.name for requirement in REQUIREMENTS} - {"embedgate"}))
def test_every_dependency_is_used(name: str) -> None:
    wanted = name.lower().replace("_", "-")
    modules = {
        module
        for module, distributions in installed().items()
        if wanted in {distribution.lower().replace("_", "-") for distribution in distributions}
    }
    if not modules:
        pytest.skip(f"{name} is not installed for this version of Python")
    assert modules & used(), f"nothing in src imports {name}; remove it from pyproject.toml"


def test_the_locked_uvicorn_is_the_newest_that_is_allowed() -> None:
    """Private parts of uvicorn are overridden, so a newer version is allowed only after the suite has run on it."""
    locked = Version(version("uvicorn"))
    assert locked in UVICORN.specifier
    assert Version(f"{locked.major}.{locked.minor + 1}") not in UVICORN.specifier


def test_the_oldest_uvicorn_that_is_allowed_is_tested() -> None:
    """`make test-oldest` reads the lower bound from pyproject.toml in the way that is repeated here."""
    (oldest,) = re.findall(r'"uvicorn>=([0-9.]+),', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert Version(oldest) in UVICORN.specifier
    assert "make test-oldest" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
