"""Collections of one place, by name: a folder of SQLite files, or the store that an address names."""

import re
from collections.abc import Iterator
from pathlib import Path

from embedgate.core.errors import GatewayError, InvalidInput, UnknownEntity
from embedgate.core.near_names import did_you_mean
from embedgate.core.ports import Embedder
from embedgate.toolkit.collections.collection import Collection
from embedgate.toolkit.collections.folder import Folder
from embedgate.toolkit.collections.store import Facts, Shelf, Store

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_ADDRESSES = "postgresql://..., http(s)://... of a Qdrant, qdrant:FOLDER, lancedb:FOLDER or sqlite:FOLDER"


def shelf_at(place: Path | str) -> Shelf:
    """The collections at an address, or of a folder as files of SQLite. Connects to nothing yet.

    Raises InvalidInput for an address of no store, DependencyMissing, which names the extra.
    """
    if isinstance(place, Path):
        return Folder(place)
    kind, _, rest = place.partition(":")
    if kind in {"postgresql", "postgres"} and rest.startswith("//"):
        from embedgate.toolkit.collections.postgresql import Database

        return Database(place)
    if kind in {"http", "https"} and rest.startswith("//"):
        from embedgate.toolkit.collections.qdrant import Qdrant

        return Qdrant.at(place)
    if not rest or kind not in {"qdrant", "lancedb", "sqlite"}:
        raise InvalidInput(f"{kind!r} names no store of collections. There are: {_ADDRESSES}.", param="store")
    folder = Path(rest).expanduser()
    if kind == "qdrant":
        from embedgate.toolkit.collections.qdrant import Qdrant

        return Qdrant.of_folder(folder)
    if kind == "lancedb":
        from embedgate.toolkit.collections.lance import LanceFolder

        return LanceFolder(folder)
    return Folder(folder)


class Collections:
    """The collections of one place."""

    def __init__(self, place: Path | str) -> None:
        """place: a folder, which is made with the first collection, or the address of a store.

        Addresses are postgresql://..., http(s)://... of a Qdrant, qdrant:FOLDER, lancedb:FOLDER and sqlite:FOLDER.
        Raises InvalidInput for any other, DependencyMissing, which names the extra.
        """
        self._shelf = shelf_at(place)

    def create(
        self, name: str, embedder: Embedder, *, wanted_dim: int | None = None, approximate: bool = False
    ) -> Collection:
        """Make an empty collection for the vectors of an embedder.

        wanted_dim: what the embedder was asked for, to be asked again. approximate: search by an approximate index,
        which `Collection.optimize` brings up to date. Raises InvalidInput for a name that is no name for a collection,
        Conflict if it is taken, UnsupportedOption if the store has no such index, and what the embedder raises.
        """
        _check_name(name)
        # What was asked for may be more than the model has: a vector shows what is.
        dim = embedder.dim if wanted_dim is None else int(embedder.embed(["dimension"]).shape[1])
        facts = Facts.of_new(name, embedder.model, embedder.space, dim, wanted_dim, is_approximate=approximate)
        return Collection(self._shelf.create(facts), embedder)

    def open(self, name: str, embedder: Embedder | None = None) -> Collection:
        """The collection of that name. Raises UnknownEntity, which names those that there are."""
        return Collection(self.open_store(name), embedder)

    def open_store(self, name: str) -> Store:
        """The store of the collection of that name. Raises UnknownEntity."""
        _check_name(name)
        store = self._shelf.find(name)
        if store is None:
            names = self.names()
            there = ", ".join(names) or "none yet"
            raise UnknownEntity(f"There is no collection {name!r}. {did_you_mean(name, names)}There are: {there}.")
        return store

    def names(self) -> list[str]:
        """The names of all collections, in order."""
        return self._shelf.names()

    def each(self) -> Iterator[tuple[str, Collection | GatewayError | OSError]]:
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


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{name!r} is no name for a collection: letters, digits, points, _ and - are allowed, 64 at most, with "
            "a letter or a digit first.",
            param="name",
        )
