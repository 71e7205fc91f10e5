"""`embedgate cache`: shows what the vector cache has on disk, and clears it. A gateway may run or not."""

from typing import Annotated

import typer

from embedgate.cli import asking
from embedgate.cli.commands import Commands, Session
from embedgate.cli.output import Table
from embedgate.govern import cache
from embedgate.govern.cache import WhatToClear

commands = Commands("Look at the vector cache, and clear it.")
app = commands.app


def _table(found: cache.Cache) -> Table:
    disk = found.disk
    return Table(
        ("tier", "entries", "bytes", "at most"),
        [("disk", f"{disk.entries:,}", f"{disk.size_bytes:,}", f"{disk.max_bytes:,}")],
        right=("entries", "bytes", "at most"),
        after="What a running gateway has in memory, and its hits, are at its path /metrics.",
    )


commands.add(
    "stats",
    cache.show_cache,
    _table,
    doc="Show what the cache has on disk. Hits are counted by a running gateway, at its path /metrics.",
)


@commands.written("clear")
def clear(
    session: Session,
    model: Annotated[str | None, typer.Option(help="The only model whose vectors are forgotten.")] = None,
    is_agreed: asking.Yes = False,
) -> None:
    """Clear the cache, also that of running gateways. Texts are then embedded and paid for again."""
    what = "every vector that was kept" if model is None else f"every vector of {model} that was kept"
    asking.confirm(f"Forget {what}?", is_agreed=is_agreed)
    session.call(cache.clear_cache, WhatToClear(model))
    session.show(None, lambda: "the cache is empty" if model is None else f"no vector of {model} is found any more")
