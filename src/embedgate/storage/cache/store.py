"""The open folder of the disk tier: generations of records, the youngest written, the oldest evicted for room.

Owns the bound on their bytes, and which of them are live: one small file says it to all processes on the folder. Every
process reads without a lock, and writes under the lock of the folder, which the system releases when its holder dies.
Eviction deletes files; their blocks are free once the other processes have closed them, at once or, when idle, within
seconds. Does not handle failures.
"""

import contextlib
import functools
import re
import shutil
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from embedgate.observe import events
from embedgate.storage.cache.files import Damaged, MappedFile, create_file
from embedgate.storage.cache.generation import (
    Generation,
    Rejected,
    capacity_of,
    create_generation,
    fits,
    max_group,
)
from embedgate.storage.cache.record import Entry, Record, encode, record_bytes
from embedgate.storage.cache.table import TableView, locate
from embedgate.storage.folder import locked

GENERATIONS = 8
_STATE = "state"
_GENERATION = re.compile(r"generation-(\d{10})")
_DROPPED = "dropped"
_DAMAGED = "damaged"
_RESERVE_BYTES = 262_144  # for everything but generations
_GRAIN_BYTES = 65_536  # a multiple of the blocks of file systems
_STATE_RECORD = struct.Struct("<8sQQQI")
_STATE_MAGIC = b"egcache1"
_STATE_BYTES = 4096
_MAX_GENERATION = 1_000_000_000
"""Highest number of a generation, and of clears: one a second reaches it in thirty years."""


class State(NamedTuple):
    """Generations `oldest` to `youngest` are live, none if oldest > youngest. Numbers are never used again."""

    clears: int = 0
    oldest: int = 1
    youngest: int = 0


class StateFile:
    """The state file of one folder. `read` may be called on any thread."""

    def __init__(self, path: Path) -> None:
        """Open the file. Raises Damaged or OSError."""
        self._file = MappedFile(path)
        try:
            if self._file.size_bytes != _STATE_BYTES:
                raise Damaged(f"{path.name} has {self._file.size_bytes} bytes, not {_STATE_BYTES}")
            self.read()
        except BaseException:
            self._file.close()
            raise

    def read(self) -> State:
        """The state as any process wrote it last. Raises Damaged, also for a moment while another process writes."""
        return _unpack_state(self._file.map[: _STATE_RECORD.size])

    def write(self, state: State) -> None:
        """Replace the state and flush it. The caller holds the lock of the folder. Raises OSError."""
        self._file.write([_pack_state(state)], 0)
        self._file.sync()

    def is_in_place(self) -> bool:
        """Whether the path still names this file."""
        return self._file.is_in_place()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def create_state(path: Path, state: State) -> None:
    """Create the state file atomically. Raises OSError."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    create_file(draft, _STATE_BYTES, _pack_state(state))
    draft.rename(path)


def _pack_state(state: State) -> bytes:
    raw = _STATE_RECORD.pack(_STATE_MAGIC, *state, 0)[:-4]
    return raw + zlib.crc32(raw).to_bytes(4, "little")


@functools.lru_cache(maxsize=4)  # it is read before every look-up, and changes a few times a day
def _unpack_state(raw: bytes) -> State:
    magic, clears, oldest, youngest, checksum = _STATE_RECORD.unpack(raw)
    if magic != _STATE_MAGIC or checksum != zlib.crc32(raw[:-4]):
        raise Damaged("the state is of another format")
    if clears > _MAX_GENERATION or youngest > _MAX_GENERATION or not 0 < oldest <= youngest + 1:
        raise Damaged("the state has numbers that cannot be")
    return State(clears, oldest, youngest)


class Found(NamedTuple):
    """The result of a look-up on disk: entries by key, and the records that failed their checksum. Not modified."""

    entries: dict[bytes, Entry]
    rejected: list[Rejected]


_NOTHING = Found({}, [])


class Opened(NamedTuple):
    """The open generations, youngest first. Replaced as a whole, since other threads read it without a lock."""

    generations: tuple[Generation, ...]
    tables: tuple[TableView, ...]
    state: State

    @classmethod
    def of(cls, generations: Iterable[Generation], state: State) -> "Opened":
        """The generations that are live in `state`."""
        live = tuple(g for g in generations if state.oldest <= g.number <= state.youngest)
        return cls(live, tuple(generation.table.view() for generation in live), state)


class Store:
    """An open folder of generations. All methods raise OSError or Damaged.

    `state`, `find` and `usage` may be called on any thread, and raise ValueError once the store is closed. The rest is
    called by one thread at a time.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Open or create the folder. Sets damaged files aside, with an event, and evicts what exceeds the bound.

        max_bytes: of all files together. Raises ConfigError if the folder cannot be used.
        """
        self.evictions = 0
        self._folder = folder
        self._max_bytes = max_bytes - _RESERVE_BYTES
        self._capacity_bytes = self._max_bytes // GENERATIONS // _GRAIN_BYTES * _GRAIN_BYTES
        self._opened = Opened((), (), State())
        with locked(folder):
            for old in folder.glob(f"{_DAMAGED}*"):
                _delete(old)
            self._state_file = self._open_state()
            self.state: Callable[[], State] = self._state_file.read
            """Which generations are live, as any process wrote it last."""
            try:
                self._make_room(0)
                self._adopt()
            except BaseException:
                self.close()
                raise

    def is_in_place(self) -> bool:
        """Whether the folder is still the one that was opened."""
        return self._state_file.is_in_place()

    def find(self, keys: Sequence[bytes], state: State) -> Found:
        """Look keys up in the generations that are live in `state`: the newest entry of each key."""
        opened = self._opened
        if state != opened.state:  # changed by another process, and not followed yet
            opened = Opened.of(opened.generations, state)
        try:
            places = locate(opened.tables, keys)
            return _read(opened.generations, places) if places else _NOTHING
        except ValueError:  # a generation was evicted, and closed by another thread
            if opened is self._opened:
                raise
            return self.find(keys, self.state())

    def follow(self, rejected: Sequence[Rejected]) -> None:
        """Open and close generations to match the state, and remove rejected records from the index."""
        with locked(self._folder):
            self._adopt()
            for reject in rejected:
                for generation in self._opened.generations:
                    if generation.number == reject.generation:
                        generation.remove(reject)

    def groups(self, items: Sequence[tuple[bytes, Entry]]) -> Iterator[list[tuple[bytes, Entry]]]:
        """Split items into groups for `append`, leaving out those too large for a generation."""
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
        """Write a group of `groups`, evicting a generation if need be. Returns how many entries were written.

        Skips entries that were put before the last clear.
        """
        with locked(self._folder):
            self._adopt()
            records = [(key, encode(entry)) for key, entry in group if entry.generation >= self._opened.state.oldest]
            return (self._append(records) or self._append_to_new(records)) if records else 0

    def clear(self) -> None:
        """Delete every entry, for all processes."""
        with locked(self._folder):
            old = self._state_file.read()
            # Skips one number, so that `append` can tell entries that were queued before from those queued after.
            self._state_file.write(State(old.clears + 1, old.youngest + 2, old.youngest + 1))
            self._make_room(0)
            self._adopt()

    def usage(self) -> tuple[int, int]:
        """Entries and bytes of all generations. An entry that is in two of them counts twice."""
        generations = self._opened.generations
        return sum(g.n_entries() for g in generations), sum(g.used_bytes() for g in generations)

    def close(self) -> None:
        """Close all files. A look-up that runs meanwhile finds nothing more."""
        generations = self._opened.generations
        self._opened = Opened((), (), State())
        for generation in generations:
            generation.close()
        self._state_file.close()

    # The caller of everything below holds the lock of the folder.

    def _open_state(self) -> StateFile:
        path = self._folder / _STATE
        try:
            return StateFile(path)
        except FileNotFoundError:
            pass
        except Damaged as damage:
            events.CACHE_SET_ASIDE.emit(what=_STATE, reason=str(damage))
            path.rename(self._folder / f"{_DAMAGED}-{_STATE}")
        # The generations on disk may have been cleared, so none is live, and their numbers are not used again.
        newest = max((number for number in self._on_disk() if number < _MAX_GENERATION), default=0)
        create_state(path, State(0, newest + 1, newest))
        return StateFile(path)

    def _adopt(self) -> None:
        """Open the generations that are live, and close the others."""
        state = self._state_file.read()
        self._set_lost_aside()
        opened = self._opened
        if state == opened.state:
            return
        kept = {g.number: g for g in opened.generations if state.oldest <= g.number <= state.youngest}
        for number in list(self._on_disk()):
            if state.oldest <= number <= state.youngest and number not in kept:
                try:
                    kept[number] = Generation(self._path(number), number)
                except Damaged as damage:
                    self._set_aside(number, str(damage))
        self._opened = Opened.of((kept[number] for number in sorted(kept, reverse=True)), state)
        for generation in opened.generations:
            if generation.number not in kept:
                generation.close()

    def _set_lost_aside(self) -> None:
        """Let go of generations whose files were cut short while they were open."""
        generations, _, state = self._opened
        lost = [generation for generation in generations if generation.is_lost()]
        if lost:
            self._opened = Opened.of((generation for generation in generations if generation not in lost), state)
        for generation in lost:
            generation.close()
            self._set_aside(generation.number, "a file was cut short")

    def _append(self, records: Sequence[tuple[bytes, Record]]) -> int:
        """Append to the youngest generation. Returns 0 if it is full, missing or damaged."""
        generations, _, state = self._opened
        if not generations or generations[0].number != state.youngest:
            return 0
        youngest = generations[0]
        try:
            return youngest.append(records)
        except Damaged as damage:
            self._opened = Opened.of(generations[1:], state)
            youngest.close()
            self._set_aside(youngest.number, str(damage))
            return 0

    def _append_to_new(self, records: Sequence[tuple[bytes, Record]]) -> int:
        """Create a generation and append to it."""
        state = self._make_room(self._capacity_bytes)
        create_generation(self._path(state.youngest + 1), self._capacity_bytes)
        self._state_file.write(state._replace(youngest=state.youngest + 1))
        self._adopt()
        return self._append(records)

    def _make_room(self, room_bytes: int) -> State:
        """Delete generations that are not live, then evict the oldest until `room_bytes` are left under the bound."""
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
                generation.n_entries() for generation in self._opened.generations if generation.number == dropped
            )
            self._drop(dropped)
            oldest = dropped + 1
        if oldest != state.oldest:
            state = state._replace(oldest=oldest)
            self._state_file.write(state)
        return state

    def _drop(self, number: int) -> None:
        # Renamed first, so that what a killed process leaves is not taken for a generation.
        path = self._path(number)
        _delete(path.rename(path.with_name(f"{_DROPPED}-{number}")))

    def _set_aside(self, number: int, reason: str) -> None:
        """Keep a damaged generation for inspection until the next start or the next damage."""
        events.CACHE_SET_ASIDE.emit(what=f"generation {number}", reason=reason)
        for old in self._folder.glob(f"{_DAMAGED}*"):
            _delete(old)
        path = self._path(number)
        with contextlib.suppress(FileNotFoundError):  # another process has set it aside
            path.rename(path.with_name(f"{_DAMAGED}-{number}"))

    def _on_disk(self) -> Iterator[int]:
        """Numbers of the generations in the folder, live or not."""
        for path in self._folder.iterdir():
            if match := _GENERATION.fullmatch(path.name):
                yield int(match.group(1))

    def _path(self, number: int) -> Path:
        return self._folder / f"generation-{number:010}"


def _read(generations: Sequence[Generation], places: Sequence[tuple[int, bytes, bytes]]) -> Found:
    """Read the records that `locate` found."""
    found = Found({}, [])
    for index, generation in enumerate(generations):
        located = [(key, place) for at, key, place in places if at == index]
        if located:
            entries, rejected = generation.read(located)
            found.entries.update(entries)
            found.rejected.extend(rejected)
    return found


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
