"""A database without content, to copy into a data folder: making one takes most of the time of a short test."""

import functools
import tempfile
from pathlib import Path

from embedgate.storage.database import DATABASE_FILE, open_database


def write_empty_database(folder: Path) -> None:
    """Write what the first start would make of a folder, users and keys aside, unless there is one already."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = folder / DATABASE_FILE
    if not file.exists():
        file.touch(mode=0o600)
        file.write_bytes(_content())


@functools.cache
def _content() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        open_database(Path(folder)).close()
        return (Path(folder) / DATABASE_FILE).read_bytes()
