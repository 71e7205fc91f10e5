"""Download of one file of a hub: resumed where it stopped, and kept only if its size and digest are right.

What has come lies beside its place under a name that ends in `.partial`, and is continued by the next run. Its bytes
are hashed again before, so that a file that was damaged meanwhile is found out at the end like any other.
"""

import asyncio
import hashlib
import os
import random
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from embedgate.core.errors import (
    ConfigError,
    UpstreamError,
    UpstreamGarbled,
    UpstreamLost,
    UpstreamMismatch,
    UpstreamTimeout,
)
from embedgate.inference.hub_files import HubFile, check_reply
from embedgate.inference.manifest import PulledFile
from embedgate.transport.hub import Hub, HubReply

PARTIAL = ".partial"

Sleep = Callable[[float], Awaitable[None]]
Report = Callable[[str, int], None]
"""Told the path of a file and how many of its bytes are there."""

_ATTEMPTS = 6
"""Attempts in a row that bring no byte more; one that does begins the count anew."""
_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 30.0
_LONGEST_ASKED_S = 300.0
"""A hub that asks for a longer pause is believed, and the run ends: a later one goes on."""
_CHUNK_BYTES = 1 << 20
_NOTHING_BEHIND = 416
_PARTIAL_CONTENT = 206
_RANGE_START = re.compile(r"bytes (\d+)-")


class Patience:
    """How often a hub is asked again that fails, and how long is waited before."""

    def __init__(self, sleep: Sleep = asyncio.sleep) -> None:
        """sleep: for tests."""
        self._sleep = sleep
        self._failures = 0

    async def wait_or_raise(self, error: UpstreamError, *, has_progressed: bool = False) -> None:
        """Wait before another attempt, or raise the error. has_progressed: whether the last one brought something."""
        self._failures = 0 if has_progressed else self._failures + 1
        may_retry = error.may_retry or isinstance(error, UpstreamTimeout)
        if not may_retry or self._failures >= _ATTEMPTS or (error.retry_after_s or 0) > _LONGEST_ASKED_S:
            raise error
        longest_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**self._failures)
        drawn_s = random.uniform(longest_s / 2, longest_s)  # noqa: S311 - a wait is no secret
        await self._sleep(drawn_s if error.retry_after_s is None else error.retry_after_s)


class _Hashed:
    """The bytes so far of one file, hashed both ways: a hub has SHA-256 of large files, git's SHA-1 of small ones."""

    def __init__(self, file: HubFile) -> None:
        self.size_bytes = 0
        self._file = file
        self._sha256 = hashlib.sha256()
        # Git's own name of a file, which has to be compared; the SHA-256 is what later runs go by.
        self._blob = hashlib.sha1(b"blob %d\0" % file.size_bytes, usedforsecurity=False)

    def add(self, piece: bytes) -> None:
        self.size_bytes += len(piece)
        self._sha256.update(piece)
        if self._file.sha256 is None:
            self._blob.update(piece)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def mistake(self) -> str:
        """What is wrong with the whole file, an empty text if nothing is."""
        file = self._file
        if self.size_bytes != file.size_bytes:
            return f"has {self.size_bytes} bytes, not {file.size_bytes}"
        if file.sha256 is not None and self.sha256 != file.sha256:
            return f"has SHA-256 {self.sha256}, not {file.sha256}"
        if file.sha256 is None and self._blob.hexdigest() != file.blob_sha1:
            return f"is git blob {self._blob.hexdigest()}, not {file.blob_sha1}"
        return ""


class _Place:
    """Where one file belongs, and what there is of it. Blocking; files are hashed on a thread."""

    def __init__(self, file: HubFile, place: Path) -> None:
        self._file = file
        self._place = place
        self._partial = place.with_name(place.name + PARTIAL)

    def whole(self) -> PulledFile | None:
        """The file if an earlier run has completed it; a wrong one is deleted."""
        if self._place.is_symlink() or not self._place.is_file():
            return None
        there = self._hash(self._place)
        if not there.mistake():
            return PulledFile(self._file.path, self._file.size_bytes, there.sha256)
        self._place.unlink()
        return None

    def begun(self) -> _Hashed:
        """What has come, hashed."""
        if self._partial.is_symlink() or not self._partial.is_file():
            self.drop()  # nothing of ours
            return _Hashed(self._file)
        return self._hash(self._partial)

    def size_bytes(self) -> int:
        """How much has come."""
        try:
            return self._partial.stat().st_size
        except FileNotFoundError:
            return 0

    def drop(self) -> None:
        """Delete what has come."""
        self._partial.unlink(missing_ok=True)

    def complete(self) -> None:
        """Put in place what has come."""
        self._partial.replace(self._place)

    @contextmanager
    def appending(self) -> Iterator[BinaryIO]:
        """What has come, to be written at its end. Raises ConfigError if the disk is full."""
        try:
            with self._partial.open("ab") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise ConfigError(
                [
                    f"{self._partial} cannot be written: {error.strerror or error}. What has come is kept: put that "
                    "right and run the command again"
                ]
            ) from error

    def _hash(self, place: Path) -> _Hashed:
        hashed = _Hashed(self._file)
        with place.open("rb") as stream:
            # One that is too long is wrong, however long it is.
            while hashed.size_bytes <= self._file.size_bytes and (piece := stream.read(_CHUNK_BYTES)):
                hashed.add(piece)
        return hashed


async def download(
    hub: Hub, path: str, file: HubFile, place: Path, *, report: Report, sleep: Sleep = asyncio.sleep
) -> PulledFile:
    """Have a file at its place, and its digest. path: on the hub. place: where it belongs; its folder exists.

    Raises UpstreamError if the hub fails again and again, or sends other bytes than it promised; ConfigError if the
    disk is full. What has come is kept.
    """
    there = _Place(file, place)
    if (found := await asyncio.to_thread(there.whole)) is not None:
        report(file.path, file.size_bytes)
        return found
    patience, is_first_run = Patience(sleep), there.size_bytes() == 0
    most_bytes = there.size_bytes()
    while True:
        try:
            hashed = await _attempt(hub, path, file, there, report)
        except UpstreamError as error:
            size_bytes = there.size_bytes()
            await patience.wait_or_raise(error, has_progressed=size_bytes > most_bytes)
            most_bytes = max(most_bytes, size_bytes)  # else a hub whose file ends early would be asked for ever
            continue
        mistake = hashed.mistake()
        if not mistake:
            there.complete()
            return PulledFile(file.path, file.size_bytes, hashed.sha256)
        there.drop()
        if is_first_run:
            raise UpstreamGarbled(f"{file.path} as {hub.url} sends it {mistake}; nothing of it is kept")
        is_first_run = True  # what an earlier run left may have been wrong


async def _attempt(hub: Hub, path: str, file: HubFile, there: _Place, report: Report) -> _Hashed:
    """All bytes of the file, those of earlier attempts included. Raises UpstreamError if they break off."""
    hashed = await asyncio.to_thread(there.begun)
    if hashed.size_bytes >= max(file.size_bytes, 1):
        return hashed
    async with hub.get(path, hashed.size_bytes) as reply:
        if reply.status == _NOTHING_BEHIND:
            there.drop()
            raise UpstreamLost(f"{hub.url} cannot continue {file.path}")
        check_reply(hub, reply, file.path)
        if not _continues(reply, hashed.size_bytes):
            hashed = _Hashed(file)
            there.drop()
        report(file.path, hashed.size_bytes)
        with there.appending() as stream:
            async for chunk in reply.chunks():
                if hashed.size_bytes + len(chunk) > file.size_bytes:
                    raise UpstreamMismatch(f"{hub.url} sends more of {file.path} than its {file.size_bytes} bytes")
                stream.write(chunk)
                hashed.add(chunk)
                report(file.path, hashed.size_bytes)
    if hashed.size_bytes < file.size_bytes:
        raise UpstreamLost(f"{hub.url} sent {hashed.size_bytes} of {file.size_bytes} bytes of {file.path}")
    return hashed


def _continues(reply: HubReply, first_byte: int) -> bool:
    """Whether the body begins where it was asked to."""
    if reply.status != _PARTIAL_CONTENT:
        return False
    start = _RANGE_START.match(reply.headers.get("content-range", ""))
    return start is not None and int(start[1]) == first_byte
