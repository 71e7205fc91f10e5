"""`embedgate audit`: the trail of decisions, changes and logins is read, verified and shortened here, never changed."""

import re
from typing import Annotated, Any, Literal

import typer
from msgspec.structs import replace

from embedgate.cli import asking, moments, options
from embedgate.cli.commands import Commands, Session
from embedgate.cli.output import Table
from embedgate.govern import audit
from embedgate.govern.audit import AuditQuery, Event, Pruning, TrailEnd, Verified, VerifyQuery
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
    actor: Annotated[str | None, typer.Option(metavar="NAME", help="Only by this user or key, by name or id.")] = None,
    action: Annotated[
        str | None, typer.Option(metavar="WORD", help="Only of this action, such as keys.create.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only what was done to this, by name or id.")
    ] = None,
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
    expected_ledger: Annotated[
        Any,
        typer.Option(
            "--expect-ledger", metavar="ID:DIGEST", parser=_read_head, help="The same for a head of the ledger."
        ),
    ] = None,
) -> None:
    """Verify the chains of the audit trail and the ledger. Their last digests are printed.

    Keep these heads in another place: only with them can a chain be told from one that was cut short or written anew.
    """
    kept = VerifyQuery() if expected is None else VerifyQuery(expected.seq, expected.digest)
    if expected_ledger is not None:
        kept = replace(kept, ledger_id=expected_ledger.seq, ledger_digest=expected_ledger.digest)
    found = session.call(audit.verify_trail, kept)
    if found.ok or session.as_json:
        session.show(found, lambda: _intact(found))
    for broken in (found.first_break, found.ledger.first_break):
        if broken is not None and not session.as_json:
            typer.echo(f"broken: {broken.reason}", err=True)
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
    """Delete the oldest events. The audit trail records the deletion."""
    asking.confirm(f"Delete the events that are older than {keep_days} days?", is_agreed=is_agreed)
    pruned = session.call(audit.prune_trail, Pruning(keep_days))
    session.show(pruned, lambda: f"{pruned.deleted:,} events are deleted")


def _intact(found: Verified) -> str:
    text = f"intact: {found.events:,} events; head {found.end.seq}:{found.end.digest}"
    if found.begins_after:
        text += f"\nevents 1 to {found.begins_after:,} were deleted for their age, as the trail tells"
    ledger = found.ledger
    if not ledger.entries:
        return text
    text += f"\nledger intact: {ledger.entries:,} entries; head {ledger.end.id}:{ledger.end.digest}"
    if ledger.begins_after:
        text += f"\nentries 1 to {ledger.begins_after:,} are from before the chain, and not verified"
    return text


def _table(page: Listed[Event]) -> Table:
    shown = f"{len(page.items):,} of {page.total:,} events; --limit and --offset show others"
    after = shown if page.total > len(page.items) else ""
    return Table(
        _COLUMNS,
        [_row(event) for event in page.items],
        right=("seq",),
        after=after,
        least=("detail", "policies", "kind", "seq"),
    )


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
