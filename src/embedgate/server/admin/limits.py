"""Routes for limits: how much a key, a user or a project may ask at a time."""

from typing import Annotated

from msgspec import Meta, Struct

from embedgate.core.access import LimitRule, SubjectKind
from embedgate.server.admin.route import Asked, Route
from embedgate.server.admin.wire import Listed, ListQuery, pick, sorts


class LimitToSet(Struct, forbid_unknown_fields=True):
    """How much may be asked; at least one of them. Null or absent: no limit of that sort."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_parallel: Annotated[int | None, Meta(description="Requests in flight at once.")] = None
    max_waiting: Annotated[int, Meta(description="Requests that may wait for a place; more get 503.")] = 0


class Limit(Struct, frozen=True):
    """How much one subject may ask, or each subject of a kind."""

    kind: SubjectKind
    subject: Annotated[str, Meta(description="Id of the key, user or project; `*` for each without one of its own.")]
    requests_per_minute: int | None
    tokens_per_minute: int | None
    max_parallel: int | None
    max_waiting: int


class LimitQuery(ListQuery):
    """Which limits."""

    sort: Annotated[
        str, sorts("kind", "subject", "requests_per_minute", "tokens_per_minute", "max_parallel", "max_waiting")
    ] = ""


def _limit(rule: LimitRule) -> Limit:
    return Limit(
        kind=rule.subject.kind,
        subject=rule.subject.id,
        requests_per_minute=rule.requests_per_minute,
        tokens_per_minute=rule.tokens_per_minute,
        max_parallel=rule.max_parallel,
        max_waiting=rule.max_waiting,
    )


def _list(asked: Asked) -> Listed:
    return pick(map(_limit, asked.administration.limits.list()), asked.query)


def _set(asked: Asked) -> Limit:
    limit: LimitToSet = asked.body
    return _limit(
        asked.administration.limits.set(
            asked.path["kind"],
            asked.path["subject"],
            requests_per_minute=limit.requests_per_minute,
            tokens_per_minute=limit.tokens_per_minute,
            max_parallel=limit.max_parallel,
            max_waiting=limit.max_waiting,
        )
    )


def _delete(asked: Asked) -> None:
    asked.administration.limits.delete(asked.path["kind"], asked.path["subject"])


_LIMIT = "/api/limits/{kind}/{subject}"

ROUTES = (
    Route("GET", "/api/limits", "listLimits", "List the limits", _list, Limit, query=LimitQuery, is_list=True),
    Route(
        "PUT",
        _LIMIT,
        "setLimit",
        "Set a limit",
        _set,
        Limit,
        "Instead of the one that the subject has.",
        body=LimitToSet,
        example={"requests_per_minute": 600, "tokens_per_minute": 1_000_000},
        is_change=True,
    ),
    Route("DELETE", _LIMIT, "deleteLimit", "Take a limit away", _delete, None, is_change=True),
)
