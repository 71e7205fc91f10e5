"""Files of approximate indexes beside a collection: found by name, replaced as a whole, and deletable at any time.

A name tells the collection by the moment at which it was made, the generation, the last row that is indexed, and the
size: `notes.collection.64f1c2a-1-5000-2096328.usearch`. A file that its name does not fit is not looked at: one that
was cut short would end the process that maps it into memory.
"""

import errno
import os
import re
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from embedgate.core.errors import DependencyMissing
from embedgate.inference.extras import import_extra
from embedgate.toolkit.libraries import library

_CONNECTIVITY = 32
_EXPANSION_ADD = 128
"""Twice the graph and the time to build that 16 and 64 take, which leave one in eight of the nearest of a million
vectors out of reach, however long a search is."""
EXPANSION_SEARCH = 256
"""Four times what usearch takes: of 10,000 vectors of 64 true dimensions it finds 98 % of the ten nearest, not 80 %."""
_NAME = re.compile(r"\.([0-9a-f]+)-(\d+)-(\d+)-(\d+)\.usearch")


def usearch() -> ModuleType:
    """The module of usearch. Raises DependencyMissing, which names the extra.

    Its wheel for Linux has a C++ library of its own, with which onnxruntime ends the process if it is imported later.
    """
    with suppress(DependencyMissing):
        import_extra("onnxruntime", "local")
    return library("usearch.index")


class Indexed(NamedTuple):
    """An index and the last row of the table that it has seen."""

    index: Any
    last_row: int


class IndexFiles:
    """The files of all indexes of one collection."""

    def __init__(self, path: Path, created_at: datetime) -> None:
        """path: of the collection. Raises DependencyMissing."""
        self._library = usearch()
        self._path = path
        self._mark = f"{int(created_at.timestamp() * 1e6):x}"
        self._opened: dict[int, tuple[Path, Indexed]] = {}

    def new(self, dim: int) -> Indexed:
        """An empty index of vectors of unit length, in one byte per number: true scores are computed from the table.

        With two bytes it takes twice the time and the memory, and finds the same.
        """
        index = self._library.Index(
            ndim=dim, metric="ip", dtype="i8", connectivity=_CONNECTIVITY, expansion_add=_EXPANSION_ADD
        )
        return Indexed(index, 0)

    def open(self, number: int, *, for_changes: bool = False) -> Indexed | None:
        """The latest index of a generation; None if there is none that can be read.

        It stays in its file, of which the machine keeps in memory what it can spare. for_changes: read it whole.
        """
        found = [(last_row, path) for path, each, last_row in self._list() if each == number and _is_whole(path)]
        if not found:
            return None
        last_row, path = max(found)
        known = None if for_changes else self._opened.get(number)
        if known is not None and known[0] == path:
            return known[1]
        try:
            index = self._library.Index.restore(path, view=not for_changes)
        except (RuntimeError, ValueError, OSError):  # damaged, or deleted just now
            return None
        if index is None:
            return None
        index.expansion_add, index.expansion_search = _EXPANSION_ADD, EXPANSION_SEARCH
        if not for_changes:
            self._opened[number] = (path, Indexed(index, last_row))
        return Indexed(index, last_row)

    def save(self, number: int, indexed: Indexed) -> None:
        """Put an index in the place of the earlier ones of its generation. Raises OSError."""
        draft = self._path.with_name(f".{self._path.name}.{self._mark}-{number}.{os.getpid()}")
        name = f"{self._path.name}.{self._mark}-{number}-{indexed.last_row}"
        try:
            indexed.index.save(draft)
            with draft.open("rb") as file:
                os.fsync(file.fileno())
            path = draft.replace(self._path.with_name(f"{name}-{draft.stat().st_size}.usearch"))
        except (RuntimeError, ValueError) as error:  # what usearch makes of a full disk
            said = f"the approximate index cannot be written; the texts are kept: {error}"
            raise OSError(errno.EIO, said, str(draft)) from error
        finally:
            draft.unlink(missing_ok=True)
        self.forget(number, but=path)

    def forget(self, number: int | None = None, but: Path | None = None) -> None:
        """Delete the indexes of one generation, or of all."""
        self._opened.clear()
        for path, each, _ in self._list():
            if path != but and number in (each, None):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of what is open."""
        self._opened.clear()

    def size_bytes(self) -> int:
        """Of all files."""
        total = 0
        for path, _, _ in self._list():
            with suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    def _list(self) -> list[tuple[Path, int, int]]:
        """Files with the numbers of their generations and their last rows."""
        found = []
        for path in self._path.parent.glob(f"{self._path.name}.*.usearch"):
            match = _NAME.fullmatch(path.name, len(self._path.name))
            if match and match[1] == self._mark:
                found.append((path, int(match[2]), int(match[3])))
        return found


def _is_whole(path: Path) -> bool:
    """Whether a file has the size that its name tells."""
    return path.is_file() and path.stat().st_size == int(path.stem.rpartition("-")[2])
