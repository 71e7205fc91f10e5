"""`embedgate prices`: prices of your own, which count before those of the catalogue, each from a time on."""

from collections.abc import Sequence
from typing import Annotated

import typer

from embedgate.cli import asking, moments
from embedgate.cli.commands import Commands, Session
from embedgate.cli.output import Table
from embedgate.core.clock import utc_now
from embedgate.govern import prices
from embedgate.govern.prices import NewPrice, Price, PriceQuery, WhichPrice
from embedgate.govern.values import milliseconds, moment

commands = Commands("Set and delete prices of your own.")
app = commands.app

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Id of the model.")]
Provider = Annotated[str, typer.Argument(metavar="PROVIDER", help="Name of the provider.")]

commands.add_list(
    "list",
    prices.list_prices,
    lambda found: _table(found, found),
    doc="List prices, in dollars per million input tokens. Those of the catalogue are shown by `embedgate models`.",
)


@commands.written("set")
def set_price(
    session: Session,
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
) -> None:
    """Set the price of a model at a provider from a time on. What the ledger has already is not changed."""
    since = None if from_ms is None else moment(from_ms)
    price = session.call(prices.add_price, NewPrice(model, provider, usd_per_million_tokens, since))
    session.show(price, lambda: _table([price], session.every(prices.list_prices, PriceQuery()).items))


@commands.written("delete")
def delete_price(
    session: Session,
    model: Model,
    provider: Provider,
    from_ms: Annotated[
        int, typer.Argument(metavar="FROM", parser=moments.moment_ms, help="Its time, as the list shows it.")
    ],
    is_agreed: asking.Yes = False,
) -> None:
    """Delete a price. The one before it is in force again."""
    exact, since = moments.exact(from_ms), moment(from_ms)
    asking.confirm(f"Delete the price of {model} at {provider} from {exact}?", is_agreed=is_agreed)
    which = WhichPrice(model, provider, since)
    listed = session.every(prices.list_prices, PriceQuery())
    alike = (price for price in listed.items if (price.provider, price.since) == (provider, since))
    deleted = next((price for price in alike if model in (price.model, price.model.partition("/")[2])), which)
    session.call(prices.delete_price, which)
    session.show(deleted, lambda: f"the price of {deleted.model} at {provider} from {exact} is deleted")


def _table(shown: Sequence[Price], every: Sequence[Price]) -> Table:
    """every: all prices, the oldest of a route first: the last of them that has begun is in force."""
    now = utc_now()
    in_force = {(price.model, price.provider): price for price in every if price.since <= now}
    rows = []
    for price in shown:
        is_in_force = in_force.get((price.model, price.provider)) == price
        state = "in force" if is_in_force else "to come" if price.since > now else "past"
        since = moments.exact(milliseconds(price.since))
        rows.append((price.model, price.provider, price.usd_per_million_tokens, since, state))
    return Table(("model", "provider", "$ per million", "from", "state"), rows, right=("$ per million",))
