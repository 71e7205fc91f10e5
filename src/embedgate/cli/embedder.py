"""Which embedder a command works with: a gateway in this process, or one elsewhere. Shared options, and opening it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from embedgate.cli import options

if TYPE_CHECKING:
    from embedgate.client import Client
    from embedgate.config import Loaded
    from embedgate.core.ports import Embedder
    from embedgate.toolkit.collections.collection import Rerank

Model = Annotated[str | None, typer.Option(metavar="ID", help="Id of the model; the embedded one if absent.")]
Dim = Annotated[int | None, typer.Option("--dimensions", metavar="N", min=1, help="Length of the vectors.")]
Url = Annotated[
    str | None, typer.Option("--url", metavar="URL", envvar="EMBEDGATE_URL", help="Use the gateway at this address.")
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        metavar="KEY",
        envvar="EMBEDGATE_API_KEY",
        show_envvar=True,
        help="Key for the gateway at --url. Better set in the environment, where no list of processes shows it.",
    ),
]
ApiKeyFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="File with that key, which then no list of processes shows.")
]
Truncate = Annotated[
    Literal["none", "start", "end"],
    typer.Option(help="Where to cut texts that are too long for the model; they are refused if none."),
]

_REMOTE_TIMEOUT_S = 300
"""As long as a gateway may take for one request, unless its settings say otherwise."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the options of a command ask for."""

    model: str | None = None
    dim: int | None = None
    truncate: Literal["none", "start", "end"] = "none"
    url: str | None = None
    api_key: str | None = None
    api_key_file: Path | None = None


def check(context: typer.Context, wish: Wish) -> None:
    """Refuse a key that is given twice, or without a gateway to use it at; one in the environment may stay unused."""
    is_given = _is_on_the_command_line(context, "api_key")
    if is_given and wish.api_key_file is not None:
        raise typer.BadParameter("give the key or its file, not both", param_hint="--api-key")
    if wish.url is None and (is_given or wish.api_key_file is not None):
        raise typer.BadParameter("a key is for the gateway at --url, which is missing", param_hint="--url")


@contextmanager
def opened(context: typer.Context, config_file: Path | None, wish: Wish) -> "Iterator[Embedder]":
    """The embedder that the options ask for: the gateway at --url, else one in this process, its ledger and cache too.

    Raises ConfigError, OSError for a key file that cannot be read.
    """
    check(context, wish)
    if wish.url is None:
        with _in_process(options.load_settings(context, config_file), wish) as embedder:
            yield embedder
        return
    from embedgate.toolkit.embedders import ClientEmbedder

    with gateway(wish) as client:
        yield ClientEmbedder(client, dim=wish.dim, truncate=wish.truncate)


@contextmanager
def reranker(wish: Wish, model: str | None) -> "Iterator[Rerank | None]":
    """What scores texts against a question: a rerank model of the gateway at --url; None if no model is named."""
    if model is None or wish.url is None:
        yield None
        return
    with gateway(wish) as client:
        yield lambda question, found: client.rerank(question, found, model=model)


@contextmanager
def gateway(wish: Wish) -> "Iterator[Client]":
    """The client of the gateway at --url. Raises OSError for a key file that cannot be read."""
    from embedgate.client import DEFAULT_MODEL, DEFAULT_URL, Client

    url, model = wish.url or DEFAULT_URL, wish.model or DEFAULT_MODEL
    with Client(_key(wish), url, timeout_s=_REMOTE_TIMEOUT_S, model=model) as client:
        yield client


def _is_on_the_command_line(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _key(wish: Wish) -> str | None:
    if wish.api_key_file is not None:
        return wish.api_key_file.read_text(encoding="utf-8", errors="replace").strip()
    return wish.api_key


@contextmanager
def _in_process(loaded: "Loaded", wish: Wish) -> "Iterator[Embedder]":
    from embedgate.observe import events
    from embedgate.wiring import open_embedder

    events.configure("warning", loaded.settings.log.format)
    model = wish.model or loaded.settings.local.default_model
    with open_embedder(loaded, model, wish.dim, wish.truncate) as embedder:
        yield embedder
