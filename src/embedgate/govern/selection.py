"""Which models and providers the settings switch on, decided before anything is opened."""

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import msgspec

from embedgate.catalog import Catalog
from embedgate.config import Loaded
from embedgate.core.access import AddedModel, AliasRule, PriceRule, ProviderRecord
from embedgate.core.actions import ACTIONS
from embedgate.core.aliases import NO_ALIASES, Aliases
from embedgate.core.errors import ConfigError, DependencyMissing
from embedgate.core.models import LOCAL, Model, Price, Route
from embedgate.engine.routing.find_model import alias_of
from embedgate.govern.added_models import entries_with_added, with_added
from embedgate.govern.model_revision import providers_at, revision_of
from embedgate.govern.provider_keys import find_keys
from embedgate.inference.counters import KnownTokenizers
from embedgate.inference.runtime import LocalModels
from embedgate.providers import fake, hosts
from embedgate.providers.hosts import GENERIC, Host
from embedgate.settings import ProviderSettings, Settings
from embedgate.transport import Endpoint

FAKE = "fake"
LOCAL_CALLS = 2
"""Shared calls of local models at once: one computes while the next is tokenized. Large requests go beside them."""


@dataclass(frozen=True, slots=True)
class HostInUse:
    """A provider over HTTP that is switched on: an endpoint for each of its keys, and what one key may do in a minute.

    None: as the provider says. There is at least one endpoint; they differ in key, and may in address.
    """

    host: Host
    endpoints: tuple[Endpoint, ...]
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    @property
    def endpoint(self) -> Endpoint:
        """The first endpoint."""
        return self.endpoints[0]

    @property
    def base_url(self) -> str:
        """Base URL of the first endpoint."""
        return self.endpoint.base_url

    def on_the_internet(self) -> "HostInUse":
        """The same, but connected to only where its host is on the internet."""
        return replace(self, endpoints=tuple(replace(endpoint, is_public_only=True) for endpoint in self.endpoints))

    @property
    def n_keys(self) -> int:
        """How many keys it has; none for servers that take none."""
        return sum(endpoint.key is not None for endpoint in self.endpoints)

    @property
    def max_parallel(self) -> int:
        """Calls in flight at once, with all keys together."""
        return self.host.limits.max_parallel


@dataclass(frozen=True, slots=True)
class Selection:
    """The models and the providers that are on, decided by the settings before anything is opened."""

    catalog: Catalog
    local_models: LocalModels
    hosts: Mapping[str, HostInUse]
    switched_on: frozenset[str]
    rows: Mapping[str, Host]
    entries: Mapping[str, ProviderSettings]
    keyed: frozenset[str] = frozenset()
    """The providers that a key is found for, on or off."""
    own_models: frozenset[str] = frozenset()
    """The ids of models that only administrators have added: the catalogue does not know them."""
    aliases: Aliases = NO_ALIASES

    def is_on(self, provider: str) -> bool:
        """Whether something can be asked of a provider: it is switched on, and has a model."""
        return provider in self.switched_on and provider in self.catalog.providers()

    def find_model(self, name: str, project_id: str | None = None) -> Model | None:
        """The model of an id, an alias or a bare name, on or off; None if there is none. project_id: of the caller."""
        alias = alias_of(name, project_id, self.aliases, self.catalog)
        return self.catalog.find(name if alias is None else alias.model)

    def aliases_of(self, project_id: str | None) -> tuple[AliasRule, ...]:
        """The aliases that count for the callers of a project, by name: none that is the id of a model by now."""
        return tuple(alias for alias in self.aliases.of(project_id) if self.catalog.by_id(alias.name) is None)

    def default_model(self, wanted: str) -> str:
        """The id of the model called `wanted`, an alias too; if unknown, of the first embedding model that is on."""
        model = self.find_model(wanted)
        if model is not None:
            return model.id
        usable = (
            model.id
            for model in self.catalog.embedding_models()
            if not self.switched_on.isdisjoint(route.provider for route in model.routes)
        )
        return next(usable, wanted)

    def usable_models(self) -> list[Model]:
        """Embedding models with a route that is switched on, and only those routes."""
        return [model for model in self.served_models() if model.action == "embedding"]

    def served_models(self) -> list[Model]:
        """Models of every sort with a route that is switched on, and only those routes."""
        served = []
        for model in self.catalog.models():
            routes = tuple(route for route in model.routes if route.provider in self.switched_on)
            if routes:
                served.append(replace(model, routes=routes))
        return served

    def batching(self) -> dict[str, int]:
        """The providers that batch across requests, and how many such calls each makes at once."""
        found = {name: in_use.max_parallel for name, in_use in self.hosts.items()}
        found[LOCAL] = LOCAL_CALLS
        wanted = {name: entry.batching for name, entry in self.entries.items() if entry.batching is not None}
        return {name: n for name, n in found.items() if wanted.get(name, name == LOCAL)}

    def known_providers(self) -> frozenset[str]:
        """Every provider that there is, on or off."""
        return self.catalog.providers() | (self.rows.keys() - {GENERIC}) | self.entries.keys() | self.switched_on

    def space_of(self, provider: str, name: str) -> str | None:
        """The space of the model that the provider calls `name`, or everybody; None if the catalogue knows none."""
        model = self.catalog.at_provider(provider, name) or self.catalog.find(name)
        return model.space if model is not None else None

    def explain_off(self, provider: str) -> str:
        """What keeps a provider from being asked, and what to do about that; for messages."""
        entry = self.entries.get(provider)
        row = self.rows.get(provider if entry is None or entry.host is None else entry.host)
        if entry is None and row is None:
            if provider in (LOCAL, FAKE):
                return f"enable {provider} in [providers.{provider}] of the settings"
            return f"set up {provider}, which nothing is set of: embedgate providers set {provider} --base-url URL"
        entry, row = entry or ProviderSettings(), row or self.rows[GENERIC]
        if entry.enabled is False:
            return f"enable {provider}, which is switched off"
        if provider in self.switched_on:
            return _explain_idle(provider, self.is_on(provider))
        if not row.key_required:
            at = f", or embedgate providers enable {provider} for {row.base_url}" if row.base_url else ""
            return f"add [providers.{provider}] with its base_url to the settings{at}"
        wants = []
        if provider not in self.keyed:
            variables = " or ".join(entry.api_key_env or row.key_variables)
            wants.append(f"set {variables or f'api_key_env in [providers.{provider}]'} for {provider}")
        if not (entry.base_url or row.base_url):
            wants.append(f"{'' if wants else 'set '}base_url in [providers.{provider}]")
        return ", and ".join(wants) or f"enable {provider}, which has its key: embedgate providers enable {provider}"

    def faults(self) -> Sequence[str]:
        """What prevents a gateway from serving with it, one sentence each."""
        if not self.switched_on:
            return ("no provider would be on",)
        return [fault for name, in_use in self.hosts.items() if (fault := _missing(name, in_use.host))]


@dataclass(frozen=True, slots=True)
class Stored:
    """What administrators have set at run time; it counts before the settings. keys: of providers, by name.

    cleared: how often the cached vectors of a model were cleared, by its id. added: models that were added.
    aliases: other names of models.
    """

    providers: Mapping[str, ProviderRecord] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    prices: tuple[PriceRule, ...] = ()
    cleared: Mapping[str, int] = field(default_factory=dict)
    added: tuple[AddedModel, ...] = ()
    aliases: tuple[AliasRule, ...] = ()


NOTHING_STORED = Stored()


def decide(loaded: Loaded, stored: Stored = NOTHING_STORED, local_models: LocalModels | None = None) -> Selection:
    """Decide what is on. local_models: those that are open already. Raises ConfigError with every mistake found."""
    settings = loaded.settings
    rows = hosts.load()
    entries = {**settings.providers, **{name: _merged(settings, record) for name, record in stored.providers.items()}}
    entries = entries_with_added(entries, stored.added, stored.providers, rows)
    public_only = {
        name for name, record in stored.providers.items() if record.base_url and record.allow_private is False
    }
    keyed: set[str] = set()
    in_use, mistakes = _hosts_in_use(loaded, entries, stored.keys, rows, public_only, keyed)
    if mistakes:
        raise ConfigError(mistakes)
    local_models = local_models or LocalModels(settings.local, settings.storage.data_dir.expanduser())
    switched_on = set(in_use)
    listed = _listed()
    catalog = listed if settings.catalog.file is None else Catalog.load(settings.catalog.file)
    if _is_enabled(entries.get(LOCAL), default=True) and local_models.models():
        catalog = catalog.with_models(local_models.models())
        switched_on.add(LOCAL)
    if _is_enabled(entries.get(FAKE), default=False):
        catalog = catalog.with_models(fake.models())
        switched_on.add(FAKE)
    own = frozenset(record.model for record in stored.added if catalog.by_id(record.model) is None)
    catalog = with_added(catalog, stored.added, entries, rows)
    if mistakes := _unknown_models(catalog, entries, Aliases(stored.aliases)):
        raise ConfigError(mistakes)
    tokenizers = KnownTokenizers(local_models, settings.local.cl100k_file)
    catalog = catalog.with_models(
        replace(
            model,
            routes=_priced(model.id, _adapted(model, entries, in_use, tokenizers), stored.prices),
            revision=revision_of(model, listed.by_id(model.id), stored.cleared.get(model.id, 0), entries, rows),
        )
        for model in catalog.models()
    )
    return Selection(
        catalog,
        local_models,
        in_use,
        frozenset(switched_on),
        rows,
        entries,
        frozenset(keyed),
        own,
        Aliases(stored.aliases),
    )


@functools.cache
def _listed() -> Catalog:
    """The models that come with the program. Read once."""
    return Catalog.builtin()


def _missing(name: str, host: Host) -> str | None:
    try:
        hosts.vendor(host)
    except DependencyMissing as error:
        return f"providers.{name}: {error.message}"
    return None


def _explain_idle(provider: str, has_model: bool) -> str:
    """What to do about a provider that is switched on and does not serve what was asked."""
    if not has_model:
        return (
            f"{provider} has no model yet: embedgate models discover {provider} asks it which it has, and embedgate "
            f"models add ID --provider {provider} adds one"
        )
    return f"{provider} is on, with other models: embedgate models list --all --provider {provider}"


def _merged(settings: Settings, record: ProviderRecord) -> ProviderSettings:
    """The settings of a provider with what is stored of it put over them."""
    base = settings.providers.get(record.name, ProviderSettings())
    changes: dict[str, object] = {
        "enabled": record.is_enabled,
        "host": record.host,
        "base_url": record.base_url,
        "max_parallel": record.max_parallel,
        "batching": record.batching,
        "models": record.models,
        "weight": record.weight,
        "precision": record.precision,
        "requests_per_minute": record.requests_per_minute,
        "tokens_per_minute": record.tokens_per_minute,
        "free": record.free,
        "names_freely": record.names_freely,
    }
    update = {name: value for name, value in changes.items() if value is not None}
    if record.host is not None or record.base_url is not None:
        update["revision"] = None  # what the settings file declares is said of another server
    return base.model_copy(update=update)


def _priced(model_id: str, routes: Sequence[Route], prices: Sequence[PriceRule]) -> tuple[Route, ...]:
    """Routes with the prices that administrators have set. prices: in force, the newest of a route last."""
    found = {price.provider: price for price in prices if price.model == model_id}
    return tuple(_with_price(route, found[route.provider]) if route.provider in found else route for route in routes)


def _with_price(route: Route, rule: PriceRule) -> Route:
    as_of = datetime.fromtimestamp(rule.from_ms / 1000, UTC).date().isoformat()
    # What a token costs that comes out, or was read before, and a search, stays what the catalogue says.
    listed = route.price or Price(0)
    price = replace(
        listed,
        picodollars_per_token=rule.picodollars_per_token,
        as_of=as_of,
        source="set by an administrator",
    )
    return replace(route, price=price)


def _is_enabled(entry: ProviderSettings | None, *, default: bool) -> bool:
    return default if entry is None or entry.enabled is None else entry.enabled


def _hosts_in_use(
    loaded: Loaded,
    entries: Mapping[str, ProviderSettings],
    keys: Mapping[str, str],
    rows: Mapping[str, Host],
    public_only: Collection[str],
    keyed: set[str],
) -> tuple[dict[str, HostInUse], list[str]]:
    """The HTTP providers that are on, and what is wrong with their settings. keys: stored ones, by provider.

    public_only: those whose stored address must be on the internet. keyed: those that have a key are added to it.
    """
    names = [*(name for name in rows if name != GENERIC), *(name for name in entries if name not in rows)]
    found: dict[str, HostInUse] = {}
    mistakes: list[str] = []
    for name in names:
        if name in (LOCAL, FAKE):
            continue
        try:
            in_use = _host_in_use(name, entries.get(name), keys.get(name), rows, loaded, keyed)
        except ConfigError as error:
            mistakes += error.mistakes
            continue
        if in_use is not None:
            found[name] = in_use.on_the_internet() if name in public_only else in_use
    return found, mistakes


def _host_in_use(
    name: str,
    entry: ProviderSettings | None,
    stored_key: str | None,
    rows: Mapping[str, Host],
    loaded: Loaded,
    keyed: set[str],
) -> HostInUse | None:
    entry_or_empty = entry or ProviderSettings()
    row = rows.get(entry_or_empty.host or name)
    if row is None and entry_or_empty.host:
        known = ", ".join(sorted(rows))
        raise ConfigError([f"providers.{name}.host is {entry_or_empty.host!r}; it can be one of {known}"])
    if entry_or_empty.enabled is False:
        return None
    row = _declared(row or rows[GENERIC], entry_or_empty)
    keys = (stored_key,) if stored_key else find_keys(name, entry_or_empty, row, loaded.secrets)
    if keys:
        keyed.add(name)
    first_key = keys[0] if keys else None
    base_url = entry_or_empty.base_url or row.address(first_key)
    # A key alone switches nothing on whose address only its owner knows: the variable may be there for other programs.
    has_place = entry is not None or base_url is not None
    is_on = _is_enabled(entry, default=bool(keys) and has_place if row.key_required else entry is not None)
    if not is_on:
        return None
    if base_url is None:
        raise ConfigError([f"providers.{name}: base_url is missing; its address is yours to give"])
    if row.ignores_model and entry_or_empty.models is None:
        raise ConfigError(
            [
                f"providers.{name}.models is missing: such a server answers for any name with the one model it has, so "
                'the settings must say which, as in models = ["BAAI/bge-m3"]'
            ]
        )
    if not keys and row.key_required:
        variables = " or ".join(row.key_variables) or "api_key_env"
        raise ConfigError([f"providers.{name} is enabled and has no key; set {variables} or api_key_file"])
    endpoints = tuple(
        Endpoint(
            name if n == 1 else f"{name}#{n}",
            entry_or_empty.base_url or row.address(key) or base_url,
            key,
            row.key_header,
            row.key_prefix,
            row.limits.max_parallel,
        )
        for n, key in enumerate(keys or (None,), 1)
    )
    return HostInUse(row, endpoints, entry_or_empty.requests_per_minute, entry_or_empty.tokens_per_minute)


def _declared(row: Host, entry: ProviderSettings) -> Host:
    """The row with what the settings say of this server of its kind."""
    if entry.max_parallel is not None:
        row = msgspec.structs.replace(row, limits=replace(row.limits, max_parallel=entry.max_parallel))
    if entry.free is not None:
        row = msgspec.structs.replace(row, is_free=entry.free)
    if entry.names_freely is not None:
        row = msgspec.structs.replace(row, names_freely=entry.names_freely)
    return row if entry.precision is None else msgspec.structs.replace(row, precision=entry.precision)


def _unknown_models(catalog: Catalog, entries: Mapping[str, ProviderSettings], aliases: Aliases) -> list[str]:
    """What is wrong with the models that the settings name."""
    mistakes = []
    for name, entry in entries.items():
        at = {name, entry.host}
        known = {model.id for model in catalog.models() for route in model.routes if route.provider in at}
        for model in entry.models or ():
            if model in known:
                continue
            alias = alias_of(model, None, aliases, catalog)
            mistakes.append(
                f"providers.{name}.models has {model!r}, which is an alias; write the id, {alias.model}"
                if alias is not None
                else f"providers.{name}.models has {model!r}, which the catalogue does not know there; see "
                f"`embedgate models list --all`, or add it: embedgate models add {model} --provider {name}"
            )
    return mistakes


def _adapted(
    model: Model,
    entries: Mapping[str, ProviderSettings],
    in_use: Mapping[str, HostInUse],
    tokenizers: KnownTokenizers,
) -> tuple[Route, ...]:
    """Routes with what their hosts take, and a copy for each provider of the settings that follows another's row.

    There are none left of a model that its only providers do not serve.

    Routes of actions that are not sent in batches stay as they are: rows change nothing else in routes.
    """
    adapted = []
    is_batched = ACTIONS[model.action].is_batched
    for route in model.routes:
        for name, entry in providers_at(route, model, entries):
            host = in_use.get(name)
            weight = entry.weight if entry is not None else 1
            is_same = (name, weight) == (route.provider, route.weight)  # of most: copying is slow
            copy = route if is_same else replace(route, provider=name, weight=weight)
            if host and (host.host.is_free or host.host.names_freely):
                copy = replace(
                    copy,
                    is_free=copy.is_free or host.host.is_free,
                    names_freely=copy.names_freely or host.host.names_freely,
                )
            if is_batched and tokenizers.can_cut(copy):
                copy = replace(copy, cuts_here=True)
            adapted.append(host.host.adapt(copy) if host and is_batched else copy)
    return tuple(adapted)
