"""Collections of a folder: making, opening, listing and dropping them by name."""

import re
from collections.abc import Iterator
from pathlib import Path

from embedgate.core.errors import GatewayError, InvalidInput, UnknownEntity
from embedgate.core.ports import Embedder
from embedgate.toolkit.collections.collection import Collection
from embedgate.toolkit.collections.sqlite import SqliteStore
from embedgate.toolkit.collections.store import Store

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_ENDING = ".collection"


class Collections:
    """The collections of one folder, each in a file of its own."""

    def __init__(self, folder: Path) -> None:
        """folder: made with the first collection."""
        self._folder = folder

    def create(self, name: str, embedder: Embedder, *, wanted_dim: int | None = None) -> Collection:
        """Make an empty collection for the vectors of an embedder.

        wanted_dim: what the embedder was asked for, to be asked again. Raises InvalidInput for a name that is no
        name for a file, Conflict if it is taken, and what the embedder raises.
        """
        path = self._path(name)
        # What was asked for may be more than the model has: a vector shows what is.
        dim = embedder.dim if wanted_dim is None else int(embedder.embed(["dimension"]).shape[1])
        facts = (embedder.model, embedder.space, dim, wanted_dim)
        return Collection(SqliteStore.create(path, name, *facts), embedder)

    def open(self, name: str, embedder: Embedder | None = None) -> Collection:
        """The collection of that name. Raises UnknownEntity, which names those that there are."""
        return Collection(self.open_store(name), embedder)

    def open_store(self, name: str) -> Store:
        """The store of the collection of that name. Raises UnknownEntity."""
        path = self._path(name)
        if not path.is_file():
            names = ", ".join(self.names()) or "none yet"
            raise UnknownEntity(f"There is no collection {name!r}. There are: {names}.")
        return SqliteStore(path)

    def names(self) -> list[str]:
        """The names of all collections, in order."""
        return sorted(path.name.removesuffix(_ENDING) for path in self._folder.glob(f"[!.]*{_ENDING}"))

    def each(self) -> Iterator[tuple[str, Collection | Exception]]:
        """All collections with their names, one open at a time; the error of one that cannot be opened."""
        for name in self.names():
            try:
                collection = self.open(name)
            except (GatewayError, OSError) as error:
                yield name, error
                continue
            with collection:
                yield name, collection

    def drop(self, name: str) -> None:
        """Delete a collection, vectors and all. Raises UnknownEntity."""
        self.open_store(name).destroy()

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise InvalidInput(
                f"{name!r} is no name for a collection: letters, digits, points, _ and - are allowed, 64 at most, with "
                "a letter or a digit first.",
                param="name",
            )
        return self._folder / f"{name}{_ENDING}"
