"""Every store that the conformance suite runs on, freshly made, and the places that tests of collections run at."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from embedgate.toolkit import Collections
from embedgate.toolkit.collections.shelves import shelf_at
from embedgate.toolkit.collections.sqlite import SqliteStore
from embedgate.toolkit.collections.store import Facts, Store

MakeStore = Callable[[int], Store]
PLACES = ["sqlite", "postgresql", "qdrant", "lancedb"]


def address_of(kind: str, request: pytest.FixtureRequest, folder: Path) -> str:
    """The address of a place without collections."""
    if kind == "postgresql":
        return str(request.getfixturevalue("postgres"))
    return f"{kind}:{folder / 'collections'}"


@pytest.fixture(params=PLACES)
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Collections:
    """The collections of a place of each kind."""
    return Collections(address_of(request.param, request, tmp_path))


@pytest.fixture(params=[*PLACES, "sqlite-from-disk", "sqlite-approximate"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeStore]:
    """Makes an empty store for vectors of some length.

    From disk: with vectors that are too many for the memory. Approximate: without an index yet.
    """
    made: list[Store] = []

    def make(dim: int) -> Store:
        facts = Facts.of_new("c", "m", "s", dim, None)
        if request.param == "sqlite-from-disk":
            SqliteStore.create(tmp_path / "c.collection", facts).close()
            made.append(SqliteStore(tmp_path / "c.collection", max_held_bytes=0))
        elif request.param == "sqlite-approximate":
            facts = Facts.of_new("c", "m", "s", dim, None, is_approximate=True)
            made.append(shelf_at(tmp_path).create(facts))
        else:
            made.append(shelf_at(address_of(request.param, request, tmp_path)).create(facts))
        return made[-1]

    yield make
    for store in made:
        store.close()
