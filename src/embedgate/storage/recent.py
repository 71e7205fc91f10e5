"""Requests of the last minute, read from the audit trail and the ledger, so that rate limits go on after a restart."""

from collections.abc import Sequence

import sqlalchemy as sa

from embedgate.core.access import RecentRequest, Subject
from embedgate.storage.schema import audit, keys, ledger

_MAX_REQUESTS = 200_000
"""Over 3,000 a second. What is older than these is not counted."""


def recent_requests(connection: sa.Connection, since_ms: int) -> Sequence[RecentRequest]:
    """The requests that were admitted from a time on, oldest first, with the tokens that they used.

    One that was in progress when the process was killed has none, and one of the last 50 ms before may be missing.
    """
    tokens = ledger.c.tokens + ledger.c.reused_tokens + ledger.c.output_tokens
    rows = connection.execute(
        sa.select(audit.c.at_ms, audit.c.actor, keys.c.user_id, keys.c.project_id, sa.func.coalesce(tokens, 0))
        .join(keys, keys.c.id == audit.c.actor)
        .outerjoin(ledger, ledger.c.request_id == audit.c.request_id)
        .where(audit.c.at_ms >= since_ms, audit.c.kind == "decision", audit.c.outcome == "permit")
        .order_by(audit.c.at_ms.desc())
        .limit(_MAX_REQUESTS)
    )
    found = []
    for at_ms, key_id, user_id, project_id, used in rows:
        project = (Subject("project", project_id),) if project_id else ()
        found.append(RecentRequest(at_ms, (Subject("key", key_id), Subject("user", user_id), *project), used))
    found.reverse()
    return found
