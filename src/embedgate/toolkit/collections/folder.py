"""Collections of a folder, each in a SQLite file of its own."""

from pathlib import Path

from embedgate.core.errors import UnsupportedOption
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
            raise UnsupportedOption("Files of SQLite have no approximate index.", param="approximate")
        return SqliteStore.create(self._path(facts.name), facts)

    def find(self, name: str) -> SqliteStore | None:
        """Open a file."""
        path = self._path(name)
        return SqliteStore(path) if path.is_file() else None

    def names(self) -> list[str]:
        """Of all files with that ending."""
        return sorted(path.name.removesuffix(_ENDING) for path in self._folder.glob(f"[!.]*{_ENDING}"))

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{_ENDING}"
