"""What `backup` and `restore` share: where the data folder is, how far the work is, and what an archive says."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedgate.cli import options, results

if TYPE_CHECKING:
    from embedgate.config import Loaded
    from embedgate.storage.backup.archive import End, Manifest

DataDir = Annotated[
    Path | None, typer.Option("--data-dir", metavar="FOLDER", help="The data folder (setting storage.data_dir).")
]
_MEGABYTE = 1_000_000
_LONG_FROM = 50
"""Megabytes that take more than a moment."""


def open_settings(context: typer.Context, config_file: Path | None, data_dir: Path | None) -> "Loaded":
    """The settings, with the data folder of the command line. Raises ConfigError."""
    return options.load_settings(context, config_file, {"storage": {"data_dir": data_dir}})


@contextmanager
def megabytes(what: str, size_bytes: int) -> Iterator[Callable[[int], None]]:
    """A bar of progress in megabytes, where the work is long and somebody looks on. Yields what is told of bytes."""
    done_bytes = 0
    n = size_bytes // _MEGABYTE
    with results.progress(f"{what}, MB", n, is_long=n >= _LONG_FROM) as advance:

        def told(more_bytes: int) -> None:
            nonlocal done_bytes
            before, done_bytes = done_bytes // _MEGABYTE, done_bytes + more_bytes
            advance(done_bytes // _MEGABYTE - before)

        yield told


def ends(manifest: "Manifest") -> str:
    """The sums of an archive, and where its chains end, in the form that `audit verify` takes."""
    books = manifest.books
    return (
        f"{books.requests:,} requests, {books.tokens:,} tokens, ${books.cost_usd}\n"
        f"audit trail: {books.events:,} events{_head(books.audit_end)}\n"
        f"ledger: {books.entries:,} entries{_head(books.ledger_end)}"
    )


def _head(end: "End") -> str:
    return f"; head {end.number}:{end.digest}" if end.is_of_chain else ""
