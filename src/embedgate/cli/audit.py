"""`embedgate audit`: the trail of decisions, changes and logins is read, verified and shortened here, never changed."""

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from embedgate.cli import asking, moments, options
from embedgate.cli.output import print_json, print_table
from embedgate.core.pages import MAX_PAGE_ITEMS, PageQuery

if TYPE_CHECKING:
    from embedgate.storage.audit import StoredEvent
    from embedgate.storage.verify import Head

app = typer.Typer(no_args_is_help=True, help="Read, verify and shorten the audit trail.")

_HEAD = re.compile(r"([0-9]{1,18}):([0-9a-fA-F]{64})")
_NOT_INTACT = 1
"""The exit code of a failure."""


def _read_head(text: str) -> tuple[int, str]:
    """`seq:digest` as `verify` prints it."""
    match = _HEAD.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is not of the form SEQ:DIGEST that `embedgate audit verify` prints")
    return int(match[1]), match[2].lower()


@app.command("list")
def list_events(
    context: typer.Context,
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
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """List events, newest first."""
    from embedgate.storage.audit import AuditFilter  # brings the database

    filter_by = AuditFilter(
        kind=kind,
        actor=actor,
        action=action,
        target=target,
        outcome=outcome,
        request_id=request_id,
        since_ms=since_ms,
        until_ms=until_ms,
    )
    with options.administration(context, config_file) as opened:
        page = opened.audit.events(filter_by, PageQuery(offset=offset, limit=limit, search=search))
    if as_json:
        print_json(page)
        return
    columns = ("seq", "at", "kind", "actor", "action", "target", "outcome", "policies", "detail")
    print_table(columns, [_row(stored) for stored in page.items], right=("seq",))
    if page.total > len(page.items):
        typer.echo(f"\n{len(page.items):,} of {page.total:,} events; --limit and --offset show others")


@app.command("verify")
def verify(
    context: typer.Context,
    expected: Annotated[
        Any,
        typer.Option(
            "--expect",
            metavar="SEQ:DIGEST",
            parser=_read_head,
            help="A head that was printed before and kept elsewhere; it must still be in the trail.",
        ),
    ] = None,
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Follow the whole trail from digest to digest, and print where it ends.

    Keep that head in another place: only with it can a trail be told from one that was cut short or written anew.
    """
    from embedgate.storage.verify import Head

    with options.administration(context, config_file) as opened:
        found = opened.audit.verify(Head(*expected) if expected else None)
    if as_json:
        print_json(
            {"is_intact": found.is_intact, **_as_json(found.count, found.head), "first_break": found.first_break}
        )
    elif found.first_break is None:
        typer.echo(f"intact: {found.count:,} events; head {_text(found.head)}")
    else:
        typer.echo(f"broken: {found.first_break.reason}", err=True)
    if not found.is_intact:
        raise typer.Exit(_NOT_INTACT)


@app.command("prune")
def prune(
    context: typer.Context,
    keep_days: Annotated[
        int, typer.Option("--older-than", metavar="DAYS", parser=moments.days, help="Age of what is deleted, in days.")
    ],
    is_agreed: asking.Yes = False,
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Delete the oldest events. The trail itself tells of it."""
    asking.confirm(f"Delete the events that are older than {keep_days} days?", is_agreed=is_agreed)
    with options.administration(context, config_file) as opened:
        deleted = opened.audit.prune(keep_days)
    if as_json:
        print_json({"deleted": deleted})
    else:
        typer.echo(f"{deleted:,} events are deleted")


def _row(stored: "StoredEvent") -> tuple[str, ...]:
    event = stored.event
    return (
        str(stored.seq),
        moments.exact(event.at_ms),
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


def _text(head: "Head") -> str:
    return f"{head.seq}:{head.digest}"


def _as_json(count: int, head: "Head") -> dict[str, Any]:
    return {"count": count, "head": _text(head)}
