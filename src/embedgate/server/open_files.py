"""How many files the process may have open: enough for its connections, as far as the system lets it."""

import resource

from embedgate.observe import events
from embedgate.server.connection import MAX_REFUSING

_OTHER_FILES = 512
"""Connections to providers and the database, the files of the cache, and room."""


def make_room(max_connections: int) -> None:
    """Raise the limit of the process to what so many connections need; log a warning where the system forbids it."""
    needed = max_connections + MAX_REFUSING + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < needed:
        events.FEW_OPEN_FILES.emit(allowed=allowed, needed=needed, max_connections=max_connections)
