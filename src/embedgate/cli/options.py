"""What several commands share: their common options, and how settings are loaded for them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from embedgate.config import Loaded

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Settings file. If absent: EMBEDGATE_CONFIG, else ./embedgate.toml if it is there.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def load_settings(
    context: typer.Context, config_file: Path | None, overrides: Mapping[str, Mapping[str, Any]] | None = None
) -> "Loaded":
    """The settings of a command: its own --config counts before the one given in front of it.

    overrides: values by section and field; None values are left out. Raises ConfigError with every mistake.
    """
    from embedgate import config  # pydantic takes longer to import than `--help` takes to print

    return config.load(config_file or context.obj, overrides=overrides)
