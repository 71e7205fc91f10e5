"""Archive of a data folder: a ZIP file with the members of the folder, and a manifest that says what they must be.

Written beside its name and renamed, mode 0600. Whatever is read from one is checked against the manifest: names, sizes
and digests, so that a damaged archive, one made to fill the disk, and one that names files elsewhere are refused.
"""

import hashlib
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NoReturn

import msgspec
from msgspec import Struct

from embedgate.core.errors import Conflict, InvalidInput
from embedgate.core.version import VERSION
from embedgate.storage.database import DATABASE_FILE
from embedgate.storage.folder import sync_folder
from embedgate.storage.intents import INTENTS_FOLDER
from embedgate.storage.sealing import MASTER_KEY_FILE

FORMAT = 1
COLLECTIONS_FOLDER = "collections"
KEY_FILES = (MASTER_KEY_FILE, "admin.key", "user.key")
"""The files of the folder that hold keys which can be used as they are."""
PIECE_BYTES = 1_048_576

_MANIFEST = "manifest.json"
_MAX_MANIFEST_BYTES = 16_777_216
"""Of some 100,000 members."""
_MAX_MEMBERS = 100_000
_LEVEL = 1
"""The ledger shrinks to a third at 100 MB a second; the best level takes five times as long for a tenth less."""
_NAME = re.compile(rf"({re.escape(INTENTS_FOLDER)}|{COLLECTIONS_FOLDER})/[^/\\\0.][^/\\\0]*")
_FIRST_DAY = (1980, 1, 1, 0, 0, 0)

Advance = Callable[[int], None]
"""Is told how many bytes were done since the last call."""


class Member(Struct, frozen=True):
    """A file of the folder as it was."""

    name: str
    size_bytes: int
    sha256: str


class End(Struct, frozen=True):
    """The end of a chain: the number of the last row, and its digest."""

    number: int
    digest: str

    @property
    def is_of_chain(self) -> bool:
        """Whether there is any row; the first ledger entries of an old database have no digest, and are none."""
        return bool(self.digest.strip("0"))


class Books(Struct, frozen=True):
    """What a database says was used and cost in all, and where its chains end. Sums as `embedgate usage` has them."""

    requests: int
    items: int
    tokens: int
    reused_tokens: int
    output_tokens: int
    estimated_tokens: int
    cost_usd: str
    estimated_usd: str
    entries: int
    ledger_end: End
    events: int
    audit_end: End
    is_intact: bool


class Manifest(Struct, frozen=True):
    """What is in an archive. `schema` is the database's revision; `made_by` the version of the program."""

    format: int
    made_by: str
    made_at: str
    schema: str
    has_keys: bool
    has_collections: bool
    books: Books
    members: tuple[Member, ...]


class ArchiveWriter:
    """Writes one archive, member by member and then the manifest."""

    def __init__(self, stream: IO[bytes]) -> None:
        """stream: a new file."""
        self._zip = zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, allowZip64=True, compresslevel=_LEVEL)
        self.members: list[Member] = []

    def add(self, name: str, path: Path, advance: Advance) -> None:
        """Add a file as a member of that name. Raises OSError."""
        digest, size_bytes = hashlib.sha256(), 0
        with path.open("rb") as source, self._zip.open(_entry(name), "w", force_zip64=True) as target:
            while piece := source.read(PIECE_BYTES):
                digest.update(piece)
                size_bytes += len(piece)
                target.write(piece)
                advance(len(piece))
        self.members.append(Member(name, size_bytes, digest.hexdigest()))

    def finish(self, schema: str, made_at: str, books: Books, *, has_keys: bool, has_collections: bool) -> Manifest:
        """Write the manifest, and end the archive. Raises OSError."""
        members = tuple(self.members)
        manifest = Manifest(FORMAT, VERSION, made_at, schema, has_keys, has_collections, books, members)
        text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
        self._zip.writestr(_entry(_MANIFEST), text, zipfile.ZIP_DEFLATED, _LEVEL)
        self._zip.close()
        return manifest


@contextmanager
def new_archive(draft: Path, path: Path, *, is_replacing: bool) -> Iterator[ArchiveWriter]:
    """An archive that takes the name `path` once it is whole and on the disk. Raises OSError, Conflict if it is taken.

    draft: a path that nobody uses, on the same disk.
    """
    descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        yield ArchiveWriter(stream)
        stream.flush()
        os.fsync(stream.fileno())
    if not is_replacing:
        refuse_taken(path)
    draft.replace(path)
    sync_folder(path.parent)


def refuse_taken(path: Path) -> None:
    """Raises Conflict if there is a file of that name."""
    if path.exists() or path.is_symlink():
        raise Conflict(f"{path} is there already. Choose another name, or give --overwrite.", param="file")


class Archive:
    """An archive that is read. Its manifest is checked, and agrees with the names and sizes of the members."""

    def __init__(self, file: zipfile.ZipFile, path: Path) -> None:
        """Raises InvalidInput for what is no whole archive, Conflict for one of a newer version."""
        self._zip = file
        self._path = path
        infos = file.infolist()
        if len(infos) > _MAX_MEMBERS + 1:
            self._refuse(f"it has {len(infos):,} members, more than {_MAX_MEMBERS:,}")
        self._infos = {info.filename: info for info in infos}
        if len(self._infos) < len(infos):
            self._refuse("two of its members have the same name")
        self.manifest = self._read_manifest()
        self._check_members()

    @property
    def size_bytes(self) -> int:
        """Of all members, as they were."""
        return sum(member.size_bytes for member in self.manifest.members)

    def read(self, member: Member) -> Iterator[bytes]:
        """The content of a member in pieces. Raises InvalidInput, at the last piece at the latest, if it is damaged."""
        digest, left = hashlib.sha256(), member.size_bytes
        try:
            with self._zip.open(self._infos[member.name]) as source:
                while left and (piece := source.read(min(left, PIECE_BYTES))):
                    left -= len(piece)
                    digest.update(piece)
                    yield piece
                is_longer = bool(source.read(1))
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            self._refuse(f"{member.name} cannot be read: {error}", error)
        if left or is_longer or digest.hexdigest() != member.sha256:
            self._refuse(f"{member.name} is not what was backed up")

    def check(self, advance: Advance) -> None:
        """Read all members to their ends. Raises InvalidInput if one is damaged."""
        for member in self.manifest.members:
            for piece in self.read(member):
                advance(len(piece))

    def _read_manifest(self) -> Manifest:
        info = self._infos.pop(_MANIFEST, None)
        if info is None:
            self._refuse("it has no manifest")
        if info.file_size > _MAX_MANIFEST_BYTES:
            self._refuse(f"its manifest has {info.file_size:,} bytes, more than {_MAX_MANIFEST_BYTES:,}")
        try:
            with self._zip.open(info) as stream:
                text = stream.read(_MAX_MANIFEST_BYTES + 1)
            version = msgspec.json.decode(text, type=_Version)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            self._refuse(f"its manifest cannot be read: {error}", error)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._refuse("its manifest says no format", error)
        if version.format > FORMAT:
            raise Conflict(
                f"{self._path} was made by embedgate {version.made_by}, in a format that this program, embedgate "
                f"{VERSION}, does not know. Restore it with that version or a newer one.",
                param="file",
            )
        try:
            return msgspec.json.decode(text, type=Manifest)
        except msgspec.DecodeError as error:
            self._refuse(f"its manifest cannot be read: {error}", error)

    def _check_members(self) -> None:
        for member in self.manifest.members:
            if member.name not in (DATABASE_FILE, *KEY_FILES) and not _NAME.fullmatch(member.name):
                self._refuse(f"it names {member.name!a}, which is not a file of a data folder")
            if member.size_bytes < 0:
                self._refuse(f"{member.name} has {member.size_bytes} bytes")
        names = [member.name for member in self.manifest.members]
        if sorted(names) != sorted(self._infos):
            self._refuse("its members are not those of its manifest")
        if DATABASE_FILE not in names:
            self._refuse(f"it has no {DATABASE_FILE}")
        wrong = [each.name for each in self.manifest.members if self._infos[each.name].file_size != each.size_bytes]
        if wrong:
            self._refuse(f"{wrong[0]} does not have the size that the manifest says")

    def _refuse(self, reason: str, error: Exception | None = None) -> NoReturn:
        raise _damaged(self._path, reason) from error


class _Version(Struct):
    format: int
    made_by: str = "of an unknown version"


@contextmanager
def opened_archive(path: Path) -> Iterator[Archive]:
    """An archive, to be read. Raises OSError, and as `Archive`."""
    with path.open("rb") as stream:
        try:
            file = zipfile.ZipFile(stream)
        except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError) as error:
            raise _damaged(path, f"it is no ZIP file, or was cut short ({error})") from error
        with file:
            yield Archive(file, path)


def _damaged(path: Path, reason: str) -> InvalidInput:
    return InvalidInput(
        f"{path} is no whole archive of `embedgate backup`: {reason}. Nothing was restored; take another archive.",
        param="file",
    )


def _entry(name: str) -> zipfile.ZipInfo:
    """An entry with nothing of this machine in it: that moment is in the manifest."""
    entry = zipfile.ZipInfo(name, _FIRST_DAY)
    entry.external_attr = 0o600 << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry
