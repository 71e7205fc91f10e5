"""Collections of a folder, each in a SQLite file of its own."""

from pathlib import Path

from embedgate.toolkit.collections.index_files import usearch
from embedgate.toolkit.collections.sqlite import SqliteStore
from embedgate.toolkit.collections.store import Facts, Shelf

_ENDING = ".collection"


class Folder(Shelf):
    """The collections of one folder."""

    def __init__(self, folder: Path) -> None:
        """folder: made with the first collection."""
        self._folder = folder

    def create(self, facts: Facts) -> SqliteStore:
        """Make a file."""
        if facts.is_approximate:
            usearch()  # else there would be a file that cannot be opened
        SqliteStore.create(self._path(facts.name), facts).close()
        return _opened(self._path(facts.name), is_approximate=facts.is_approximate)

    def find(self, name: str) -> SqliteStore | None:
        """Open a file."""
        path = self._path(name)
        if not path.is_file():
            return None
        store = SqliteStore(path)
        if not store.facts().is_approximate:
            return store
        store.close()
        return _opened(path, is_approximate=True)

    def names(self) -> list[str]:
        """Of all files with that ending."""
        found = (path for path in self._folder.glob(f"[!.]*{_ENDING}") if path.is_file())
        return sorted(path.name.removesuffix(_ENDING) for path in found)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{_ENDING}"


def _opened(path: Path, *, is_approximate: bool) -> SqliteStore:
    if not is_approximate:
        return SqliteStore(path)
    from embedgate.toolkit.collections.approximate import ApproximateStore

    return ApproximateStore(path)
