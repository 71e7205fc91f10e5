"""The disk tier while its files are open: a few generations, the youngest being filled, the oldest dropped for room.

Every process on the folder reads without a lock and changes things under the lock of the folder, which ends with its
holder. Dropping deletes files; their room is free when the other processes have followed, at once or, idle, in seconds.
Which failures are worth another try is decided elsewhere: everything here raises.
"""

import contextlib
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from embedgate.observe import events
from embedgate.storage.cache.files import Damaged
from embedgate.storage.cache.generation import (
    Generation,
    Rejected,
    capacity_of,
    create_generation,
    fits,
    max_group,
)
from embedgate.storage.cache.record import Entry, Record, encode, record_bytes
from embedgate.storage.cache.state import State, StateFile, create_state
from embedgate.storage.cache.table import probes
from embedgate.storage.folder import locked

GENERATIONS = 8
_STATE = "state"
_GENERATION = re.compile(r"generation-(\d{10})")
_DROPPED = "dropped"
_DAMAGED = "damaged"
_RESERVE_BYTES = 262_144  # for everything but generations
_GRAIN_BYTES = 65_536  # a multiple of the blocks of file systems


class Found(NamedTuple):
    """What the disk has of some keys: entries, and places whose record failed its checksum."""

    entries: dict[bytes, Entry]
    rejected: list[Rejected]


class Store:
    """An open folder of generations. All methods raise OSError or Damaged.

    `state`, `find` and `usage` may be called from any thread, and raise ValueError once the store is closed; all else
    by one thread at a time.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Open the folder, making it if it is missing. What is not whole is set aside, with an event.

        max_bytes: of all files together; what exceeds it is dropped. Raises ConfigError if the folder cannot be used.
        """
        self.evictions = 0
        self._folder = folder
        self._max_bytes = max_bytes - _RESERVE_BYTES
        self._capacity_bytes = self._max_bytes // GENERATIONS // _GRAIN_BYTES * _GRAIN_BYTES
        self._generations: tuple[Generation, ...] = ()
        with locked(folder):
            for old in folder.glob(f"{_DAMAGED}*"):
                _delete(old)
            self._state_file = self._open_state()
            self._state = State()
            try:
                self._make_room(0)
                self._adopt()
            except BaseException:
                self.close()
                raise

    def state(self) -> State:
        """Which generations live, as last decided by any process."""
        return self._state_file.read()

    def is_in_place(self) -> bool:
        """Whether the folder is still the one that was opened."""
        return self._state_file.is_in_place()

    def find(self, keys: Iterable[bytes], state: State) -> Found:
        """The newest entry of each key in the generations that live by `state`."""
        missing = probes(keys)
        found = Found({}, [])
        for generation in self._generations:
            if not missing:
                break
            if state.oldest <= generation.number <= state.youngest:
                try:
                    entries, rejected = generation.find(missing)
                except ValueError:  # closed meanwhile, because it was dropped
                    continue
                if entries or rejected:
                    found.entries.update(entries)
                    found.rejected.extend(rejected)
                    settled = entries.keys() | {reject.key for reject in rejected}
                    missing = [probe for probe in missing if probe[0] not in settled]
        return found

    def follow(self, rejected: Sequence[Rejected]) -> None:
        """Open and close generations as any process has decided, and forget places that lead to wrong records."""
        with locked(self._folder):
            self._adopt()
            for reject in rejected:
                for generation in self._generations:
                    if generation.number == reject.generation:
                        generation.remove(reject)

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

        Entries from before the last clear are passed over.
        """
        with locked(self._folder):
            self._adopt()
            records = [(key, encode(entry)) for key, entry in group if entry.generation >= self._state.oldest]
            return (self._append(records) or self._append_to_new(records)) if records else 0

    def clear(self) -> None:
        """Forget everything, for all processes."""
        with locked(self._folder):
            old = self._state_file.read()
            # One number is left out, so that an entry on its way from before cannot be taken for one from after.
            self._state_file.write(State(old.clears + 1, old.youngest + 2, old.youngest + 1))
            self._make_room(0)
            self._adopt()

    def usage(self) -> tuple[int, int]:
        """Entries and bytes of all generations. An entry that is in two of them counts twice."""
        generations = self._generations
        return sum(g.n_entries() for g in generations), sum(g.used_bytes() for g in generations)

    def close(self) -> None:
        """Let go of all files. Whoever reads meanwhile finds nothing more."""
        for generation in self._generations:
            generation.close()
        self._generations = ()
        self._state_file.close()

    # Everything below runs under the lock of the folder.

    def _open_state(self) -> StateFile:
        path = self._folder / _STATE
        try:
            return StateFile(path)
        except FileNotFoundError:
            pass
        except Damaged as damage:
            events.CACHE_SET_ASIDE.emit(what=_STATE, reason=str(damage))
            path.rename(self._folder / f"{_DAMAGED}-{_STATE}")
        # Whatever generations there are may have been cleared; their numbers are not used again.
        newest = max(self._on_disk(), default=0)
        create_state(path, State(0, newest + 1, newest))
        return StateFile(path)

    def _adopt(self) -> None:
        """Have those generations open that live."""
        state = self._state_file.read()
        if state == self._state:
            return
        kept = {g.number: g for g in self._generations if state.oldest <= g.number <= state.youngest}
        for number in list(self._on_disk()):
            if state.oldest <= number <= state.youngest and number not in kept:
                try:
                    kept[number] = Generation(self._path(number), number)
                except Damaged as damage:
                    self._set_aside(number, str(damage))
        gone = [generation for generation in self._generations if generation.number not in kept]
        self._generations = tuple(kept[number] for number in sorted(kept, reverse=True))
        self._state = state
        for generation in gone:
            generation.close()

    def _append(self, records: Sequence[tuple[bytes, Record]]) -> int:
        """Append to the youngest generation. 0 if it is full, not there, or damaged."""
        youngest = self._generations[0] if self._generations else None
        if youngest is None or youngest.number != self._state.youngest:
            return 0
        try:
            return youngest.append(records)
        except Damaged as damage:
            self._generations = self._generations[1:]
            youngest.close()
            self._set_aside(youngest.number, str(damage))
            return 0

    def _append_to_new(self, records: Sequence[tuple[bytes, Record]]) -> int:
        """Begin a new generation, and append to it."""
        state = self._make_room(self._capacity_bytes)
        create_generation(self._path(state.youngest + 1), self._capacity_bytes)
        self._state_file.write(state._replace(youngest=state.youngest + 1))
        self._adopt()
        return self._append(records)

    def _make_room(self, room_bytes: int) -> State:
        """Delete generations that do not live, then the oldest until all keep the bound with `room_bytes` to spare."""
        state = self._state_file.read()
        for left_over in self._folder.glob(f"{_DROPPED}*"):
            _delete(left_over)
        live = sorted(number for number in self._on_disk() if state.oldest <= number <= state.youngest)
        for number in set(self._on_disk()).difference(live):
            self._drop(number)
        capacities = {number: capacity_of(self._path(number)) for number in live}
        aside = sum(capacity_of(folder) for folder in self._folder.glob(f"{_DAMAGED}-*") if folder.is_dir())
        oldest = state.oldest
        while capacities and aside + room_bytes + sum(capacities.values()) > self._max_bytes:
            dropped = min(capacities)
            del capacities[dropped]
            self.evictions += sum(
                generation.n_entries() for generation in self._generations if generation.number == dropped
            )
            self._drop(dropped)
            oldest = dropped + 1
        if oldest != state.oldest:
            state = state._replace(oldest=oldest)
            self._state_file.write(state)
        return state

    def _drop(self, number: int) -> None:
        # Renamed first: what a killed process leaves is not taken for a generation.
        path = self._path(number)
        _delete(path.rename(path.with_name(f"{_DROPPED}-{number}")))

    def _set_aside(self, number: int, reason: str) -> None:
        """Keep a damaged generation for whoever wants to look at it, until the next start or the next damage."""
        events.CACHE_SET_ASIDE.emit(what=f"generation {number}", reason=reason)
        for old in self._folder.glob(f"{_DAMAGED}*"):
            _delete(old)
        path = self._path(number)
        with contextlib.suppress(FileNotFoundError):  # another process has set it aside
            path.rename(path.with_name(f"{_DAMAGED}-{number}"))

    def _on_disk(self) -> Iterator[int]:
        """Numbers of the generations in the folder, alive or not."""
        for path in self._folder.iterdir():
            if match := _GENERATION.fullmatch(path.name):
                yield int(match.group(1))

    def _path(self, number: int) -> Path:
        return self._folder / f"generation-{number:010}"


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
