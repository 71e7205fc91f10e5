"""`embedgate limits`: how much a key, a user or a project may ask at a time."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedgate.cli import asking, options, subjects
from embedgate.cli.output import count, print_json, print_table

if TYPE_CHECKING:
    from embedgate.core.access import LimitRule

app = typer.Typer(no_args_is_help=True, help="Set and take away limits of requests and tokens.")

_COLUMNS = ("for", "requests/min", "tokens/min", "at once", "waiting")


class _Field(StrEnum):
    """What can be taken away alone. (typer takes no list of literals.)"""

    REQUESTS_PER_MINUTE = "requests-per-minute"
    TOKENS_PER_MINUTE = "tokens-per-minute"
    MAX_PARALLEL = "max-parallel"
    MAX_WAITING = "max-waiting"


@app.command("list")
def list_limits(
    context: typer.Context, as_json: options.AsJson = False, config_file: options.ConfigFile = None
) -> None:
    """List limits. A request must keep those of its key, its user and its project."""
    with options.administration(context, config_file) as opened:
        rules = opened.limits.list()
        names = {} if as_json else subjects.names(opened, [rule.subject for rule in rules])
    if as_json:
        print_json(rules)
    else:
        _print([(names[rule.subject], rule) for rule in rules])


@app.command("set")
def set_limit(
    context: typer.Context,
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
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Change the limit of a subject: what is given; the rest stays as it is."""
    given = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "max_parallel": max_parallel,
        "max_waiting": max_waiting,
    }
    options.require_some({**given, "unset": unset})
    subject = subjects.named(user, project, key)
    with options.administration(context, config_file) as opened:
        found = subjects.found(opened, subject)
        before = next((rule for rule in opened.limits.list() if rule.subject == found), None)
        numbers = _numbers(before) | {name: number for name, number in given.items() if number is not None}
        for name in unset or ():
            numbers[name.replace("-", "_")] = None
        waiting = numbers.pop("max_waiting")
        rule = opened.limits.set(found.kind, found.id, **numbers, max_waiting=waiting or 0)
        names = subjects.names(opened, [rule.subject])
    if as_json:
        print_json(rule)
    else:
        _print([(names[rule.subject], rule)])


@app.command("delete")
def delete_limit(
    context: typer.Context,
    user: subjects.User = None,
    project: subjects.Project = None,
    key: subjects.Key = None,
    is_agreed: asking.Yes = False,
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Take away every limit of a subject."""
    subject = subjects.named(user, project, key)
    asking.confirm(f"Take away the limit of {subject.kind} {subject.name}?", is_agreed=is_agreed)
    with options.administration(context, config_file) as opened:
        deleted = opened.limits.delete(*subject)
    if as_json:
        print_json(deleted)
    else:
        typer.echo(f"the limit of {subject.kind} {subject.name} is taken away")


def _numbers(rule: "LimitRule | None") -> dict[str, Any]:
    if rule is None:
        return dict.fromkeys(("requests_per_minute", "tokens_per_minute", "max_parallel", "max_waiting"))
    return {
        "requests_per_minute": rule.requests_per_minute,
        "tokens_per_minute": rule.tokens_per_minute,
        "max_parallel": rule.max_parallel,
        "max_waiting": rule.max_waiting,
    }


def _print(named: "list[tuple[str, LimitRule]]") -> None:
    rows = [
        (
            name,
            count(rule.requests_per_minute),
            count(rule.tokens_per_minute),
            count(rule.max_parallel),
            count(rule.max_waiting) if rule.max_parallel is not None else "",
        )
        for name, rule in named
    ]
    print_table(_COLUMNS, rows, right=_COLUMNS[1:])
