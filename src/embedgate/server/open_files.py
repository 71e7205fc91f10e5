"""Open-file limit: raised to fit the connections, as far as the system allows."""

import resource

from embedgate.observe import events
from embedgate.server.gate import MAX_REFUSING

_OTHER_FILES = 512
"""Files beside client connections: connections to providers, the database, the cache, and a reserve."""


def make_room(max_connections: int) -> None:
    """Raise the open-file limit to what so many connections need; log a warning if the system forbids it."""
    needed = max_connections + MAX_REFUSING + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < needed:
        events.FEW_OPEN_FILES.emit(allowed=allowed, needed=needed, max_connections=max_connections)
