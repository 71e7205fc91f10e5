"""Every store that the conformance suite runs on, freshly made."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from embedgate.toolkit.collections.sqlite import SqliteStore
from embedgate.toolkit.collections.store import Store

MakeStore = Callable[[int], Store]


def _sqlite(folder: Path, dim: int) -> Store:
    return SqliteStore.create(folder / "c.collection", "c", "m", "s", dim, None)


def _sqlite_from_disk(folder: Path, dim: int) -> Store:
    """The same, with vectors that are too many to be held in memory."""
    _sqlite(folder, dim).close()
    return SqliteStore(folder / "c.collection", max_held_bytes=0)


MAKERS = {"sqlite": _sqlite, "sqlite-from-disk": _sqlite_from_disk}


@pytest.fixture(params=MAKERS)
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeStore]:
    """Makes an empty store for vectors of some length."""
    made: list[Store] = []

    def make(dim: int) -> Store:
        made.append(MAKERS[request.param](tmp_path, dim))
        return made[-1]

    yield make
    for store in made:
        store.close()
