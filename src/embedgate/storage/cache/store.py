"""The disk tier while its files are open: a few generations, the youngest being filled, the oldest dropped for room.

Dropping deletes files, so that room is free at once, whatever other processes still read. Every process on the folder
reads and writes; what must not happen twice (making and dropping a generation) is done under the lock of `Control`.
Which failures are worth another try is decided elsewhere: everything here raises.
"""

import contextlib
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import lmdb

from embedgate import telemetry
from embedgate.storage.cache.control import CONTROL_BYTES, Control, State
from embedgate.storage.cache.environment import Damaged
from embedgate.storage.cache.generation import (
    Generation,
    Rejected,
    capacity_of,
    create_generation,
    fits,
    max_group,
)
from embedgate.storage.cache.record import Entry, encode, record_bytes
from embedgate.storage.folder import locked

GENERATIONS = 8
_CONTROL = "control"
_GENERATION = re.compile(r"generation-(\d{10})")
_DROPPED = "dropped"
_DAMAGED = "damaged"
_MAX_ATTEMPTS = 4  # other processes may fill a generation before the one that has begun it writes
_GRAIN_BYTES = 65_536  # a multiple of every page size


class Found(NamedTuple):
    """What the disk has of some keys: entries, and index entries whose record failed its checksum."""

    entries: dict[bytes, Entry]
    rejected: list[Rejected]


class Store:
    """An open folder of generations.

    `state` and `find` may be called from any thread, `clear` too; all else belongs to one thread. All raise OSError,
    Damaged or lmdb.Error.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Open the folder, making it if it is missing. What is not whole is set aside, with an event.

        max_bytes: of all files together. What exceeds it is dropped.
        """
        self.evictions = 0
        self._folder = folder
        self._max_bytes = max_bytes - CONTROL_BYTES
        self._capacity_bytes = self._max_bytes // GENERATIONS // _GRAIN_BYTES * _GRAIN_BYTES
        self._generations: tuple[Generation, ...] = ()
        self._state = State()
        with locked(folder):
            self._control = self._open_control()
        try:
            self._control.update(self._tidied)
            self.adopt()
        except BaseException:
            self.close()
            raise

    def state(self) -> State:
        """Which generations live, as last decided by any process."""
        return self._control.read()

    def is_in_place(self) -> bool:
        """Whether the folder is still the one that was opened."""
        return self._control.is_in_place()

    def find(self, keys: Iterable[bytes], state: State) -> Found:
        """The newest entry of each key in the generations that live by `state`."""
        missing = list(keys)
        found = Found({}, [])
        for generation in self._generations:
            if not missing:
                break
            if not state.oldest <= generation.number <= state.youngest or generation.is_damaged:
                continue
            try:
                entries, rejected = generation.find(missing)
            except Damaged:
                generation.is_damaged = True  # until `adopt` sets it aside
                continue
            found.entries.update(entries)
            found.rejected.extend(rejected)
            settled = entries.keys() | {reject.key for reject in rejected}
            missing = [key for key in missing if key not in settled]
        return found

    def adopt(self) -> None:
        """Open and close generations as any process has decided, and set aside those that were found damaged."""
        state = self._control.read()
        damaged = [generation for generation in self._generations if generation.is_damaged]
        if state == self._state and not damaged:
            return
        kept = {g.number: g for g in self._generations if state.oldest <= g.number <= state.youngest}
        for generation in damaged:
            self._set_aside(generation.number, "the index is broken")
            kept.pop(generation.number, None)
        for number, _ in list(self._on_disk()):
            if state.oldest <= number <= state.youngest and number not in kept:
                kept.update(self._opened(number))
        gone = [generation for generation in self._generations if kept.get(generation.number) is not generation]
        self._generations = tuple(kept[number] for number in sorted(kept, reverse=True))
        self._state = state
        for generation in gone:
            generation.close()

    def groups(self, items: Sequence[tuple[bytes, Entry]]) -> Iterator[list[tuple[bytes, Entry]]]:
        """The items that can be stored at all, in groups that can be appended at once."""
        max_records, max_bytes = max_group(self._capacity_bytes)
        group: list[tuple[bytes, Entry]] = []
        size = 0
        for key, entry in items:
            length = record_bytes(entry)
            if not fits(length, self._capacity_bytes):
                continue
            if group and (len(group) == max_records or size + length > max_bytes):
                yield group
                group, size = [], 0
            group.append((key, entry))
            size += length
        if group:
            yield group

    def append(self, group: Sequence[tuple[bytes, Entry]]) -> int:
        """Store a group of `groups`, making room if it must. Returns how many entries are now on disk.

        Entries from before the last clear are passed over, and so is a group that no generation takes.
        """
        for _ in range(_MAX_ATTEMPTS):
            self.adopt()
            records = self._records(group)
            if not records or self._append(records):
                return len(records)
            self._rotate()
        return 0

    def remove(self, rejected: Sequence[Rejected]) -> None:
        """Forget index entries that point to wrong records."""
        for reject in rejected:
            for generation in self._generations:
                if generation.number != reject.generation or generation.is_damaged:
                    continue
                try:
                    generation.remove(reject)
                except Damaged:
                    generation.is_damaged = True

    def clear(self) -> State:
        """Forget everything, for all processes. The state afterwards."""
        # One number is left out, so that an entry on its way from before the clear cannot be taken for a later one.
        state = self._control.update(lambda old: State(old.clears + 1, old.youngest + 2, old.youngest + 1))
        self._control.update(self._tidied)
        return state

    def usage(self) -> tuple[int, int]:
        """Entries and bytes of all generations. An entry that is in two of them counts twice."""
        usages = [generation.usage() for generation in self._generations if not generation.is_damaged]
        return sum(entries for entries, _ in usages), sum(size for _, size in usages)

    def close(self) -> None:
        """Let go of all files. Whoever reads meanwhile finds nothing more."""
        for generation in self._generations:
            generation.close()
        self._generations = ()
        self._control.close()

    def _open_control(self) -> Control:
        for old in self._folder.glob(f"{_DAMAGED}*"):
            _delete(old)
        path = self._folder / _CONTROL
        try:
            return Control(path)
        except Damaged as damage:
            telemetry.CACHE_SET_ASIDE.emit(what=_CONTROL, reason=str(damage))
            path.rename(self._folder / f"{_DAMAGED}-{_CONTROL}")
            path.with_name(f"{_CONTROL}-lock").unlink(missing_ok=True)
        control = Control(path)
        # Whatever generations there are may have been cleared; their numbers are not used again.
        newest = max((number for number, _ in self._on_disk()), default=0)
        control.update(lambda old: State(old.clears, newest + 1, newest))
        return control

    def _opened(self, number: int) -> dict[int, Generation]:
        """The generation by its number; nothing if it was dropped meanwhile, or is damaged."""
        try:
            return {number: Generation(self._path(number), number)}
        except FileNotFoundError:
            pass
        except Damaged as damage:
            self._set_aside(number, str(damage))
        return {}

    def _records(self, group: Sequence[tuple[bytes, Entry]]) -> list[tuple[bytes, bytes]]:
        return [(key, encode(entry)) for key, entry in group if entry.generation >= self._state.oldest]

    def _append(self, records: Sequence[tuple[bytes, bytes]]) -> bool:
        """Append to the youngest generation. False if it is full or not there."""
        youngest = self._generations[0] if self._generations else None
        if youngest is None or youngest.number != self._state.youngest:
            return False
        try:
            youngest.check_readers()
            return youngest.append(records)
        except Damaged:
            youngest.is_damaged = True
            return False

    def _rotate(self) -> None:
        """Begin a new generation, unless another process has done so since the state was adopted."""
        full = self._state.youngest

        def step(state: State) -> State:
            if state.youngest != full:
                return state
            tidied = self._tidied(state, room_bytes=self._capacity_bytes)
            create_generation(self._path(full + 1), self._capacity_bytes)
            return tidied._replace(youngest=full + 1)

        self._control.update(step)

    def _tidied(self, state: State, room_bytes: int = 0) -> State:
        """Delete generations that do not live, then the oldest until all keep the bound with `room_bytes` to spare.

        Runs under the lock of the control file.
        """
        for left_over in self._folder.glob(f"{_DROPPED}*"):
            _delete(left_over)
        live: list[tuple[int, int]] = []
        for number, capacity in sorted(self._on_disk()):
            if state.oldest <= number <= state.youngest:
                live.append((number, capacity))
            else:
                self._drop(number)
        aside = sum(capacity_of(folder) for folder in self._folder.glob(f"{_DAMAGED}*"))
        oldest = state.oldest
        while live and aside + room_bytes + sum(capacity for _, capacity in live) > self._max_bytes:
            number, _ = live.pop(0)
            self._drop(number)
            oldest = number + 1
        return state._replace(oldest=oldest)

    def _drop(self, number: int) -> None:
        for generation in self._generations:
            if generation.number == number:
                with contextlib.suppress(lmdb.Error, Damaged):  # the count is not worth a failure
                    self.evictions += generation.usage()[0]
        # Renamed first: nobody may open half of a generation that is being deleted.
        with contextlib.suppress(FileNotFoundError):
            _delete(self._path(number).rename(self._folder / f"{_DROPPED}-{number}"))

    def _set_aside(self, number: int, reason: str) -> None:
        """Keep one damaged generation for whoever wants to look at it, until the next start or the next damage."""
        telemetry.CACHE_SET_ASIDE.emit(what=f"generation {number}", reason=reason)

        def step(state: State) -> State:
            if self._path(number).exists():  # else another process was quicker
                for old in self._folder.glob(f"{_DAMAGED}*"):
                    _delete(old)
                self._path(number).rename(self._folder / f"{_DAMAGED}-{number}")
            return state

        self._control.update(step)

    def _on_disk(self) -> Iterator[tuple[int, int]]:
        """Numbers and capacities of the generations in the folder, alive or not."""
        for path in self._folder.iterdir():
            if match := _GENERATION.fullmatch(path.name):
                yield int(match.group(1)), capacity_of(path)

    def _path(self, number: int) -> Path:
        return self._folder / f"generation-{number:010}"


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
