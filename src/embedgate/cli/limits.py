"""`embedgate limits`: rate limits of keys, users and projects."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer

from embedgate.cli import asking, options, subjects
from embedgate.cli.commands import Commands, Session
from embedgate.cli.output import Table, count
from embedgate.core.access import Subject
from embedgate.govern import limits
from embedgate.govern.limits import Limit, LimitQuery, NewLimit, WhichLimit

commands = Commands("Set and take away limits of requests and tokens.")
app = commands.app

_COLUMNS = ("for", "requests/min", "tokens/min", "at once", "waiting")


class _Field(StrEnum):
    """What can be taken away alone. (typer takes no list of literals.)"""

    REQUESTS_PER_MINUTE = "requests-per-minute"
    TOKENS_PER_MINUTE = "tokens-per-minute"
    MAX_PARALLEL = "max-parallel"
    MAX_WAITING = "max-waiting"


@commands.written("list")
def list_limits(session: Session) -> None:
    """List limits. Those of its key, its user and its project all apply to a request."""
    listed = session.every(limits.list_limits, LimitQuery())
    session.show(listed, lambda: _table(session, listed.items))


@commands.written("set")
def set_limit(
    session: Session,
    user: subjects.User = None,
    project: subjects.Project = None,
    key: subjects.Key = None,
    requests_per_minute: Annotated[int | None, typer.Option(metavar="N", help="Requests in a minute.")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(metavar="N", help="Tokens in a minute.")] = None,
    max_parallel: Annotated[int | None, typer.Option(metavar="N", help="Requests in flight at once.")] = None,
    max_waiting: Annotated[
        int | None, typer.Option(metavar="N", help="Requests that may wait for a place; any further get 503.")
    ] = None,
    unset: Annotated[
        list[_Field] | None, typer.Option(metavar="NAME", help=f"Take one away: {', '.join(_Field)}; repeatable.")
    ] = None,
) -> None:
    """Change limits of a subject. What is not given stays as it is."""
    given = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "max_parallel": max_parallel,
        "max_waiting": max_waiting,
    }
    options.require_some({**given, "unset": unset})
    subject = subjects.find(session, subjects.named(user, project, key))
    before = _limit_of(session, subject)
    numbers = {name: getattr(before, name, None) if number is None else number for name, number in given.items()}
    for name in unset or ():
        numbers[name.replace("-", "_")] = None
    limit = session.call(
        limits.set_limit,
        NewLimit(
            subject.kind,
            subject.id,
            requests_per_minute=numbers["requests_per_minute"],
            tokens_per_minute=numbers["tokens_per_minute"],
            max_parallel=numbers["max_parallel"],
            max_waiting=numbers["max_waiting"] or 0,
        ),
    )
    session.show(limit, lambda: _table(session, [limit]))


@commands.written("delete")
def delete_limit(
    session: Session,
    user: subjects.User = None,
    project: subjects.Project = None,
    key: subjects.Key = None,
    is_agreed: asking.Yes = False,
) -> None:
    """Delete every limit of a subject."""
    named = subjects.named(user, project, key)
    asking.confirm(f"Take away the limit of {named.kind} {named.name}?", is_agreed=is_agreed)
    subject = subjects.find(session, named)
    deleted = _limit_of(session, subject)
    session.call(limits.delete_limit, WhichLimit(subject.kind, subject.id))
    session.show(deleted, lambda: f"the limit of {named.kind} {named.name} is taken away")


def _limit_of(session: Session, subject: Subject) -> Limit | None:
    listed = session.every(limits.list_limits, LimitQuery())
    return next((limit for limit in listed.items if Subject(limit.kind, limit.subject) == subject), None)


def _table(session: Session, found: Sequence[Limit]) -> Table:
    names = subjects.names(session, [Subject(limit.kind, limit.subject) for limit in found])
    rows = [
        (
            names[Subject(limit.kind, limit.subject)],
            count(limit.requests_per_minute),
            count(limit.tokens_per_minute),
            count(limit.max_parallel),
            count(limit.max_waiting) if limit.max_parallel is not None else "",
        )
        for limit in found
    ]
    return Table(_COLUMNS, rows, right=_COLUMNS[1:])
