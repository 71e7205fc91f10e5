"""Commands that read texts, embed them and show something: the options that all have, and what they do with them."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec

import typer

from embedgate.cli import embedder, options, results, texts
from embedgate.core.errors import GatewayError, InvalidInput

if TYPE_CHECKING:
    from embedgate.core.ports import Embedder
    from embedgate.core.types import InputType
    from embedgate.core.vectors import Vectors
    from embedgate.toolkit.records import Record
    from embedgate.toolkit.writing import Row

Given = ParamSpec("Given")

Seed = Annotated[
    int, typer.Option(metavar="N", min=0, help="Seed of the random numbers: the same gives the same result.")
]


@dataclass(frozen=True, slots=True)
class Call:
    """One run of such a command: its texts, its embedder, and where its result goes."""

    context: typer.Context
    files: Sequence[Path]
    column: str | None
    id_column: str | None
    read_as: Any
    encoding: str
    skip_empty: bool
    wish: embedder.Wish
    output: Path | None
    file_format: str | None
    as_json: bool
    config_file: Path | None

    def records(self) -> "list[Record]":
        """The texts that are named. Raises InvalidInput, OSError."""
        return texts.read(self.files, self.reading(self.column))

    def reading(self, column: str | None) -> "Any":
        """How files are read: with the options of the command, the texts from that column."""
        from embedgate.toolkit.reading import Reading

        return Reading(column, self.id_column, self.read_as, skip_empty=self.skip_empty, encoding=self.encoding)

    @contextmanager
    def embedder(self) -> "Iterator[Embedder]":
        """The embedder that the options name. Raises ConfigError, OSError."""
        with embedder.opened(self.context, self.config_file, self.wish) as source:
            yield source

    def read_and_embed(self) -> "tuple[list[Record], Vectors]":
        """The texts, and their vectors (n, d). Raises InvalidInput, and what embedders raise."""
        embedder.check(self.context, self.wish)
        records = self.records()
        with self.embedder() as source:
            return records, embedded(source, records)

    def print_rows(self, rows: "Sequence[Row]") -> bool:
        """Write rows where the options say; False if they say nothing, and a table is for the command to print."""
        return results.print_rows(rows, self.output, self.file_format, as_json=self.as_json)


def embedded(
    source: "Embedder",
    records: "Sequence[Record]",
    what: str = "embedding",
    input_type: "InputType | None" = None,
) -> "Vectors":
    """The vectors of texts, (n, d) float32, with progress. A text that is refused is named by its line."""
    return embedded_texts(
        source, [record.text for record in records], what, [str(each.origin) for each in records], input_type
    )


def embedded_texts(
    source: "Embedder",
    values: Sequence[str],
    what: str,
    origins: Sequence[str],
    input_type: "InputType | None" = None,
) -> "Vectors":
    """As `embedded`, for texts that are no records. origins: where each is from, for messages."""
    from embedgate.toolkit.embedding import embed_all

    done = 0

    def advanced(n: int, _: int) -> None:
        nonlocal done
        advance(n - done)
        done = n

    is_long = len(values) > source.call_limits.max_inputs
    with texts.named_by_line(origins), results.progress(what, len(values), is_long=is_long) as advance:
        try:
            return embed_all(source, values, input_type, on_progress=advanced)
        except InvalidInput:
            raise
        except GatewayError:
            if done:
                results.say(f"failed after {done:,} of {len(values):,} texts")
            raise


def with_texts(function: Callable[Concatenate[Call, Given], None]) -> Callable[..., None]:
    """Make a command of a function of a `Call` and its own options, followed by the common options."""
    return _command(function, (*_SHARED, *_OF_ROWS))


def with_texts_into_files(function: Callable[Concatenate[Call, Given], None]) -> Callable[..., None]:
    """As `with_texts`, for a command that writes other things than rows, by options of its own."""
    return _command(function, _SHARED)


def _command(
    function: Callable[Concatenate[Call, Given], None], shared: Sequence[tuple[str, Any, Any]]
) -> Callable[..., None]:

    def command(
        context: typer.Context,
        files: list[Path],
        model: str | None,
        dim: int | None,
        truncate: Any,
        url: str | None,
        api_key: str | None,
        api_key_file: Path | None,
        **given: Any,
    ) -> None:
        wish = embedder.Wish(model, dim, truncate, url, api_key, api_key_file)
        common = {name: given.pop(name, default) for name, default in _FIELDS.items()}
        results.rows_format(common["output"], common["file_format"])
        function(Call(context, files, wish=wish, **common), **given)  # type: ignore[call-arg]  # typer gives the rest

    _, *own = inspect.signature(function, eval_str=True).parameters.values()
    by_keyword = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    parameters = [*(_parameter(*each) for each in _BEFORE), *by_keyword, *(_parameter(*each) for each in shared)]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__doc__ = function.__doc__
    command.__name__ = function.__name__
    return command


def _parameter(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


_BEFORE: tuple[tuple[Any, ...], ...] = (("context", typer.Context), ("files", texts.Files))
_SHARED: tuple[tuple[str, Any, Any], ...] = (
    ("column", texts.Column, None),
    ("id_column", texts.IdColumn, None),
    ("read_as", texts.ReadAs, None),
    ("encoding", texts.Encoding, "utf-8"),
    ("skip_empty", texts.SkipEmpty, False),
    ("model", embedder.Model, None),
    ("dim", embedder.Dim, None),
    ("truncate", embedder.Truncate, "none"),
    ("url", embedder.Url, None),
    ("api_key", embedder.ApiKey, None),
    ("api_key_file", embedder.ApiKeyFile, None),
    ("config_file", options.ConfigFile, None),
)
_OF_ROWS: tuple[tuple[str, Any, Any], ...] = (
    ("output", results.Output, None),
    ("file_format", results.RowsFormat, None),
    ("as_json", options.AsJson, False),
)
_OF_THE_EMBEDDER = ("model", "dim", "truncate", "url", "api_key", "api_key_file")
_FIELDS = {name: default for name, _, default in (*_SHARED, *_OF_ROWS) if name not in _OF_THE_EMBEDDER}
