"""Model catalogue: names, sizes, limits and prices, from `catalog.toml` beside this module and an optional file.

A catalogue is immutable and knows no credentials: whether a route can be used is decided elsewhere. The format is
explained at the top of `catalog.toml`. Files are read when a catalogue is asked for, never on import.
"""

import difflib
import importlib.resources
import tomllib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from embedgate.core.actions import ActionName
from embedgate.core.errors import ConfigError
from embedgate.core.models import (
    BatchLimits,
    Confidence,
    DimRange,
    Model,
    ParamValue,
    Price,
    Route,
    ScoreScale,
)
from embedgate.core.money import price_from_usd_per_million, price_from_usd_per_thousand

_Table = dict[str, Any]
_Row = TypeVar("_Row", bound="_ModelRow | _RouteRow | _RetiredRow")
_Names = Mapping[str, tuple[Model, ...]]

_Positive = Annotated[int, msgspec.Meta(ge=1)]
_ModelId = Annotated[str, msgspec.Meta(pattern=r"^[^/:\s]+/[^:\s]+$")]
_ProviderName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
_Tokenizer = Annotated[str, msgspec.Meta(pattern=r"^(tiktoken:\S+|hf:\S+|local|unknown)$")]

_NO_DIMS = DimRange(0, 0, 0)
"""For the routes of models that make no vectors."""
_LONGEST_NAME = 100
"""Longest name that is compared with ids for close matches: comparing a huge one would be slow."""


class Catalog:
    """Catalogue of models, looked up by name in constant time. Immutable; `with_models` gives a new one."""

    __slots__ = ("_at_provider", "_folded_ids", "_folded_names", "_ids", "_names", "_providers", "_retired")

    def __init__(self, models: Iterable[Model], retired: Mapping[str, str] | None = None) -> None:
        """models: of two with one id the last counts. retired: replacement id by the id of a retired model."""
        self._ids = {model.id: (model,) for model in models}
        self._retired = dict(retired or {})
        every = self.models()
        self._names: _Names = _grouped((model.name, model) for model in every)
        self._folded_ids: _Names = _grouped((model.id.casefold(), model) for model in every)
        self._folded_names: _Names = _grouped((model.name.casefold(), model) for model in every)
        self._at_provider = _at_providers(every)
        self._providers = frozenset(self._at_provider)

    @classmethod
    def builtin(cls) -> "Catalog":
        """The models that come with the package."""
        return cls.load(None)

    @classmethod
    def load(cls, file: Path | None) -> "Catalog":
        """The built-in models, with the models of `file` added and its fields overriding theirs.

        A model is matched by id, a route by provider; fields that the file gives take precedence. Routes that are
        new to a known model are tried before its others. Raises ConfigError with every mistake in the file.
        """
        mistakes: list[str] = []
        text = importlib.resources.files(__package__).joinpath("catalog.toml").read_text(encoding="utf-8")
        content = _parsed(text, mistakes)
        if file is not None:
            content = _overlaid(content, _parsed(_text_of(file), mistakes))
        models = [_model(tables, mistakes) for tables in content.models.values()]
        known = [model for model in models if model is not None]
        retired = _retired(content.retired, content.models, mistakes)
        if mistakes:
            raise ConfigError([f"{file or 'catalog.toml'}: {mistake}" for mistake in mistakes])
        return cls(known, retired)

    def with_models(self, models: Iterable[Model]) -> "Catalog":
        """This catalogue with `models` added; one with a known id replaces it."""
        return Catalog((*self.models(), *models), self._retired)

    def find(self, name: str) -> Model | None:
        """The model of that id, or of that bare name if only one has it; an exact match of case is preferred."""
        found = self._ids.get(name) or self._names.get(name) or self._matches(name)
        return found[0] if len(found) == 1 else None

    def by_id(self, model_id: str) -> Model | None:
        """The model of exactly that id."""
        found = self._ids.get(model_id)
        return found[0] if found else None

    def ambiguous(self, name: str) -> list[str]:
        """The ids of the models that `name` matches, if there are several; empty otherwise."""
        found = self._matches(name)
        return [model.id for model in found] if len(found) > 1 else []

    def at_provider(self, provider: str, name: str) -> Model | None:
        """The model that the provider calls `name`, else the one it serves with that id or bare name."""
        found = self._at_provider.get(provider, {}).get(name, ())
        return found[0] if len(found) == 1 else None

    def parse_model_name(self, text: str) -> tuple[str, str | None]:
        """`author/name:provider` as name and provider. Without a known provider after the last colon: text, None."""
        name, _, provider = text.rpartition(":")
        return (name, provider) if name and provider in self._providers else (text, None)

    def models(self) -> tuple[Model, ...]:
        """Every model, in the order of the files."""
        return tuple(model for (model,) in self._ids.values())

    def embedding_models(self) -> tuple[Model, ...]:
        """Every model that makes embeddings, in the order of the files."""
        return tuple(model for model in self.models() if model.action == "embedding")

    def providers(self) -> frozenset[str]:
        """The names of all providers that some model has a route at."""
        return self._providers

    def retired(self, name: str) -> str | None:
        """The id that replaces a model that was shut down, by its id or bare name; None for any other name."""
        folded = name.casefold()
        for retired_id, replacement in self._retired.items():
            if folded in (retired_id.casefold(), retired_id.partition("/")[2].casefold()):
                return replacement
        return None

    def close_matches(
        self, name: str, action: ActionName | None = None, providers: Collection[str] | None = None
    ) -> list[str]:
        """Up to three ids that look like `name`, the closest first. For messages: it is slow.

        action: of the models. providers: that serve them. None for all.
        """
        ids = {}
        for model in self.models():
            is_served = providers is None or model.is_served_by(providers)
            if action in (None, model.action) and is_served:
                ids[model.name.casefold()] = model.id
                ids[model.id.casefold()] = model.id
        close = difflib.get_close_matches(name[:_LONGEST_NAME].casefold(), ids, n=6, cutoff=0.7)
        return list(dict.fromkeys(ids[key] for key in close))[:3]

    def _matches(self, name: str) -> tuple[Model, ...]:
        exact = self._ids.get(name) or self._names.get(name)
        if exact:
            return exact
        folded = name.casefold()
        return self._folded_ids.get(folded) or self._folded_names.get(folded) or ()


def read_model(fields: Mapping[str, object], routes: Mapping[str, Mapping[str, object]]) -> Model:
    """A model of fields as a catalogue file has them, routes by provider. Raises ConfigError with every mistake."""
    mistakes: list[str] = []
    model = _model(_ModelTables(dict(fields), {name: dict(route) for name, route in routes.items()}), mistakes)
    if model is None or mistakes:
        raise ConfigError(mistakes)
    return model


def _grouped(named: Iterable[tuple[str, Model]]) -> _Names:
    groups: dict[str, list[Model]] = defaultdict(list)
    for name, model in named:
        groups[name].append(model)
    return {name: tuple(models) for name, models in groups.items()}


def _at_providers(models: Iterable[Model]) -> dict[str, _Names]:
    """Models by provider and name. A provider's own name for a model goes before ids, and those before bare names."""
    served: dict[str, list[tuple[str, Model]]] = defaultdict(list)
    for model in models:
        for route in model.routes:
            served[route.provider].append((route.upstream_model, model))
    return {
        provider: {
            **_grouped((model.name, model) for _, model in pairs),
            **_grouped((model.id, model) for _, model in pairs),
            **_grouped(pairs),
        }
        for provider, pairs in served.items()
    }


class _PicodollarsPerToken(int):
    """Marker for a price written in dollars per million tokens, read as picodollars per token."""


class _PicodollarsPerSearch(int):
    """Marker for a price written in dollars per thousand searches, read as picodollars per search."""


class _DimsRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`dims` as written."""

    default: _Positive
    min: _Positive | None = None
    max: _Positive | None = None
    allowed: tuple[_Positive, ...] = ()

    def __post_init__(self) -> None:
        """Check consistency. Raises ValueError, which the reader reports with its place."""
        dims = self.record()
        if self.default not in dims:
            raise ValueError(f"default is {self.default}, but the sizes are {dims.describe()}")

    def record(self) -> DimRange:
        smallest = min(self.allowed, default=self.min or self.default)
        largest = max(self.allowed, default=self.max or self.default)
        return DimRange(self.default, smallest, largest, self.allowed)


class _ModelRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[[model]]` as written, without its routes."""

    id: _ModelId
    max_input_tokens: _Positive
    action: ActionName = "embedding"
    space: str | None = None
    dims: _DimsRow | None = None
    matryoshka: bool = False
    normalised: bool = False
    cuts_exactly: bool = True
    max_output_tokens: _Positive | None = None
    scores: ScoreScale = "unit"
    tokenizer: _Tokenizer = "unknown"
    status: Literal["active", "legacy", "retiring", "unconfirmed"] = "active"
    note: str | None = None


class _RouteRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[[model.route]]` as written."""

    provider: _ProviderName
    upstream_model: str
    dims: _DimsRow | None = None
    max_input_tokens: _Positive | None = None
    tokenizer: _Tokenizer | None = None
    max_inputs: _Positive | None = None
    max_tokens: _Positive | None = None
    max_bytes: _Positive | None = None
    truncates_silently: bool = False
    accepts_dim: bool = False
    accepts_base64: bool = False
    accepts_token_ids: bool = False
    accepts_user: bool = False
    accepts_truncate: bool = False
    accepts_unknown_options: bool = False
    dim_field: str = "dimensions"
    input_types: tuple[str, ...] = ()
    input_type_field: str | None = None
    query_input_type: str | None = None
    document_input_type: str | None = None
    query_prefix: str | None = None
    document_prefix: str | None = None
    required_params: dict[str, ParamValue] = {}
    promises_unit_length: bool = False
    aliases: tuple[str, ...] = ()
    names_freely: bool = False
    usd_per_million_input_tokens: _PicodollarsPerToken | None = None
    usd_per_million_cached_input_tokens: _PicodollarsPerToken | None = None
    usd_per_million_output_tokens: _PicodollarsPerToken | None = None
    usd_per_thousand_searches: _PicodollarsPerSearch | None = None
    price_as_of: str | None = None
    price_source: str | None = None
    confidence: Confidence = "confirmed"


class _RetiredRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[[retired]]` as written."""

    id: _ModelId
    since: str
    replacement: _ModelId


@dataclass(frozen=True, slots=True)
class _ModelTables:
    """One model as TOML tables: its own fields, and those of its routes by provider."""

    fields: _Table
    routes: dict[str, _Table]


@dataclass(frozen=True, slots=True)
class _Content:
    """A catalogue file as TOML tables by id, not yet checked beyond their shape."""

    models: dict[str, _ModelTables]
    retired: dict[str, _Table]


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{file}: cannot be read: {error}"]) from error


def _parsed(text: str, mistakes: list[str]) -> _Content:
    """The tables of a file. Adds to `mistakes` unknown tables, tables without a name, and duplicates."""
    try:
        document = tomllib.loads(text, parse_float=Decimal)  # a price without quotes stays exact, too
    except tomllib.TOMLDecodeError as error:
        mistakes.append(str(error))
        document = {}
    mistakes += [
        f"no such table {name!r}; there are model and retired" for name in document.keys() - {"model", "retired"}
    ]
    models = {}
    for model_id, table in _named(document.get("model", []), "id", "model", mistakes):
        routes = table.pop("route", [])
        models[model_id] = _ModelTables(table, dict(_named(routes, "provider", f"model {model_id}: route", mistakes)))
    return _Content(models, dict(_named(document.get("retired", []), "id", "retired", mistakes)))


def _named(tables: Any, key: str, place: str, mistakes: list[str]) -> Iterator[tuple[str, _Table]]:
    """The tables of a list by their field `key`; a missing or duplicate one is a mistake."""
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        mistakes.append(f"{place}: is not a list of tables; write it in double brackets")
        return
    seen = set()
    for position, table in enumerate(tables, start=1):
        name = table.get(key)
        if not isinstance(name, str):
            mistakes.append(f"{place} number {position}: {key} is missing or not a text")
        elif name in seen:
            mistakes.append(f"{place} {name}: is there twice")
        else:
            seen.add(name)
            yield name, table


def _overlaid(base: _Content, extra: _Content) -> _Content:
    """`base` with the models, routes and fields of `extra` added and put over its own."""
    models = dict(base.models)
    for model_id, given in extra.models.items():
        known = models.get(model_id, _ModelTables({}, {}))
        new_routes = {name: table for name, table in given.routes.items() if name not in known.routes}
        old_routes = {name: table | given.routes.get(name, {}) for name, table in known.routes.items()}
        models[model_id] = _ModelTables(known.fields | given.fields, new_routes | old_routes)
    return _Content(models, base.retired | extra.retired)


def _checked(table: _Table, row_type: type[_Row], place: str, mistakes: list[str]) -> _Row | None:
    """The table as a typed row; None, with its mistakes added to `mistakes`, if it is invalid."""
    try:
        return msgspec.convert(table, row_type, dec_hook=_read_price)
    except msgspec.ValidationError:
        mistakes += [f"{place}: {mistake}" for mistake in _mistakes_in(table, row_type)]
        return None


def _mistakes_in(table: _Table, row_type: type[_Row]) -> Iterator[str]:
    """Every mistake in a table; the type checker itself stops at the first."""
    known = {field.name: field for field in msgspec.structs.fields(row_type)}
    yield from (f"no such field {name!r}" for name in table if name not in known)
    for name, field in known.items():
        if name in table:
            try:
                msgspec.convert(table[name], field.type, dec_hook=_read_price)
            except msgspec.ValidationError as error:
                yield f"{name}: {error}"
        elif field.required:
            yield f"{name} is missing"


def _read_price(kind: type, value: Any) -> int:
    """Decoding hook of the type checker for the two price types. Its ValueError is reported with its place."""
    try:
        amount = msgspec.convert(value, Decimal)
        if kind is _PicodollarsPerSearch:
            return _PicodollarsPerSearch(price_from_usd_per_thousand(amount))
        return _PicodollarsPerToken(price_from_usd_per_million(amount))
    except ConfigError as error:
        raise ValueError(str(error)) from error


def _model(tables: _ModelTables, mistakes: list[str]) -> Model | None:
    """The record of one model; None, with its mistakes added to `mistakes`, if it is invalid."""
    place = f"model {tables.fields['id']}"
    row = _checked(tables.fields, _ModelRow, place, mistakes)
    route_rows = [
        _checked(table, _RouteRow, f"{place} at {provider}", mistakes) for provider, table in tables.routes.items()
    ]
    is_embedding = tables.fields.get("action", "embedding") == "embedding"
    if is_embedding and "dims" not in tables.fields:
        mistakes.append(f"{place}: dims is missing")
    if not route_rows:
        mistakes.append(f"{place}: has no route")
    if row is None:
        return None
    dims = row.dims.record() if row.dims else _NO_DIMS
    return Model(
        id=row.id,
        action=row.action,
        routes=tuple(_route(route_row, row, dims) for route_row in route_rows if route_row is not None),
        space=(row.space or row.id) if is_embedding else None,
        dims=dims if is_embedding else None,
        is_matryoshka=row.matryoshka,
        is_normalised=row.normalised,
        cuts_exactly=row.cuts_exactly,
        max_input_tokens=row.max_input_tokens,
        max_output_tokens=row.max_output_tokens,
        status=row.status,
        note=row.note,
        scores=row.scores if row.action == "rerank" else None,
    )


def _route(row: _RouteRow, model: _ModelRow, dims: DimRange) -> Route:
    """The record of one route. dims: of the model, for routes without their own."""
    own = row.dims.record() if row.dims else dims
    native = DimRange(own.default, own.default, own.default)
    return Route(
        provider=row.provider,
        upstream_model=row.upstream_model,
        dims=own if row.accepts_dim else native,
        max_input_tokens=row.max_input_tokens or model.max_input_tokens,
        tokenizer=row.tokenizer or model.tokenizer,
        limits=BatchLimits(row.max_inputs, row.max_tokens, row.max_bytes),
        price=_price(row),
        accepts_dim=row.accepts_dim,
        accepts_base64=row.accepts_base64,
        accepts_token_ids=row.accepts_token_ids,
        accepts_user=row.accepts_user,
        accepts_unknown_options=row.accepts_unknown_options,
        input_types=row.input_types,
        query_prefix=row.query_prefix,
        document_prefix=row.document_prefix,
        accepts_truncate=row.accepts_truncate,
        truncates_silently=row.truncates_silently,
        dim_field=row.dim_field,
        input_type_field=row.input_type_field,
        query_input_type=row.query_input_type,
        document_input_type=row.document_input_type,
        required_params=tuple(row.required_params.items()),
        promises_unit_length=row.promises_unit_length,
        aliases=row.aliases,
        names_freely=row.names_freely,
        confidence=row.confidence,
    )


def _price(row: _RouteRow) -> Price | None:
    of_input, of_search = row.usd_per_million_input_tokens, row.usd_per_thousand_searches
    of_output, of_cached = row.usd_per_million_output_tokens, row.usd_per_million_cached_input_tokens
    if of_input is None and of_search is None:
        return None
    return Price(
        picodollars_per_token=int(of_input or 0),
        as_of=row.price_as_of,
        source=row.price_source,
        output_picodollars_per_token=None if of_output is None else int(of_output),
        cached_input_picodollars_per_token=None if of_cached is None else int(of_cached),
        picodollars_per_search=None if of_search is None else int(of_search),
    )


def _retired(tables: dict[str, _Table], known: Mapping[str, object], mistakes: list[str]) -> dict[str, str]:
    """Replacement id by the id of each model that was shut down."""
    replacements = {}
    for retired_id, table in tables.items():
        place = f"retired {retired_id}"
        row = _checked(table, _RetiredRow, place, mistakes)
        if row is not None and row.replacement not in known:
            mistakes.append(f"{place}: replacement {row.replacement!r} is not in the catalogue")
        elif row is not None:
            replacements[row.id] = row.replacement
    return replacements
