"""Journal of intents: who pays for provider calls that may be under way, on disk before they leave.

A write-ahead journal, one line for each intent, in files of this process in the folder `intents` of the data folder. A
line is in the system's page cache when its write returns, as a commit of the ledger is: it survives the end of the
process, however that comes, and a power cut only if every write is synced. A file is emptied or deleted once none of
its requests is open; what a process left behind is booked by `recover` at the next start. A file is locked as long as
its process lives, so that nobody takes it for abandoned. A file that was deleted under its process is written anew.
"""

import asyncio
import contextlib
import fcntl
import os
import threading
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import sqlalchemy as sa

from embedgate.core.errors import LedgerUnavailable
from embedgate.core.types import LedgerEntry
from embedgate.observe import events
from embedgate.storage.appender import Appender
from embedgate.storage.database import Database
from embedgate.storage.schema import ledger

INTENTS_FOLDER = "intents"
SUFFIX = ".journal"
_DRAFT = ".new"
_INTENT, _ENDED = b"I", b"E"
_EMPTY_FROM_BYTES = 65_536
_FILE_BYTES = 1_000_000
"""About 1,500 intents: a start reads them in some ten milliseconds."""
_RETRY_S = 5.0
_IDS_AT_ONCE = 500
_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(LedgerEntry)


class _File:
    """A file of the journal, locked while it is open. `open` are the requests in it that may still cost something."""

    __slots__ = ("descriptor", "open", "path", "size_bytes")

    def __init__(self, folder: Path) -> None:
        """Make it, under its name only once it is locked. Raises OSError."""
        self.path = folder / f"{os.getpid()}-{uuid.uuid4().hex}{SUFFIX}"
        draft = self.path.with_suffix(_DRAFT)
        self.descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            draft.rename(self.path)
        except OSError:
            os.close(self.descriptor)
            draft.unlink(missing_ok=True)
            raise
        self.size_bytes = 0
        self.open = 0

    def append(self, line: bytes) -> None:
        """Append a line, whole or not at all. Raises OSError."""
        try:
            if os.write(self.descriptor, line) != len(line):
                raise OSError("the disk is full")
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self.descriptor, self.size_bytes)
            raise
        self.size_bytes += len(line)

    def is_gone(self) -> bool:
        """Whether the open file is no longer the one at its path, so that it would be lost with this process."""
        try:
            found = self.path.stat()
        except OSError:
            return True
        return not os.path.samestat(found, os.fstat(self.descriptor))

    def write_anew(self) -> None:
        """Put its content into a file that has a name. Raises OSError."""
        content = os.pread(self.descriptor, self.size_bytes, 0)
        new = _File(self.path.parent)
        try:
            new.append(content)
        except OSError:
            new.delete()
            raise
        os.close(self.descriptor)
        self.path, self.descriptor = new.path, new.descriptor

    def delete(self) -> None:
        """Delete it, and let go of it."""
        with contextlib.suppress(OSError):
            self.path.unlink()
        os.close(self.descriptor)


class IntentJournal:
    """Implements the port Intents. For one event loop, but for `look`; makes its first file with the first intent."""

    def __init__(self, data_dir: Path, *, syncs: bool = False) -> None:
        """syncs: whether every intent waits for the disk, so that it survives a power cut."""
        self._folder = data_dir / INTENTS_FOLDER
        self._syncs = syncs
        self._file: _File | None = None
        self._files: dict[str, _File] = {}
        self._door = threading.Lock()

    def __len__(self) -> int:
        """Requests with an intent that have not ended."""
        return len(self._files)

    async def write(self, entry: LedgerEntry) -> None:
        """Return once the intent survives the end of this process; the last one of a request counts.

        entry: what is booked if this process ends before the request. Raises LedgerUnavailable if the disk refuses.
        """
        try:
            with self._door:
                file = self._file
                if file is None or file.size_bytes >= _FILE_BYTES:
                    file = self._next_file()
                file.append(_INTENT + _ENCODER.encode(entry) + b"\n")
                if (before := self._files.get(entry.request_id)) is not file:
                    self._files[entry.request_id] = file
                    file.open += 1
                    if before is not None:
                        self._left(before)
            if self._syncs:
                await asyncio.to_thread(os.fdatasync, file.descriptor)
        except OSError as error:
            events.INTENT_REFUSED.emit(reason=str(error.strerror or error))
            raise LedgerUnavailable(
                f"What this request may cost cannot be noted ({error.strerror or error}), so nothing is sent that has "
                "to be paid. Try again.",
                retry_after_s=_RETRY_S,
            ) from error

    def settle(self, request_id: str) -> None:
        """End the intent of a request whose cost is in the ledger: it will not be booked."""
        with self._door:
            file = self._files.pop(request_id, None)
            if file is not None:
                self._left(file)

    def drop(self, request_id: str) -> None:
        """End the intent of a request without a cost: it will not be booked."""
        file = self._files.get(request_id)
        if file is None:
            return
        try:
            with self._door:
                file.append(_ENDED + request_id.encode() + b"\n")
        except OSError as error:  # the intent stays: after a kill it would be booked, marked as estimated
            events.INTENT_REFUSED.emit(reason=str(error.strerror or error))
            return
        self.settle(request_id)

    def look(self) -> str | None:
        """Why intents cannot be kept; None if they can. Files that were deleted are written anew. For any thread."""
        with self._door:
            try:
                self._folder.mkdir(mode=0o700, exist_ok=True)
                gone = [file for file in self._open_files() if file.is_gone()]
                for file in gone:
                    file.write_anew()
            except OSError as error:
                return f"{self._folder} cannot be written: {error.strerror or error}"
        if gone:
            events.INTENTS_RESTORED.emit(files=len(gone), requests=sum(file.open for file in gone))
        return None

    def close(self, *, is_ledger_lost: bool = False) -> None:
        """Delete the files that nothing depends on; those of requests that are in no ledger yet stay for `recover`.

        is_ledger_lost: what was recorded last may be in a file that is not the ledger any more, so that all stay.
        """
        with self._door:
            for file in self._open_files():
                if file.open or is_ledger_lost:
                    os.close(file.descriptor)
                else:
                    file.delete()
            self._files.clear()
            self._file = None

    def _open_files(self) -> set[_File]:
        return {*self._files.values(), *([self._file] if self._file else [])}

    def _next_file(self) -> _File:
        """A new file to write to. The one before is deleted once nothing in it is open."""
        file = self._file
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._file = _File(self._folder)
        if file is not None and not file.open:
            file.delete()
        return self._file

    def _left(self, file: _File) -> None:
        """One request fewer is open in a file."""
        file.open -= 1
        if file.open:
            return
        if file is not self._file:
            file.delete()
        elif file.size_bytes >= _EMPTY_FROM_BYTES:
            with contextlib.suppress(OSError):
                os.ftruncate(file.descriptor, 0)
                file.size_bytes = 0


def recover(data_dir: Path, database: Database) -> int:
    """Book the open intents of processes that have ended, as outcome `interrupted`; returns how many requests.

    Whatever is in the ledger already is passed over, so that a recovery that is killed can be repeated. Raises
    InternalError if the ledger cannot be written; nothing is lost then.
    """
    n = 0
    folder = data_dir / INTENTS_FOLDER
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        with _abandoned(path) as content:
            if content is None:
                continue
            booked = _book(database, _open_intents(path, content))
            path.unlink()
        n += len(booked)
        if booked:
            cost = sum(entry.cost_picodollars for entry in booked)
            events.INTERRUPTED_BOOKED.emit(requests=len(booked), cost_picodollars=cost)
    return n


@contextlib.contextmanager
def _abandoned(path: Path) -> Iterator[bytes | None]:
    """The content of a file whose process is no more, locked meanwhile; None if that lives, or another recovers it."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        yield None
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        if not path.exists():  # recovered by another process before the lock was free
            yield None
            return
        with os.fdopen(os.dup(descriptor), "rb") as stream:
            yield stream.read()
    finally:
        os.close(descriptor)


def _open_intents(path: Path, content: bytes) -> list[LedgerEntry]:
    """The last intent of each request that has not ended. A last line that is cut off was never relied upon."""
    found: dict[str, LedgerEntry] = {}
    lines = content.split(b"\n")
    n_bad = 0
    for line in lines[:-1]:
        if line[:1] == _ENDED:
            found.pop(line[1:].decode(errors="replace"), None)
            continue
        try:
            entry = _DECODER.decode(line[1:])
        except (msgspec.DecodeError, UnicodeDecodeError):
            n_bad += 1
            continue
        found[entry.request_id] = entry
    if n_bad:
        events.INTENTS_UNREADABLE.emit(file=path.name, lines=n_bad)
    return list(found.values())


def _book(database: Database, intents: Sequence[LedgerEntry]) -> list[LedgerEntry]:
    """Append those that are not in the ledger, in one transaction; returns them."""
    if not intents:
        return []
    append = Appender(database.dialect)
    with database.write() as connection:
        known: set[str] = set()
        ids = [entry.request_id for entry in intents]
        for start in range(0, len(ids), _IDS_AT_ONCE):
            query = sa.select(ledger.c.request_id).where(ledger.c.request_id.in_(ids[start : start + _IDS_AT_ONCE]))
            known.update(connection.execute(query).scalars())
        missing = [entry for entry in intents if entry.request_id not in known]
        append(connection.exec_driver_sql, missing)
    return missing
