"""What several commands share: their common options, and how settings and the database are opened for them."""

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
Url = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", envvar="EMBEDGATE_URL", help="Work on the running gateway at this address."),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        metavar="KEY",
        envvar="EMBEDGATE_API_KEY",
        show_envvar=True,
        help="An administrator's key for it. Better set in the environment, where no list of processes shows it.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print CSV.")]
Search = Annotated[str, typer.Option(metavar="TEXT", help="Only those with this text in a name, an id or the like.")]


def load_settings(
    context: typer.Context, config_file: Path | None, overrides: Mapping[str, Mapping[str, Any]] | None = None
) -> "Loaded":
    """The settings of a command: its own --config counts before the one given in front of it.

    overrides: values by section and field; None values are left out. Raises ConfigError with every mistake.
    """
    from embedgate import config  # pydantic takes longer to import than `--help` takes to print

    return config.load(config_file or context.obj, overrides=overrides)


def require_some(changes: Mapping[str, object]) -> None:
    """Refuse a command that was given nothing to change."""
    if all(value is None for value in changes.values()):
        raise typer.BadParameter("nothing to change; give at least one of the options that --help lists")
