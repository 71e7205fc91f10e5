"""Models that administrators have added, as part of the catalogue: read from the database, checked, put over it.

What the catalogue knows of a model holds for all its routes. What is added is a route, and of unknown models the rest.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import sqlalchemy as sa

from embedgate.catalog import Catalog, read_model
from embedgate.core.access import AddedModel
from embedgate.core.models import DimRange, Model, Price, Route
from embedgate.providers.hosts import GENERIC, Host
from embedgate.settings import ProviderSettings
from embedgate.storage import schema

TABLE = schema.added_models
_OWN_SERVERS = ("vllm", "infinity", "tei", "ollama", "lmstudio", "llamacpp")
"""Hosts that run the weights as they are, so that what goes before a text there goes before it at any such server."""


def read_added(connection: sa.Connection) -> tuple[AddedModel, ...]:
    """Every model at a provider that was added, by id and provider."""
    rows = connection.execute(TABLE.select().order_by(TABLE.c.model, TABLE.c.provider))
    return tuple(AddedModel(**row._mapping) for row in rows)


def with_added(
    catalog: Catalog,
    added: Sequence[AddedModel],
    entries: Mapping[str, ProviderSettings],
    rows: Mapping[str, Host],
) -> Catalog:
    """The catalogue with what was added. entries: of providers. rows: of hosts.

    Routes that are new to a known model are tried before its others. Raises ConfigError for what the catalogue's
    format does not allow.
    """
    by_model: dict[str, list[AddedModel]] = defaultdict(list)
    for record in added:
        by_model[record.model].append(record)
    if not by_model:
        return catalog
    return catalog.with_models(
        _new_model(records) if (known := catalog.by_id(model_id)) is None else _extended(known, records, entries, rows)
        for model_id, records in by_model.items()
    )


def entries_with_added(
    entries: Mapping[str, ProviderSettings],
    added: Iterable[AddedModel],
    stored: Iterable[str],
    rows: Mapping[str, Host],
) -> dict[str, ProviderSettings]:
    """The settings of providers, with what was added among the models that they serve.

    stored: names of providers that are set at run time. One of those that has the only model of its server, which
    nobody has named yet, serves none.
    """
    at: dict[str, list[str]] = defaultdict(list)
    for record in added:
        at[record.provider].append(record.model)
    stored = set(stored)
    found = dict(entries)
    for name, entry in entries.items():
        row = rows.get(entry.host or name)
        names_one = row is not None and row.ignores_model
        if entry.models is not None or (names_one and (name in stored or at[name])):
            found[name] = entry.model_copy(update={"models": (*(entry.models or ()), *at[name])})
    return found


def detail_of(record: AddedModel) -> dict[str, str | int | bool | None]:
    """What the audit trail says of it."""
    names = ("provider", "upstream_model", "dim", "max_input_tokens", "space", "picodollars_per_token")
    return {name: getattr(record, name) for name in names}


def _new_model(records: Sequence[AddedModel]) -> Model:
    """A model that the catalogue does not know, by its first record; each gives a route. Raises ConfigError."""
    first = records[0]
    dim, most = first.dim, max(record.max_input_tokens or 1 for record in records)
    fields: dict[str, object] = {
        "id": first.model,
        "action": first.action,
        "space": first.space,
        "dims": {"default": dim} if dim is not None else None,
        "matryoshka": first.is_matryoshka,
        "normalised": first.is_normalised,
        "max_input_tokens": most,
        "max_output_tokens": first.max_output_tokens,
    }
    routes = {
        record.provider: _given(
            {
                "provider": record.provider,
                "upstream_model": record.upstream_model,
                "max_input_tokens": record.max_input_tokens,
                "query_prefix": record.query_prefix,
                "document_prefix": record.document_prefix,
            }
        )
        for record in records
    }
    model = read_model(_given(fields), routes)
    priced = tuple(replace(route, price=_price(record)) for route, record in zip(model.routes, records, strict=True))
    return replace(model, routes=priced)


def _extended(
    known: Model,
    records: Sequence[AddedModel],
    entries: Mapping[str, ProviderSettings],
    rows: Mapping[str, Host],
) -> Model:
    own = {record.provider: _route(known, record, entries, rows) for record in records}
    old = {route.provider for route in known.routes}
    new = [route for provider, route in own.items() if provider not in old]
    return replace(known, routes=(*new, *(own.get(route.provider, route) for route in known.routes)))


def _route(
    known: Model, record: AddedModel, entries: Mapping[str, ProviderSettings], rows: Mapping[str, Host]
) -> Route:
    """A route of a known model: as at the same host if the catalogue has it there, else as at a server of one's own."""
    provider = record.provider
    entry = entries.get(provider)
    kind = entry.host if entry is not None and entry.host else provider
    at = {route.provider: route for route in known.routes}
    same = at.get(provider) or at.get(kind)
    base = same or _plain_route(known, next((at[name] for name in _OWN_SERVERS if name in at), None), rows.get(kind))
    return replace(
        base,
        provider=provider,
        upstream_model=record.upstream_model,
        max_input_tokens=record.max_input_tokens or base.max_input_tokens,
        query_prefix=base.query_prefix if record.query_prefix is None else record.query_prefix or None,
        document_prefix=base.document_prefix if record.document_prefix is None else record.document_prefix or None,
        price=_price(record) or base.price,
    )


def _plain_route(known: Model, similar: Route | None, row: Host | None) -> Route:
    """A route with nothing peculiar: the size that the model has, and what must go before its texts."""
    dim = known.dims.default if known.dims else 0
    like = similar or (known.routes[0] if known.routes else None)
    return Route(
        provider="",
        upstream_model="",
        dims=DimRange(dim, dim, dim),
        max_input_tokens=known.max_input_tokens,
        tokenizer=like.tokenizer if like else "unknown",
        query_prefix=similar.query_prefix if similar else None,
        document_prefix=similar.document_prefix if similar else None,
        names_freely=(row or Host(note=GENERIC)).names_freely,
    )


def _price(record: AddedModel) -> Price | None:
    if record.picodollars_per_token is None:
        return None
    return Price(
        picodollars_per_token=record.picodollars_per_token,
        as_of=datetime.fromtimestamp(record.updated_at_ms / 1000, UTC).date().isoformat(),
        source="set by an administrator",
        output_picodollars_per_token=record.output_picodollars_per_token,
    )


def _given(fields: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None and value != ""}


def models_text(models: Sequence[str] | None) -> str | None:
    """Ids of models as a column holds them."""
    return None if models is None else json.dumps(list(models))


def models_of(text: str | None) -> tuple[str, ...] | None:
    """Ids of models of a column."""
    return None if text is None else tuple(json.loads(text))
