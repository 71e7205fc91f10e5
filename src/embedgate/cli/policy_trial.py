"""`embedgate policies try`: what the policies say of a key and a model, without a request."""

from typing import Annotated, Literal

import typer

from embedgate.cli import moments
from embedgate.cli.commands import Session
from embedgate.cli.output import Table
from embedgate.govern.dry_run import DryRunOf, Judged, Verdict, judge
from embedgate.govern.values import moment


def try_policies(
    session: Session,
    key: Annotated[str, typer.Option(metavar="KEY", help="Name or id of the key.")],
    model: Annotated[str, typer.Option(metavar="ID", help="The model, as a caller would name it.")],
    n_inputs: Annotated[int, typer.Option("--inputs", metavar="N", help="How many texts.")] = 1,
    tokens: Annotated[int, typer.Option(metavar="N", help="How many tokens, all texts together.")] = 0,
    dim: Annotated[int | None, typer.Option("--dimensions", metavar="N", help="Length of the vectors.")] = None,
    input_type: Annotated[Literal["query", "document", "none"], typer.Option(help="What the texts are.")] = "none",
    ip_address: Annotated[str, typer.Option("--ip", metavar="ADDRESS", help="Where it comes from.")] = "127.0.0.1",
    at_ms: Annotated[
        int | None, typer.Option("--at", metavar="TIME", parser=moments.moment_ms, help="When; now if absent.")
    ] = None,
    is_emergency: Annotated[
        bool | None,
        typer.Option("--emergency/--no-emergency", help="As setting access.is_emergency says if absent."),
    ] = None,
) -> None:
    """Show what the policies decide about a request.

    The decision is given for each provider; nothing is sent or counted.
    """
    judged = session.call(
        judge,
        DryRunOf(
            key=key,
            model=model,
            n_inputs=n_inputs,
            tokens=tokens,
            dim=dim,
            input_type=input_type,
            ip_address=ip_address,
            at=None if at_ms is None else moment(at_ms),
            is_emergency=is_emergency,
        ),
    )
    session.show(judged, lambda: _table(judged))


def _table(judged: Judged) -> Table:
    key = judged.key
    told = ""
    if key.models is not None and judged.model not in key.models:
        told = f"The key may use nothing but {', '.join(key.models) or 'no model'}."
    if key.state != "active":
        told = f"The key is {key.state}: a request with it is refused before the policies are asked."
    return Table(
        ("provider", "answer", "because of", "cost at most"),
        [_row(verdict) for verdict in judged.providers],
        right=("cost at most",),
        before=f"{key.id}, the key of {key.user_name} for {key.name}, with {judged.model}:",
        after=told,
    )


def _row(verdict: Verdict) -> tuple[str, ...]:
    if verdict.is_permitted:
        answer, reason = "permitted", ", ".join(verdict.policies)
    else:
        answer, reason = "refused", ", ".join(verdict.policies) or "no policy permits it"
    if verdict.errors:
        reason += f"; failed: {', '.join(verdict.errors)}"
    return verdict.provider, answer, reason, verdict.cost_usd
