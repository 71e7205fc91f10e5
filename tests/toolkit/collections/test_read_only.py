"""A collection in a folder that this user may not write is searched, and says so where it is to be changed."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from counting_embedder import Counting, records
from embedgate.toolkit import Collection, Collections

_NOBODY = 65_534


@contextmanager
def without_rights(folder: Path) -> Iterator[None]:
    """As a user who may read the folder and its files, and write none of them."""
    for file in folder.iterdir():
        file.chmod(0o444)
    folder.chmod(0o555)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(_NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        folder.chmod(0o755)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can reach, unlike those of pytest."""
    made = Path(tempfile.mkdtemp(prefix="read-only-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def test_what_cannot_be_written_is_searched_and_not_changed(folder: Path) -> None:
    with Collections(folder).create("notes", Counting()) as made:
        made.add(records("one", "two", "three"))
    with without_rights(folder):
        with Collections(folder).open("notes", Counting()) as notes:
            assert [found.text for found in notes.search("two", 1, hybrid=True)] == ["two"]
            assert [item.text for item in notes.items()] == ["one", "two", "three"]
            notes.check_model()
            _refuses_changes(notes, folder)
        assert [name for name, found in Collections(folder).each() if isinstance(found, Collection)] == ["notes"]
    assert [file.name for file in folder.iterdir()] == ["notes.collection"]
    with Collections(folder).open("notes", Counting()) as notes:
        assert len(notes) == 3


def _refuses_changes(notes: Collection, folder: Path) -> None:
    first = next(notes.items()).id
    for change in (lambda: notes.delete([first]), lambda: notes.add(records("four"))):
        with pytest.raises(PermissionError, match="Permission denied") as refused:
            change()
        assert refused.value.filename == str(folder / "notes.collection")


def test_changes_that_only_the_log_has_are_not_passed_over(folder: Path) -> None:
    with Collections(folder).create("notes", Counting()) as writer:
        writer.add(records("one"))
        crashed = folder / "crashed"
        crashed.mkdir()
        for file in folder.glob("notes.collection*"):
            if not file.name.endswith("-shm"):
                shutil.copy(file, crashed)
    with without_rights(crashed), pytest.raises(PermissionError, match="Permission denied"):
        Collections(crashed).open("notes", Counting())
