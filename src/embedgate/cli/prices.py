"""`embedgate prices`: prices of your own, which count before those of the catalogue, each from a time on."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedgate.cli import asking, moments, options
from embedgate.cli.output import print_json, print_table
from embedgate.core.clock import utc_ms
from embedgate.core.money import usd_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedgate.core.access import PriceRule

app = typer.Typer(no_args_is_help=True, help="Set and delete prices of your own.")

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Id of the model.")]
Provider = Annotated[str, typer.Argument(metavar="PROVIDER", help="Name of the provider.")]

_TOKENS_PER_PRICE = 1_000_000
_COLUMNS = ("model", "provider", "$ per million", "from", "state")


@app.command("list")
def list_prices(
    context: typer.Context, as_json: options.AsJson = False, config_file: options.ConfigFile = None
) -> None:
    """List prices, in dollars per million input tokens. Those of the catalogue are shown by `embedgate models`."""
    with options.administration(context, config_file) as opened:
        rules = opened.prices.list()
    if as_json:
        print_json([_as_json(rule) for rule in rules])
    else:
        _print(rules, rules)


@app.command("set")
def set_price(
    context: typer.Context,
    model: Model,
    provider: Provider,
    usd_per_million_tokens: Annotated[
        str, typer.Argument(metavar="DOLLARS", help="Per million input tokens, such as 0.018.")
    ],
    from_ms: Annotated[
        int | None,
        typer.Option(
            "--from", metavar="WHEN", parser=moments.moment_ms, help="When it begins to count; now if absent."
        ),
    ] = None,
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Set the price of a model at a provider from a time on. What the ledger has already is not changed."""
    with options.administration(context, config_file) as opened:
        rule = opened.prices.add(model, provider, usd_per_million_tokens, from_ms=from_ms)
        rules = opened.prices.list()
    if as_json:
        print_json(_as_json(rule))
    else:
        _print([rule], rules)


@app.command("delete")
def delete_price(
    context: typer.Context,
    model: Model,
    provider: Provider,
    from_ms: Annotated[
        int, typer.Argument(metavar="FROM", parser=moments.moment_ms, help="Its time, as the list shows it.")
    ],
    is_agreed: asking.Yes = False,
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Delete a price. The one before it is in force again."""
    asking.confirm(f"Delete the price of {model} at {provider} from {moments.exact(from_ms)}?", is_agreed=is_agreed)
    with options.administration(context, config_file) as opened:
        deleted = opened.prices.delete(model, provider, from_ms)
    if as_json:
        print_json(_as_json(deleted))
    else:
        typer.echo(f"the price of {deleted.model} at {deleted.provider} from {moments.exact(from_ms)} is deleted")


def _print(shown: "Sequence[PriceRule]", every: "Sequence[PriceRule]") -> None:
    """every: all rules, the oldest of a route first: the last of them that has begun is in force."""
    now_ms = utc_ms()
    in_force = {(rule.model, rule.provider): rule for rule in every if rule.from_ms <= now_ms}
    rows = []
    for rule in shown:
        is_in_force = in_force.get((rule.model, rule.provider)) == rule
        state = "in force" if is_in_force else "to come" if rule.from_ms > now_ms else "past"
        rows.append((rule.model, rule.provider, _usd(rule), moments.exact(rule.from_ms), state))
    print_table(_COLUMNS, rows, right=("$ per million",))


def _usd(rule: "PriceRule") -> str:
    return usd_text(rule.picodollars_per_token * _TOKENS_PER_PRICE)


def _as_json(rule: "PriceRule") -> dict[str, Any]:
    return {
        "model": rule.model,
        "provider": rule.provider,
        "usd_per_million_tokens": _usd(rule),
        "from": moments.exact(rule.from_ms),
        "from_ms": rule.from_ms,
    }
