"""Generator of the reference pages in docs/reference/: settings, errors, models, commands, providers.

`pages()` gives them as text, so that a test can tell whether the files have drifted. Every fact comes from the module
that owns it; only the sentences between the tables are written here.
"""

import ast
import inspect
import re
import tomllib
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from importlib import resources
from itertools import groupby
from pathlib import Path

import orjson
from pydantic import BaseModel
from typer import Context
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

import embedgate
from embedgate import config
from embedgate.catalog import Catalog
from embedgate.cli.main import COMMANDS, EXIT_CODES, app, load
from embedgate.core import errors
from embedgate.core.actions import RERANK
from embedgate.core.errors import AccessError, GatewayError, InternalError, RequestError, UpstreamError
from embedgate.core.models import DimRange, Model, Route
from embedgate.inference.available import available_models
from embedgate.providers import fake, hosts
from embedgate.providers.hosts import GENERIC, Host
from embedgate.server.answer import Answer
from embedgate.server.describe.errors import REQUEST_ID, error_samples
from embedgate.server.dialects import openai, ziri
from embedgate.settings import LocalSettings, Settings
from embedgate.settings_reference import fields

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
PROGRAM = "embedgate"
_NOTICE = "<!-- Written by `make docs` from the code; edits here are lost. -->"
_RETRIED_STATUSES = {408, 500, 502, 503, 504}


def pages() -> dict[str, str]:
    """The text of every reference page, by file name."""
    return {
        "settings.md": _page("Settings", _settings()),
        "errors.md": _page("Errors", _errors()),
        "models.md": _page("Models", _models()),
        "commands.md": _page("Commands", _commands()),
        "providers.md": _page("Providers", _providers()),
    }


def main() -> None:
    """Write the pages."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


def _page(title: str, blocks: Iterable[str]) -> str:
    return "\n\n".join([f"# {title}", _NOTICE, *blocks]) + "\n"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *([_cell(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Escaped text of a table cell: it cannot end the cell, nor start a tag outside of code."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()).replace("|", r"\|"))
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in parts)


def _code(items: Iterable[str]) -> str:
    return ", ".join(f"`{item}`" for item in items)


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def variable(path: str) -> str:
    """The environment variable of a setting, given as `section.field`."""
    short = {".".join(target): name for name, target in config.SHORT_NAMES.items()}
    return short.get(path) or config.PREFIX + path.upper().replace(".", "__")


def _settings() -> Iterator[str]:
    yield (
        f"A setting comes from the command line, else from the environment, else from the settings file, else it has "
        f"its default. The file is the one named by `--config` or `{config.CONFIG_VARIABLE}`, else `embedgate.toml` in "
        "the folder where the gateway starts, if it is there. An unknown name in the file, or after "
        f"`{config.PREFIX}` in the environment, is an error; all errors are reported at once."
    )
    yield (
        "Below, `server.port` is the field `port` in the table `[server]`. `<name>` is a name of yours; in an "
        "environment variable it is written in capitals and read in small letters."
    )
    yield "```toml\n[server]\nport = 8080\n\n[providers.openai]\nmax_parallel = 16\n```"
    described = dict(_section_texts(Settings, ""))
    for section, infos in groupby(fields(), key=lambda info: info.path.rpartition(".")[0]):
        yield f"## `{section}`"
        yield described[section]
        rows = [
            (f"`{info.path}`", f"`{variable(info.path)}`", info.type, info.default, info.description) for info in infos
        ]
        yield _table(("Setting", "Environment", "Type", "Default", "Meaning"), rows)


def _section_texts(section: type[BaseModel], path: str) -> Iterator[tuple[str, str]]:
    """The docstring of every section, by path."""
    yield path.removeprefix("."), inspect.getdoc(section) or ""
    for name, info in section.model_fields.items():
        for kind, suffix in ((info.annotation, ""), *((kind, ".<name>") for kind in typing.get_args(info.annotation))):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _section_texts(kind, f"{path}.{name}{suffix}")


_FAMILIES: Mapping[type[GatewayError], str] = {
    RequestError: "Faults in the request, which the caller can correct.",
    AccessError: "Missing rights, and limits that are reached.",
    UpstreamError: "Failures of provider calls. They reach the caller only after the other routes of the model "
    "have been tried.",
    InternalError: "The gateway's own fault. The answer has a request id; the log has the rest.",
}


def _errors() -> Iterator[str]:
    yield (
        'The OpenAI dialect (`/v1`, `/api/v1`) answers `{"error": {"message", "type", "param", "code"}}`, the ZIRI '
        'dialect (`/api/embeddings`) `{"error", "code", "requestId"}`. The [other dialects](../dialects.md) '
        "have the code of the OpenAI dialect in `code`. Codes are stable. The message gives the value "
        "seen, the value allowed and the next step; it never holds a key or an input. The header `x-request-id` is in "
        "the log, too."
    )
    unused = _unused_errors()
    samples = error_samples(Settings(), Catalog.builtin().embedding_models()[0])
    for family, text in _FAMILIES.items():
        yield f"## {family.__name__}"
        yield text
        yield _table(
            ("Error", "Meaning", "OpenAI: status, type, code", "ZIRI: status, code", "Try again"),
            [_error_row(sample, unused) for sample in samples if isinstance(sample, family)],
        )
    yield "\\* Part of the interface; nothing in this version answers with it."


def _error_row(sample: GatewayError, unused: frozenset[str]) -> tuple[str, ...]:
    openai_answer, ziri_answer = openai.write_error(sample, REQUEST_ID), ziri.write_error(sample, REQUEST_ID)
    seen = orjson.loads(openai_answer.body)["error"]
    name = type(sample).__name__
    return (
        name + (" \\*" if name in unused else ""),
        _first_line(type(sample)),
        f"{openai_answer.status} `{seen['type']}` `{seen['code']}`",
        f"{ziri_answer.status} `{orjson.loads(ziri_answer.body)['code']}`",
        _again(openai_answer),
    )


def _again(answer: Answer) -> str:
    headers = dict(answer.headers)
    if b"retry-after" in headers:
        return "after `retry-after`"
    return "yes" if answer.status in _RETRIED_STATUSES and b"x-should-retry" not in headers else "no"


def _unused_errors() -> frozenset[str]:
    """Error classes that only their definition, the dialects and the description of the API name."""
    source = Path(embedgate.__file__).parent
    telling = (source / "core" / "errors.py", source / "server" / "dialects", source / "server" / "describe")
    used = {
        node.id
        for path in source.rglob("*.py")
        if not any(path.is_relative_to(place) for place in telling)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Name)
    }
    return frozenset(name for name in vars(errors) if name not in used)


def _models() -> Iterator[str]:
    yield (
        "Models of the built-in catalogue, by author, one line per provider in the order in which they are tried. "
        "Sizes are numbers per vector: the native size, and in brackets others that `dimensions` accepts. Tokens "
        "are per input. Prices are list prices in dollars per million input tokens; an absent one is unknown. A "
        "catalogue file adds models and overrides: see [use a provider](../use-a-provider.md)."
    )
    yield (
        "Remarks tell where names, sizes and lengths are not the maker's or the host's own words: *partial* (not "
        "every field checked), *third-party* (from tables of others) or *unconfirmed*. A provider in brackets is not "
        "supported by this version."
    )
    columns = ("Model", "Size", "Tokens", "Provider", "$ per million", "Remarks")
    yield "## local\n\nLocal models; each is available when its extra is installed."
    yield _table(columns, _local_rows())
    catalog = Catalog.builtin()
    supported = hosts.load().keys()
    models = sorted(catalog.embedding_models(), key=lambda model: (model.author.casefold(), model.id.casefold()))
    for author, group in groupby(models, key=lambda model: model.author):
        yield f"## {author}"
        yield _table(columns, [row for model in group for row in _model_rows(model, supported)])
    yield (
        "## Rerank\n\nFor [`POST /v1/rerank`](../rerank.md). Tokens are those of a document and the query "
        "together; a price is per million tokens, unless it says that it is per thousand searches."
    )
    yield _table(("Model", "Tokens", "Provider", "$", "Remarks"), _rerank_rows(catalog, supported))
    yield (
        "## Chat\n\nFor `POST /v1/chat/completions`. Tokens are the maximum input, and the maximum output. A "
        "price is per input token; prices of cached input and of output are named."
    )
    yield _table(("Model", "Tokens", "Provider", "$ per million", "Remarks"), _chat_rows(catalog, supported))
    yield "## Shut down\n\nA request for one of these gets an error that names its replacement."
    yield _table(("Model", "Since", "Use"), _retired_rows())


def _local_rows() -> Iterator[tuple[str, ...]]:
    for model in available_models(LocalSettings(), Path()):
        size, tokens = _size(model.dims), f"{model.max_input_tokens:,}"
        yield f"`local/{model.name}`", size, tokens, "local", "0", f"space `{model.space}`"


def _rerank_rows(catalog: Catalog, supported: Iterable[str]) -> Iterator[tuple[str, ...]]:
    models = [model for model in catalog.models() if model.action == "rerank"]
    for model in sorted(models, key=lambda model: model.id.casefold()):
        for name, _, *cells in _model_rows(model, supported):
            yield name, *cells


def _chat_rows(catalog: Catalog, supported: Iterable[str]) -> Iterator[tuple[str, ...]]:
    models = [model for model in catalog.models() if model.action == "chat"]
    for model in sorted(models, key=lambda model: model.id.casefold()):
        for name, _, tokens, *cells in _model_rows(model, supported):
            out = f", {model.max_output_tokens:,} out" if name and model.max_output_tokens else ""
            yield name, tokens + out, *cells


def _model_rows(model: Model, supported: Iterable[str]) -> Iterator[tuple[str, ...]]:
    space = f"space `{model.space}`" if model.space not in (None, model.id) else ""
    status = model.status if model.status != "active" else ""
    cells, remarks = [f"`{model.id}`", _size(model.dims), f"{model.max_input_tokens:,}"], [status, space, model.note]
    for route in model.routes:
        provider = route.provider if route.provider in supported else f"({route.provider})"
        confidence = "" if route.confidence == "confirmed" else f"*{route.confidence}*"
        yield *cells, provider, _price(route), "; ".join(filter(None, [confidence, *remarks]))
        cells, remarks = ["", "", ""], []


def _size(dims: DimRange | None) -> str:
    if dims is None:
        return ""
    return str(dims.default) if dims.minimum == dims.maximum else f"{dims.default} ({dims.describe()})"


def _price(route: Route) -> str:
    if route.price is None:
        return ""
    if route.price.picodollars_per_search:
        return f"{(Decimal(route.price.picodollars_per_search) / 1_000_000_000).normalize():f} per 1,000 searches"
    price = route.price
    named = (
        ("", price.picodollars_per_token),
        ("cached ", price.cached_input_picodollars_per_token),
        ("out ", price.output_picodollars_per_token),
    )
    return ", ".join(f"{name}{_per_million(amount)}" for name, amount in named if amount is not None)


def _per_million(picodollars_per_token: int) -> str:
    return f"{(Decimal(picodollars_per_token) / 1_000_000).normalize():f}"


def _retired_rows() -> list[tuple[str, ...]]:
    text = resources.files("embedgate").joinpath("catalog.toml").read_text(encoding="utf-8")
    rows = tomllib.loads(text)["retired"]
    return [(f"`{row['id']}`", row["since"], f"`{row['replacement']}`") for row in rows]


@dataclass(frozen=True, slots=True)
class Command:
    """One command. `names`: of its options, as typed. `rows`: its arguments and options and what they mean."""

    path: str
    usage: str
    help: str
    names: frozenset[str]
    rows: tuple[tuple[str, str], ...]


def commands() -> Iterator[Command]:
    """Every command that help shows, groups before their commands."""
    program = _command(get_command(app))
    if not isinstance(program, TyperGroup):
        raise TypeError("the program has no commands")
    program.commands = {name: load(name) if name in COMMANDS else command for name, command in program.commands.items()}
    return _commands_below(program, PROGRAM, None)


def _commands_below(command: TyperCommand | TyperGroup, name: str, parent: Context | None) -> Iterator[Command]:
    context = Context(command, info_name=name, parent=parent)
    yield Command(
        path=context.command_path,
        usage=" ".join([context.command_path, *command.collect_usage_pieces(context)]),
        help=inspect.cleandoc(command.help or ""),
        names=frozenset(
            name
            for parameter in command.get_params(context)
            for name in (*parameter.opts, *parameter.secondary_opts)
            if name.startswith("-")
        ),
        rows=tuple(record for parameter in command.params if (record := parameter.get_help_record(context))),
    )
    for child_name, child in command.commands.items() if isinstance(command, TyperGroup) else ():
        if not child.hidden:
            yield from _commands_below(_command(child), child_name, context)


def _command(found: object) -> TyperCommand | TyperGroup:
    """Narrow what typer declares more widely than it is."""
    if not isinstance(found, (TyperCommand, TyperGroup)):
        raise TypeError(f"typer made a {type(found).__name__}")
    return found


def _commands() -> Iterator[str]:
    yield "Every command has `--help`, which tells as much as this page."
    yield _table(("Exit code", "Meaning"), [(str(code), meaning) for code, meaning in EXIT_CODES])
    for command in commands():
        yield f"## {command.path}"
        yield command.help
        yield f"```text\n{command.usage}\n```"
        if command.rows:
            rows = [(f"`{names}`", meaning) for names, meaning in command.rows]
            yield _table(("Argument or option", "Meaning"), rows)


def _providers() -> Iterator[str]:
    yield (
        "Hosts that the gateway can call. One with a key is on as soon as one of its variables is set in the "
        "environment; a server of your own is on when it has a table in the settings. Address, key and calls at once "
        "can be changed there: see [use a provider](../use-a-provider.md)."
    )
    table = hosts.load()
    columns = ("Provider", "Address", "Key", "One call takes", "Calls at once", "Takes", "Chat", "Remarks")
    yield _table(columns, [_host_row(name, host) for name, host in table.items()])
    yield (
        f"`{GENERIC}` stands for a provider of your own name that speaks the OpenAI format. `local` runs models in "
        f"the process and needs no address and no key. `fake` gives vectors without meaning, for tests and dry runs, "
        f"as the model `{fake.MODEL_ID}`; it is off until `providers.fake.enabled` is true."
    )
    yield (
        "*One call takes* is about embeddings. *Chat* is the path of [chat completions](../use-a-provider.md#chat) "
        "behind the address; without one a provider has none."
    )
    known = Catalog.builtin().providers() - table.keys()
    yield f"In the catalogue, for their prices and names, but not supported by this version: {_code(sorted(known))}."


def _host_row(name: str, host: Host) -> tuple[str, ...]:
    limits = host.limits
    per_call = ((limits.max_inputs, "inputs"), (limits.max_tokens, "tokens"), (limits.max_bytes, "bytes"))
    takes = (
        ("`dimensions`", host.accepts_dim),
        ("token ids", host.accepts_token_ids),
        ("base64" if host.base64 == "yes" else "base64 (some models)", host.base64 != "no"),
        ("`user`", host.accepts_user),
        ("unknown fields", host.accepts_unknown_options),
        *((f'`truncate` "{side}"', side in host.truncate) for side in ("start", "end")),
        ("documents to order", RERANK.name in hosts.vendor(host).unary),
    )
    return (
        f"`{name}`",
        f"`{host.base_url}`" if host.base_url else "yours",
        (_code(host.key_variables) or "yours") + ("" if host.key_required else " (optional)"),
        ", ".join(f"{n:,} {unit}" for n, unit in per_call if n is not None),
        str(limits.max_parallel),
        ", ".join(what for what, is_taken in takes if is_taken),
        f"`{host.chat.path}`" if host.chat else "",
        host.note,
    )


if __name__ == "__main__":
    main()
