"""`embedgate similar`: the texts of a collection that are nearest to one of them."""

from typing import Annotated

import typer

from embedgate.cli import collection, options, results


def similar(
    context: typer.Context,
    name: collection.Name,
    item_id: Annotated[str, typer.Argument(metavar="ID", help="Id of a text of the collection.", show_default=False)],
    k: collection.K = 5,
    where: collection.Where = None,
    file_format: results.RowsFormat = None,
    output: results.Output = None,
    as_json: options.AsJson = False,
    store: collection.Store = None,
    config_file: options.ConfigFile = None,
) -> None:
    """Find the texts of a collection that are nearest to one of them. Embeds nothing."""
    with collection.opened_alone(context, config_file, store, name) as found_in:
        found = found_in.similar(item_id, k, where=where)
        nothing = "" if found else collection.why_nothing(found_in, where)
    collection.print_found(found, output, file_format, as_json=as_json, nothing=nothing)
