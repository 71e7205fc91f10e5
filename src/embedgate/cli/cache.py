"""`embedgate cache`: what the vector cache has on disk, and its end. Works beside a running gateway, or without one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from embedgate.cli import asking, options
from embedgate.cli.output import print_json, print_table
from embedgate.core.errors import UnsupportedOption

if TYPE_CHECKING:
    from embedgate.config import Loaded
    from embedgate.core.ports import VectorCache

app = typer.Typer(no_args_is_help=True, help="Look at the vector cache, and clear it.")


@app.command("stats")
def show_stats(context: typer.Context, as_json: options.AsJson = False, config_file: options.ConfigFile = None) -> None:
    """Show what the cache has on disk. Hits are counted by a running gateway, at its path /metrics."""
    loaded = options.load_settings(context, config_file)
    with _open_cache(loaded) as cache:
        disk = cache.stats().disk
    max_bytes = loaded.settings.cache.disk_bytes
    if as_json:
        print_json({"disk": {"entries": disk.entries, "size_bytes": disk.size_bytes, "max_bytes": max_bytes}})
        return
    row = ("disk", f"{disk.entries:,}", f"{disk.size_bytes:,}", f"{max_bytes:,}")
    print_table(("tier", "entries", "bytes", "at most"), [row], right=("entries", "bytes", "at most"))
    typer.echo("\nWhat a running gateway has in memory, and its hits, are at its path /metrics.")


@app.command("clear")
def clear(
    context: typer.Context,
    is_agreed: asking.Yes = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Forget every vector that was kept, in memory of running gateways too. Texts are then embedded and paid anew."""
    loaded = options.load_settings(context, config_file)
    if not loaded.settings.cache.disk_bytes:
        raise UnsupportedOption(
            "cache.disk_bytes is 0: nothing is on disk, and what a gateway keeps in memory ends with it. Restart it."
        )
    asking.confirm("Forget every vector that was kept?", is_agreed=is_agreed)
    with _open_cache(loaded) as cache:
        cache.clear()
    typer.echo("the cache is empty")


@contextmanager
def _open_cache(loaded: "Loaded") -> "Iterator[VectorCache]":
    from embedgate.observe import events
    from embedgate.wiring import open_vector_cache  # brings the database and all that the gateway is made of

    events.configure("warning", loaded.settings.log.format)  # a folder that cannot be used is told by an event
    with open_vector_cache(loaded) as cache:
        yield cache
