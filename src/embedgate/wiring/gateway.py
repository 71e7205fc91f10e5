"""Opens the gateway: storage, providers, models, and the pipeline over them."""

import asyncio
import contextlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from embedgate.catalog import Catalog
from embedgate.config import Loaded, Settings
from embedgate.core.access import Caller
from embedgate.core.errors import ConfigError, DependencyMissing
from embedgate.core.ports import Embedder, KeyAdmin, Provider, VectorCache
from embedgate.core.types import CacheStats, EmbedRequest, Input, InputType, Model
from embedgate.core.vectors import Vectors
from embedgate.engine.account import Accountant
from embedgate.engine.admit import Admission
from embedgate.engine.authenticate import Authenticator
from embedgate.engine.execute import Executor
from embedgate.engine.pipeline import Pipeline
from embedgate.engine.plan import Planner
from embedgate.engine.resolve import Resolver
from embedgate.inference.counters import KnownTokenizers
from embedgate.providers import fake, openai
from embedgate.providers.local import LocalProvider
from embedgate.storage.cache import TieredCache, open_cache
from embedgate.storage.database import Database, open_database
from embedgate.storage.first_start import FirstKeys, ensure_first_keys
from embedgate.storage.keys import SqlKeyAdmin, SqlKeyStore
from embedgate.storage.ledger import SqlLedger
from embedgate.transport import HttpDriver
from embedgate.wiring.decide import FAKE, LOCAL, Decided, decide

_CLOSE_TIMEOUT_S = 2


class Gateway:
    """An open gateway: storage, providers and the pipeline over them."""

    def __init__(
        self,
        settings: Settings,
        decided: Decided,
        pipeline: Pipeline,
        providers: Mapping[str, Provider],
        storage: "_Storage",
    ) -> None:
        """Use `open_gateway`."""
        self.settings = settings
        self.catalog = decided.catalog
        self.pipeline = pipeline
        self.first_keys = storage.first_keys
        self._decided = decided
        self._providers = providers
        self._storage = storage

    def usable_models(self) -> list[Model]:
        """Embedding models with a route that is switched on, and only those routes."""
        usable = []
        for model in self.catalog.embedding_models():
            routes = tuple(route for route in model.routes if route.provider in self._decided.switched_on)
            if routes:
                usable.append(replace(model, routes=routes))
        return usable

    def cache_stats(self) -> CacheStats | None:
        """What the vector cache holds and has done; None without one."""
        return self._storage.cache.stats() if self._storage.cache is not None else None

    async def not_ready(self) -> list[str]:
        """What keeps requests from being served; empty when all is well."""
        missing = []
        try:
            await asyncio.to_thread(self._storage.check)
        except Exception:  # noqa: BLE001 - whatever keeps the database from answering
            missing.append("database")
        return missing

    async def aclose(self) -> None:
        """Close providers, write what is left of the ledger, close the database. Call after draining.

        A provider call that nobody waits for any more gets a moment to end, then its connection is closed.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await asyncio.gather(*(provider.aclose() for provider in self._providers.values()))
        await asyncio.to_thread(self._storage.close)


_OPERATOR = Caller("operator", "operator", "command line", is_admin=True)
"""Who embeds from the command line, in the ledger."""


@dataclass(frozen=True, slots=True)
class _Storage:
    database: Database
    keys: SqlKeyStore
    ledger: SqlLedger
    cache: TieredCache | None
    first_keys: FirstKeys | None

    def check(self) -> None:
        """Raises if the database does not answer."""
        self.ledger.check()

    def close(self) -> None:
        self.ledger.close()
        if self.cache is not None:
            self.cache.close()
        self.keys.close()
        self.database.close()


def _open_storage(settings: Settings) -> _Storage:
    data_dir = settings.storage.data_dir.expanduser()
    database = open_database(data_dir, settings.storage.synchronous)
    try:
        first_keys = ensure_first_keys(SqlKeyAdmin(database, settings.keys.prefix), data_dir)
    except BaseException:
        database.close()
        raise
    cache = open_cache(settings.cache, data_dir) if settings.cache.enabled else None
    keys = SqlKeyStore(database, max_cached=settings.keys.max_cached)
    ledger = SqlLedger(
        database, max_pending=settings.storage.ledger_max_pending, patience_s=settings.storage.ledger_patience_s
    )
    return _Storage(database, keys, ledger, cache, first_keys)


async def open_gateway(loaded: Loaded) -> Gateway:
    """Open everything and load the default model. Raises ConfigError."""
    settings = loaded.settings
    decided = decide(loaded)
    if not decided.switched_on:
        raise ConfigError(
            ["no provider is on: install embedgate[minilm] for the embedded model, or set a provider's key"]
        )
    default_model = decided.default_model(settings.local.default_model)
    storage = await asyncio.to_thread(_open_storage, settings)
    try:
        await _load_default_model(default_model, decided)
    except BaseException:
        storage.close()
        raise
    tokenizers = KnownTokenizers(decided.local_models, settings.local.cl100k_file)
    providers: dict[str, Provider] = {
        name: HttpDriver(
            openai.provider(in_use.host.path, sends_usage=in_use.host.sends_usage), in_use.endpoint, settings.transport
        )
        for name, in_use in decided.hosts.items()
    }
    if LOCAL in decided.switched_on:
        providers[LOCAL] = LocalProvider(decided.local_models)
    if FAKE in decided.switched_on:
        providers[FAKE] = fake.FakeProvider()
    pipeline = Pipeline(
        authenticate=Authenticator(storage.keys, settings.keys.prefix),
        admit=Admission(decided.catalog, settings.limits, tokenizers, decided.switched_on, default_model),
        resolve=Resolver(
            decided.catalog,
            decided.switched_on,
            decided.explain_off,
            refuses_unpriced=settings.catalog.unpriced == "refuse",
        ),
        planner=Planner(tokenizers, storage.cache, shares_between_users=settings.cache.scope == "shared"),
        execute=Executor(
            providers, tokenizers, settings.upstream, decided.gathering(settings.providers), decided.space_of
        ),
        account=Accountant(storage.ledger),
        request_timeout_s=settings.server.request_timeout_s,
    )
    return Gateway(settings, decided, pipeline, providers, storage)


async def _load_default_model(name: str, decided: Decided) -> None:
    """Have the default model ready before the first request, if it is a local one."""
    model = decided.catalog.find(name)
    if model is not None and model.routes[0].provider == LOCAL:
        try:
            await asyncio.to_thread(decided.local_models.load, model.routes[0].upstream_model)
        except DependencyMissing as error:
            raise ConfigError([error.message]) from error


@contextlib.contextmanager
def open_keys(loaded: Loaded) -> Iterator[KeyAdmin]:
    """Users and keys, for the command line. Makes the database if it is not there. Raises ConfigError."""
    database = open_database(loaded.settings.storage.data_dir.expanduser(), loaded.settings.storage.synchronous)
    try:
        yield SqlKeyAdmin(database, loaded.settings.keys.prefix)
    finally:
        database.close()


@contextlib.contextmanager
def open_vector_cache(loaded: Loaded) -> Iterator[VectorCache]:
    """The vector cache, for the command line; a running gateway may have it open too. Raises ConfigError."""
    cache = open_cache(loaded.settings.cache, loaded.settings.storage.data_dir.expanduser())
    try:
        yield cache
    finally:
        cache.close()


def open_catalog(loaded: Loaded) -> Catalog:
    """Every model that is known, with the routes of the settings. Raises ConfigError."""
    return decide(loaded).catalog


def switched_on(loaded: Loaded) -> frozenset[str]:
    """The providers that are on. Raises ConfigError."""
    return decide(loaded).switched_on


@contextlib.contextmanager
def open_embedder(loaded: Loaded, model: str, dim: int | None = None) -> Iterator[Embedder]:
    """A gateway in this process, called directly instead of over HTTP. Raises ConfigError.

    Its requests go the whole way, ledger included. They need no key: who runs this owns the data folder.
    """
    with asyncio.Runner() as runner:
        gateway = runner.run(open_gateway(loaded))
        try:
            yield _InProcess(runner, gateway, model, dim)
        finally:
            runner.run(gateway.aclose())


class _InProcess:
    """Implements the `Embedder` port."""

    def __init__(self, runner: asyncio.Runner, gateway: Gateway, model: str, dim: int | None) -> None:
        self._runner = runner
        self._gateway = gateway
        self._model = model
        self._dim = dim

    def embed(self, texts: Sequence[Input], input_type: InputType | None = None) -> Vectors:
        name, provider = self._gateway.catalog.parse_model_name(self._model)
        request = EmbedRequest(name, tuple(texts), dim=self._dim, input_type=input_type, provider=provider)
        request_id = f"req_{uuid.uuid4().hex}"
        return self._runner.run(self._gateway.pipeline.embed_as(request_id, _OPERATOR, request)).vectors
