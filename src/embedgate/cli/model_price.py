"""What a model costs at each provider that is known here, for commands that say so before or after using it."""

from pathlib import Path

import typer

from embedgate.cli import options


def known_prices(context: typer.Context, config_file: Path | None, name: str) -> list[int]:
    """Picodollars per token at each provider, the lowest first; 0 for a model that costs nothing, none if not known.

    The model is looked up in the catalogue, the settings and the data folder of this machine. Raises ConfigError.
    """
    from embedgate.wiring import decide_as_stored

    decided = decide_as_stored(options.load_settings(context, config_file))
    model = decided.find_model(decided.catalog.parse_model_name(name)[0])
    if model is None:
        return []
    known = sorted(route.price.picodollars_per_token for route in model.routes if route.price)
    return known or ([0] if all(route.is_free for route in model.routes) else [])
