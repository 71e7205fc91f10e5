"""`embedgate cache`: what the vector cache has on disk, and its end. Works beside a running gateway, or without one."""

from embedgate.cli import asking
from embedgate.cli.commands import Commands, Session
from embedgate.cli.output import Table
from embedgate.govern import cache
from embedgate.govern.operation import NoParameters

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
def clear(session: Session, is_agreed: asking.Yes = False) -> None:
    """Forget every vector that was kept, in memory of running gateways too. Texts are then embedded and paid anew."""
    asking.confirm("Forget every vector that was kept?", is_agreed=is_agreed)
    session.call(cache.clear_cache, NoParameters())
    session.show(None, lambda: "the cache is empty")
