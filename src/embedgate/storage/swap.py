"""Swap of a data folder's files for others, as a whole: a kill leaves all of the old ones or all of the new ones.

What is new is made in a draft inside of the folder, `.restoring`. It is decided by one rename, to `.restored`. From
then on whoever opens the folder next finishes it (`finish`), in steps that can each be repeated: first what is replaced
moves into the draft's `old` (`.restored`), then what is new moves out of its `new` (`.restored-moving`), last `old` is
kept under a name of its own, `replaced-` and the time. Everything stays on one disk, and the folder itself where it is,
which may be a mount.
"""

import os
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from embedgate.storage.folder import sync_folder, write_private

_DRAFT, _DECIDED, _MOVING = ".restoring", ".restored", ".restored-moving"
_NEW, _OLD, _PLAN = "new", "old", "plan.json"
_ASIDE = "replaced-"


class _Plan(Struct):
    """Names that go aside, where they are there; and folders whose files join those that are there."""

    aside: list[str]
    joined: list[str]


def begin(folder: Path) -> Path:
    """A new, empty draft; returns where the new files are put. Raises OSError."""
    drop(folder)
    new = folder / _DRAFT / _NEW
    for made in (new.parent, new.with_name(_OLD), new):
        made.mkdir(mode=0o700)
    return new


def drop(folder: Path) -> None:
    """Delete a draft that is not decided, if there is one."""
    shutil.rmtree(folder / _DRAFT, ignore_errors=True)


def decide(folder: Path, *, aside: Sequence[str], joined: Sequence[str] = ()) -> Path | None:
    """Put the draft's files in place; the folder's lock must be held. Returns the folder of what was replaced, if any.

    aside: names of files and folders that go aside. joined: folders of the draft whose files are added to the folder's.
    Raises OSError; if it is decided by then, `finish` goes on with it.
    """
    draft = folder / _DRAFT
    write_private(draft / _PLAN, msgspec.json.encode(_Plan([*aside], [*joined])).decode())
    for made in (*draft.rglob("*"), draft):
        if made.is_dir():
            sync_folder(made)
    draft.rename(folder / _DECIDED)
    sync_folder(folder)
    return finish(folder)


def finish(folder: Path) -> Path | None:
    """Finish a swap that was decided, if there is one; the folder's lock must be held. As `decide`."""
    decided, moving = folder / _DECIDED, folder / _MOVING
    if decided.is_dir():
        for name in _plan_of(decided).aside:
            if os.path.lexists(folder / name):
                (folder / name).rename(decided / _OLD / name)
        sync_folder(decided / _OLD)
        decided.rename(moving)
        sync_folder(folder)
    if not moving.is_dir():
        return None
    _move_in(moving / _NEW, folder, _plan_of(moving).joined)
    aside = None
    old = moving / _OLD
    if old.is_dir() and any(old.iterdir()):
        aside = _free_name(folder)
        old.rename(aside)
        sync_folder(folder)
    # The plan goes with the folder, last: without it a kill in between would leave what cannot be finished.
    moving.rename(folder / _DRAFT)
    drop(folder)
    return aside


def is_of_swaps(name: str) -> bool:
    """Whether a file of that name in a data folder is a draft, or what a swap has put aside."""
    return name.startswith(_ASIDE) or name in (_DRAFT, _DECIDED, _MOVING)


def _plan_of(draft: Path) -> _Plan:
    return msgspec.json.decode((draft / _PLAN).read_bytes(), type=_Plan)


def _move_in(new: Path, folder: Path, joined: Sequence[str]) -> None:
    for path in new.iterdir():
        target = folder / path.name
        if path.name not in joined:
            path.rename(target)
            continue
        target.mkdir(mode=0o700, exist_ok=True)
        for file in path.iterdir():
            file.rename(target / file.name)
        sync_folder(target)
    sync_folder(folder)


def _free_name(folder: Path) -> Path:
    stem = f"{_ASIDE}{datetime.now(UTC):%Y%m%d-%H%M%S}"
    n, place = 1, folder / stem
    while place.exists():
        n += 1
        place = folder / f"{stem}-{n}"
    return place
