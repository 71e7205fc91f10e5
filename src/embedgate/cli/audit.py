"""`embedgate audit`: the trail of decisions, changes and logins is read, verified and shortened here, never changed."""

import re
from typing import Annotated, Any, Literal

import typer

from embedgate.cli import asking, moments, options
from embedgate.cli.commands import Commands, Session
from embedgate.cli.output import Table
from embedgate.govern import audit
from embedgate.govern.audit import AuditQuery, Event, Pruning, TrailEnd, VerifyQuery
from embedgate.govern.lists import MAX_PAGE_ITEMS, Listed
from embedgate.govern.values import milliseconds, moment_or_none

commands = Commands("Read, verify and shorten the audit trail.")
app = commands.app

_HEAD = re.compile(r"([0-9]{1,18}):([0-9a-fA-F]{64})")
_NOT_INTACT = 1
"""The exit code of a failure."""
_COLUMNS = ("seq", "at", "kind", "actor", "action", "target", "outcome", "policies", "detail")


def _read_head(text: str) -> TrailEnd:
    """`seq:digest` as `verify` prints it."""
    match = _HEAD.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is not of the form SEQ:DIGEST that `embedgate audit verify` prints")
    return TrailEnd(int(match[1]), match[2].lower())


@commands.written("list")
def list_events(
    session: Session,
    kind: Annotated[
        Literal["decision", "change", "login", "retention"] | None, typer.Option(help="Only events of this kind.")
    ] = None,
    actor: Annotated[str | None, typer.Option(metavar="ID", help="Only by this user or key.")] = None,
    action: Annotated[
        str | None, typer.Option(metavar="WORD", help="Only of this action, such as keys.create.")
    ] = None,
    target: Annotated[str | None, typer.Option(metavar="ID", help="Only what was done to this.")] = None,
    outcome: Annotated[str | None, typer.Option(metavar="WORD", help="Only with this outcome, such as forbid.")] = None,
    request_id: Annotated[str | None, typer.Option(metavar="ID", help="Only of this request.")] = None,
    since_ms: Annotated[
        int | None,
        typer.Option(
            "--since", metavar="WHEN", parser=moments.past_ms, help="From then on: 7d ago, or a date or time in UTC."
        ),
    ] = None,
    until_ms: Annotated[
        int | None,
        typer.Option("--until", metavar="WHEN", parser=moments.past_ms, help="Before then, in the same forms."),
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=MAX_PAGE_ITEMS, help="At most so many.")] = 50,
    offset: Annotated[int, typer.Option(metavar="N", min=0, help="Leave out the newest N.")] = 0,
    search: options.Search = "",
) -> None:
    """List events, newest first."""
    query = AuditQuery(
        kind=kind,
        actor=actor,
        action=action,
        target=target,
        outcome=outcome,
        request_id=request_id,
        since=moment_or_none(since_ms),
        until=moment_or_none(until_ms),
        limit=limit,
        offset=offset,
        search=search,
    )
    page = session.call(audit.list_events, query)
    session.show(page, lambda: _table(page))


@commands.written("verify")
def verify(
    session: Session,
    expected: Annotated[
        Any,
        typer.Option(
            "--expect",
            metavar="SEQ:DIGEST",
            parser=_read_head,
            help="A head that was printed before and kept elsewhere; it must still be in the trail.",
        ),
    ] = None,
) -> None:
    """Follow the whole trail from digest to digest, and print where it ends.

    Keep that head in another place: only with it can a trail be told from one that was cut short or written anew.
    """
    kept = VerifyQuery() if expected is None else VerifyQuery(expected.seq, expected.digest)
    found = session.call(audit.verify_trail, kept)
    if found.first_break is None or session.as_json:
        session.show(found, lambda: f"intact: {found.events:,} events; head {found.end.seq}:{found.end.digest}")
    else:
        typer.echo(f"broken: {found.first_break.reason}", err=True)
    if not found.ok:
        raise typer.Exit(_NOT_INTACT)


@commands.written("prune")
def prune(
    session: Session,
    keep_days: Annotated[
        int, typer.Option("--older-than", metavar="DAYS", parser=moments.days, help="Age of what is deleted, in days.")
    ],
    is_agreed: asking.Yes = False,
) -> None:
    """Delete the oldest events. The trail itself tells of it."""
    asking.confirm(f"Delete the events that are older than {keep_days} days?", is_agreed=is_agreed)
    pruned = session.call(audit.prune_trail, Pruning(keep_days))
    session.show(pruned, lambda: f"{pruned.deleted:,} events are deleted")


def _table(page: Listed[Event]) -> Table:
    shown = f"{len(page.items):,} of {page.total:,} events; --limit and --offset show others"
    after = shown if page.total > len(page.items) else ""
    return Table(_COLUMNS, [_row(event) for event in page.items], right=("seq",), after=after)


def _row(event: Event) -> tuple[str, ...]:
    return (
        str(event.seq),
        moments.exact(milliseconds(event.at)),
        event.kind,
        event.actor,
        event.action,
        event.target,
        event.outcome,
        ", ".join(event.policies),
        " ".join(f"{name}={_cell(value)}" for name, value in event.detail.items() if value not in (None, "")),
    )


def _cell(value: str | int | bool | None) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    return repr(text) if " " in text else text
