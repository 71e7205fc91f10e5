"""Backup and restore of the data folder: what an archive says is worked out and checked here, with the books in it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from embedgate.catalog import Catalog
from embedgate.config import Loaded
from embedgate.core.errors import ConfigError, InternalError
from embedgate.core.money import usd_text
from embedgate.govern.audit import VerifyQuery, verify_trail
from embedgate.govern.change import COMMAND_LINE, Invocation
from embedgate.govern.providers import read_keys
from embedgate.govern.resources import Resources
from embedgate.govern.usage import sum_up
from embedgate.storage import swap
from embedgate.storage.backup import archive, restore, snapshot
from embedgate.storage.backup.archive import Advance, Books, End, Manifest
from embedgate.storage.database import DATABASE_FILE, Database, open_database
from embedgate.storage.intents import INTENTS_FOLDER
from embedgate.storage.migrate import known_revisions
from embedgate.storage.schema import REVISION
from embedgate.wiring.storage import open_sealer

Progress = Callable[[str, int], AbstractContextManager[Advance]]
"""Shows that something of so many bytes is done."""
_COLLECTION = "*.collection"


class Restored(NamedTuple):
    """What became of a restore. aside: the folder of what was replaced. warnings: what is still to be done."""

    manifest: Manifest
    folder: Path
    aside: Path | None
    warnings: Sequence[str]


def make_backup(
    loaded: Loaded, file: Path, progress: Progress, *, with_keys: bool, with_collections: bool, is_replacing: bool
) -> Manifest:
    """Make an archive of the data folder, whether or not a gateway runs on it, and return what it says.

    Raises OSError, ConfigError, Conflict if there is such a file, InternalError if the database is damaged.
    """
    folder = loaded.settings.storage.data_dir.expanduser()
    database = snapshot.database_of(folder)
    if not is_replacing:
        archive.refuse_taken(file)
    collections = sorted((folder / archive.COLLECTIONS_FOLDER).glob(_COLLECTION)) if with_collections else []
    keys = [folder / name for name in archive.KEY_FILES if with_keys and (folder / name).exists()]
    size_bytes = sum(path.stat().st_size for path in (database, *collections))
    made_at = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    with snapshot.workshop(file) as drafts, progress("copying", 2 * size_bytes) as advance:
        schema, intents = snapshot.copy_books(folder, drafts, advance)
        with archive.new_archive(drafts / "archive", file, is_replacing=is_replacing) as writer:
            writer.add(DATABASE_FILE, drafts / DATABASE_FILE, advance)
            for path in intents:
                writer.add(f"{INTENTS_FOLDER}/{path.name}", path, advance)
            for path in keys:
                writer.add(path.name, path, advance)
            for path in collections:
                copied = drafts / "collection"
                snapshot.copy_database(path, copied, advance)
                writer.add(f"{archive.COLLECTIONS_FOLDER}/{path.name}", copied, advance)
                copied.unlink()
            # Its copy is in the archive by now: one of an older schema may be brought up to date to be read.
            with _opened(drafts) as database_copy:
                books = _books(_invocation(database_copy, loaded))
            return writer.finish(schema, made_at, books, has_keys=with_keys, has_collections=with_collections)


def check_backup(file: Path, progress: Progress) -> Manifest:
    """Read a whole archive, and return what it says.

    Raises OSError, InvalidInput if it is damaged, Conflict or ConfigError if it is of a newer version.
    """
    with archive.opened_archive(file) as opened:
        _check_schema(file, opened.manifest)
        with progress("checking", opened.size_bytes) as advance:
            opened.check(advance)
        return opened.manifest


def restore_backup(loaded: Loaded, file: Path, progress: Progress, *, is_replacing: bool) -> Restored:
    """Restore an archive into the data folder, which is then as it was, of this program's schema.

    The audit trail tells of it. Raises what `check_backup` raises; Conflict if a gateway runs on the folder, or if it
    is not empty and not to be replaced; InternalError if what was unpacked is not what the manifest says.
    """
    folder = loaded.settings.storage.data_dir.expanduser()
    with archive.opened_archive(file) as opened, restore.claimed(folder, is_replacing=is_replacing):
        manifest = opened.manifest
        _check_schema(file, manifest)
        try:
            with progress("unpacking", opened.size_bytes) as advance:
                new = restore.unpack(opened, folder, advance)
            with _opened(new) as database:
                invocation = _invocation(database, loaded)
                _check_books(_books(invocation, manifest.books), manifest.books)
                _note(invocation, manifest)
            aside = restore.put_in_place(new, folder)
        finally:
            swap.drop(folder)
    return Restored(manifest, folder, aside, _warnings(loaded, manifest, folder))


@contextmanager
def _opened(folder: Path) -> Iterator[Database]:
    """The database of a folder of drafts, brought up to this program's schema."""
    database = open_database(folder, "full")
    try:
        yield database
    finally:
        database.close()


def _invocation(database: Database, loaded: Loaded) -> Invocation:
    resources = Resources(loaded.settings.keys.prefix, open_sealer(loaded), Catalog.builtin)
    return Invocation(database, resources, COMMAND_LINE)


def _check_schema(file: Path, manifest: Manifest) -> None:
    """Raises ConfigError for an archive with a database of a newer program."""
    if manifest.schema not in known_revisions():
        raise ConfigError(
            [
                f"{file} was made by embedgate {manifest.made_by} and has schema {manifest.schema}, this program knows "
                f"up to {REVISION}; restore it with the newer embedgate"
            ]
        )


def _books(invocation: Invocation, expected: Books | None = None) -> Books:
    """The books of a database. expected: ends that its chains must have had."""
    kept = VerifyQuery()
    if expected is not None and expected.is_intact:
        kept = VerifyQuery(*_end_of(expected.audit_end), *_end_of(expected.ledger_end))
    verified = verify_trail.run(invocation, kept)
    with invocation.read() as reading:
        (total,) = sum_up(reading)
    return Books(
        requests=total.requests,
        items=total.items,
        tokens=total.tokens,
        reused_tokens=total.reused_tokens,
        output_tokens=total.output_tokens,
        estimated_tokens=total.estimated_tokens,
        cost_usd=usd_text(total.cost_picodollars),
        estimated_usd=usd_text(total.estimated_picodollars),
        entries=verified.ledger.entries,
        ledger_end=End(verified.ledger.end.id, verified.ledger.end.digest),
        events=verified.events,
        audit_end=End(verified.end.seq, verified.end.digest),
        is_intact=verified.ok,
    )


def _end_of(end: End) -> tuple[int, str] | tuple[None, None]:
    """As an end that must still be there; a chain that has not begun has none."""
    return (end.number, end.digest) if end.is_of_chain else (None, None)


def _check_books(found: Books, expected: Books) -> None:
    wrong = [
        f"{name} {getattr(found, name)}, not {getattr(expected, name)}"
        for name in expected.__struct_fields__
        if getattr(found, name) != getattr(expected, name)
    ]
    if wrong:
        raise InternalError(f"The database that was unpacked is not what its manifest says: {'; '.join(wrong)}.")


def _note(invocation: Invocation, manifest: Manifest) -> None:
    """Tell the audit trail of what is restored that it is: from here on, time passed that it does not know."""
    with invocation.change() as change:
        change.note(
            "backup.restore",
            manifest.made_at,
            made_by=manifest.made_by,
            entries=manifest.books.entries,
            cost_usd=manifest.books.cost_usd,
        )


def _warnings(loaded: Loaded, manifest: Manifest, folder: Path) -> list[str]:
    """What is to be done before a gateway starts on what was restored."""
    warnings = []
    if not manifest.books.is_intact:
        warnings.append("the books were not intact when the backup was made; `embedgate audit verify` says where")
    with _opened(folder) as database, database.read() as connection:
        try:
            read_keys(connection, open_sealer(loaded))
        except ConfigError as error:
            warnings += error.mistakes
    return warnings
