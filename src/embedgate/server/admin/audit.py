"""Routes for the audit trail: read and verified. Nothing here changes it."""

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta, Struct

from embedgate.core.access import AuditKind
from embedgate.core.errors import InvalidInput
from embedgate.server.admin.route import Asked, Route
from embedgate.server.admin.wire import Listed, ListQuery, Moment, listed, milliseconds, moment, sorts
from embedgate.storage.audit import AuditFilter, StoredEvent
from embedgate.storage.verify import Head


class AuditQuery(ListQuery):
    """Which events: those that agree in every field that is given."""

    kind: AuditKind | None = None
    actor: str | None = None
    action: str | None = None
    target: str | None = None
    outcome: str | None = None
    request_id: str | None = None
    since: Annotated[Moment | None, Meta(description="The first moment that counts.")] = None
    until: Annotated[Moment | None, Meta(description="The first moment that no longer counts.")] = None
    sort: Annotated[str, sorts("seq", "at", "kind", "actor", "action", "target", "outcome")] = ""


class Event(Struct, frozen=True):
    """Something that was accounted for: a decision, a change, a login, or what was forgotten."""

    seq: Annotated[int, Meta(description="Its place in the trail.")]
    at: Moment
    kind: AuditKind
    actor: Annotated[str, Meta(description="Id of the user or key; `command line`; `stranger` before a login.")]
    action: str
    target: Annotated[str, Meta(description="Id of what it was done to.")]
    outcome: Annotated[str, Meta(description="`permit`, `forbid`, `ok` or the code of an error.")]
    request_id: str
    policies: Annotated[tuple[str, ...], Meta(description="Those that decided.")]
    detail: Mapping[str, str | int | bool | None]
    digest: Annotated[str, Meta(description="Of this event and all before it.")]


class VerifyQuery(Struct, forbid_unknown_fields=True):
    """An end of the trail that was kept elsewhere, which must still be there: both or neither."""

    seq: int | None = None
    digest: str | None = None


class TrailEnd(Struct, frozen=True):
    """The end of the trail. Keep it elsewhere: it shows later that nothing was cut off or written anew."""

    seq: int
    digest: str


class TrailBreak(Struct, frozen=True):
    """Where the trail is not what was written."""

    seq: int
    reason: str


class Verified(Struct, frozen=True):
    """What a walk along the whole trail found."""

    ok: bool
    events: int
    end: TrailEnd
    first_break: TrailBreak | None


def _event(stored: StoredEvent) -> Event:
    event = stored.event
    return Event(
        seq=stored.seq,
        at=moment(event.at_ms),
        kind=event.kind,
        actor=event.actor,
        action=event.action,
        target=event.target,
        outcome=event.outcome,
        request_id=event.request_id,
        policies=event.policies,
        detail=event.detail,
        digest=stored.digest,
    )


def _list(asked: Asked) -> Listed:
    query: AuditQuery = asked.query
    filter_by = AuditFilter(
        kind=query.kind,
        actor=query.actor,
        action=query.action,
        target=query.target,
        outcome=query.outcome,
        request_id=query.request_id,
        since_ms=milliseconds(query.since),
        until_ms=milliseconds(query.until),
    )
    return listed(asked.administration.audit.events(filter_by, query.page), query, _event)


def _verify(asked: Asked) -> Verified:
    kept: VerifyQuery = asked.query
    if (kept.seq is None) != (kept.digest is None):
        raise InvalidInput("An end of the trail has seq and digest. Give both or neither.", param="seq")
    expected = None if kept.seq is None or kept.digest is None else Head(kept.seq, kept.digest)
    found = asked.administration.audit.verify(expected)
    broken = found.first_break
    return Verified(
        ok=found.is_intact,
        events=found.count,
        end=TrailEnd(found.head.seq, found.head.digest),
        first_break=None if broken is None else TrailBreak(broken.seq, broken.reason),
    )


ROUTES = (
    Route(
        "GET",
        "/api/audit",
        "listEvents",
        "List the audit trail",
        _list,
        Event,
        "Newest first.",
        query=AuditQuery,
        is_list=True,
    ),
    Route(
        "GET",
        "/api/audit/verify",
        "verifyTrail",
        "Verify the audit trail",
        _verify,
        Verified,
        "Follows the whole chain of digests.",
        query=VerifyQuery,
    ),
)
