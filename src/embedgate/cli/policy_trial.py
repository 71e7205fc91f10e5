"""`embedgate policies try`: what the policies say of a key and a model, without a request."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from embedgate.cli import moments, options
from embedgate.cli.output import print_json, print_table
from embedgate.core.money import usd_text

if TYPE_CHECKING:
    from embedgate.administration import DryRun, Tried


def try_policies(
    context: typer.Context,
    key: Annotated[str, typer.Option(metavar="KEY", help="Id of the key, or its name if no other has it.")],
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
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Show what the policies in force would say of a request, provider by provider. Nothing is sent or counted."""
    from embedgate.administration import Trial
    from embedgate.wiring import open_administration  # brings the database and all that the gateway is made of

    loaded = options.load_settings(context, config_file)
    trial = Trial(
        key=key,
        model=model,
        n_inputs=n_inputs,
        tokens=tokens,
        dim=dim,
        input_type=input_type,
        ip_address=ip_address,
        at=None if at_ms is None else moments.utc_datetime(at_ms),
        is_emergency=loaded.settings.access.is_emergency if is_emergency is None else is_emergency,
    )
    with open_administration(loaded) as opened:
        run = opened.policies.dry_run(trial)
    if as_json:
        print_json(_as_json(run))
        return
    typer.echo(f"{run.key.id}, the key of {run.key.user_name} for {run.key.name}, with {run.model}:\n")
    print_table(
        ("provider", "answer", "because of", "cost at most"),
        [_row(tried) for tried in run.tried],
        right=("cost at most",),
    )
    if run.key_state != "active":
        typer.echo(f"\nThe key is {run.key_state}: a request with it is refused before the policies are asked.")


def _row(tried: "Tried") -> tuple[str, ...]:
    decision = tried.decision
    if decision.is_permitted:
        answer, reason = "permitted", ", ".join(decision.policies)
    else:
        answer, reason = "refused", ", ".join(decision.policies) or "no policy permits it"
    if decision.errors:
        reason += f"; failed: {', '.join(decision.errors)}"
    return tried.provider, answer, reason, usd_text(tried.question.cost_picodollars)


def _as_json(run: "DryRun") -> dict[str, Any]:
    return {
        "key": run.key.id,
        "key_state": run.key_state,
        "model": run.model,
        "is_permitted": run.is_permitted,
        "providers": [
            {
                "provider": tried.provider,
                "is_permitted": tried.decision.is_permitted,
                "policies": tried.decision.policies,
                "errors": tried.decision.errors,
                "max_cost_usd": usd_text(tried.question.cost_picodollars),
            }
            for tried in run.tried
        ],
    }
