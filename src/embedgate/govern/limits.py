"""Limits: requests and tokens per minute, and requests in flight, of keys, users and projects."""

from typing import Annotated, Any

import sqlalchemy as sa
from msgspec import Meta, Struct

from embedgate.core.access import LimitRule, Subject, SubjectKind
from embedgate.core.errors import InvalidInput, UnknownEntity
from embedgate.govern.change import Change, Reading
from embedgate.govern.fields import check_number
from embedgate.govern.lists import Listed, ListQuery, pick, sorts
from embedgate.govern.operation import Facts, changes, reads
from embedgate.govern.subjects import KindOfSubject, SubjectId, SubjectRef, find_subject
from embedgate.storage import schema

_TABLE = schema.limits


class Limit(Struct, frozen=True):
    """Rate limits of one subject, or of each subject of a kind."""

    kind: SubjectKind
    subject: SubjectId
    requests_per_minute: int | None
    tokens_per_minute: int | None
    max_parallel: int | None
    max_waiting: int


class NewLimit(Struct, forbid_unknown_fields=True):
    """The limits to set, at least one. Null or absent: no limit of that sort."""

    kind: KindOfSubject
    subject: SubjectRef
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_parallel: Annotated[int | None, Meta(description="Requests in flight at once.")] = None
    max_waiting: Annotated[int, Meta(description="Requests that may wait for a place; more get 503.")] = 0


class LimitQuery(ListQuery):
    """Which limits."""

    sort: Annotated[
        str, sorts("kind", "subject", "requests_per_minute", "tokens_per_minute", "max_parallel", "max_waiting")
    ] = ""


class WhichLimit(Struct, forbid_unknown_fields=True):
    """A limit."""

    kind: KindOfSubject
    subject: SubjectRef


@reads("limits.list", "GET", "/api/limits", Facts("listLimits"))
def list_limits(reading: Reading, query: LimitQuery) -> Listed[Limit]:
    """List the limits."""
    return pick(map(_limit, read_limits(reading.connection)), query)


@changes(
    "limits.set",
    "PUT",
    "/api/limits/{kind}/{subject}",
    Facts("setLimit", example={"requests_per_minute": 600, "tokens_per_minute": 1_000_000}),
)
def set_limit(change: Change, new: NewLimit) -> Limit:
    """Set a limit.

    Instead of the one that the subject has.
    """
    return put_limit(change, new)


def put_limit(change: Change, new: NewLimit) -> Limit:
    """Set a limit instead of the one that the subject has. Raises InvalidInput, UnknownEntity, or Conflict."""
    _check(new)
    subject = find_subject(change, new.kind, new.subject)
    numbers = {
        "requests_per_minute": new.requests_per_minute,
        "tokens_per_minute": new.tokens_per_minute,
        "max_parallel": new.max_parallel,
        "max_waiting": new.max_waiting,
    }
    is_new = change.connection.execute(_TABLE.delete().where(_of(subject))).rowcount == 0
    row = {"subject_kind": subject.kind, "subject_id": subject.id, **numbers}
    change.connection.execute(_TABLE.insert().values(row))
    change.rules_changed()
    change.note("limits.set", subject.id, subject_kind=subject.kind, **numbers, is_new=is_new)
    return Limit(
        subject.kind,
        subject.id,
        requests_per_minute=new.requests_per_minute,
        tokens_per_minute=new.tokens_per_minute,
        max_parallel=new.max_parallel,
        max_waiting=new.max_waiting,
    )


@changes("limits.delete", "DELETE", "/api/limits/{kind}/{subject}", Facts("deleteLimit"))
def delete_limit(change: Change, which: WhichLimit) -> None:
    """Delete a limit."""
    subject = find_subject(change, which.kind, which.subject)
    if change.connection.execute(_TABLE.delete().where(_of(subject))).rowcount == 0:
        raise UnknownEntity(f"There is no limit for {subject.kind} {subject.id!r}. List the limits.")
    change.rules_changed()
    change.note("limits.delete", subject.id, subject_kind=subject.kind)


def read_limits(connection: sa.Connection) -> tuple[LimitRule, ...]:
    """Every limit, by subject."""
    rows = connection.execute(_TABLE.select().order_by(_TABLE.c.subject_kind, _TABLE.c.subject_id))
    return tuple(map(_rule, rows))


def _of(subject: Subject) -> sa.ColumnElement[bool]:
    return sa.and_(_TABLE.c.subject_kind == subject.kind, _TABLE.c.subject_id == subject.id)


def _rule(row: sa.Row[Any]) -> LimitRule:
    fields = dict(row._mapping)
    return LimitRule(Subject(fields.pop("subject_kind"), fields.pop("subject_id")), **fields)


def _limit(rule: LimitRule) -> Limit:
    return Limit(
        rule.subject.kind,
        rule.subject.id,
        requests_per_minute=rule.requests_per_minute,
        tokens_per_minute=rule.tokens_per_minute,
        max_parallel=rule.max_parallel,
        max_waiting=rule.max_waiting,
    )


def _check(new: NewLimit) -> None:
    numbers = {
        "requests_per_minute": new.requests_per_minute,
        "tokens_per_minute": new.tokens_per_minute,
        "max_parallel": new.max_parallel,
    }
    given = {name: number for name, number in numbers.items() if number is not None}
    if not given:
        raise InvalidInput(
            f"The limit limits nothing. Give at least one of {', '.join(numbers)}.", param="requests_per_minute"
        )
    for name, number in given.items():
        check_number(number, name, param=name, minimum=1)
    check_number(new.max_waiting, "max_waiting", param="max_waiting", minimum=0)


OPERATIONS = (list_limits, set_limit, delete_limit)
