"""Opens the gateway: storage, providers, models, rules, and the pipeline over them."""

import asyncio
import contextlib
import uuid
from collections.abc import Mapping, Sequence

from embedgate.catalog import Catalog
from embedgate.config import Loaded
from embedgate.core.access import AliasRule, AuditEvent, BudgetState, Caller, Rules
from embedgate.core.clock import utc_ms
from embedgate.core.errors import ConfigError, DependencyMissing, ProviderKeyMissing
from embedgate.core.models import LOCAL, Model
from embedgate.core.money import PICODOLLARS_PER_DOLLAR
from embedgate.core.ports import Provider
from embedgate.core.types import (
    CacheStats,
    EmbedRequest,
    EmbedResult,
)
from embedgate.core.vectors import to_json
from embedgate.engine.admission.admit import Admission
from embedgate.engine.admission.authenticate import Authenticator
from embedgate.engine.admission.budgets import Budgets
from embedgate.engine.admission.paid_options import PaidOptions
from embedgate.engine.admission.rate_limits import RateLimits
from embedgate.engine.admission.refusals import Refusals
from embedgate.engine.chat.complete import ChatValidator, Completer
from embedgate.engine.chat.weigh import ChatWeigher
from embedgate.engine.embedding.execute import Executor
from embedgate.engine.embedding.plan import Planner
from embedgate.engine.embedding.validate import EmbeddingValidator
from embedgate.engine.embedding.weigh import EmbeddingWeigher
from embedgate.engine.ledger.account import Accountant
from embedgate.engine.pipeline import Pipeline, Stages
from embedgate.engine.rerank.rank import Ranker, RerankValidator
from embedgate.engine.rerank.weigh import RerankWeigher
from embedgate.engine.routing.compare import Verdict
from embedgate.engine.routing.drift import DriftWatch
from embedgate.engine.routing.find_model import ModelFinder
from embedgate.engine.routing.offer import Offer, OfferedModel
from embedgate.engine.routing.order import RouteOrder
from embedgate.engine.routing.probe import Prober
from embedgate.engine.routing.resolve import Resolver
from embedgate.engine.routing.route_health import RouteHealths
from embedgate.engine.routing.verify import same_vectors, verify
from embedgate.engine.upstream.credentials import Credentials
from embedgate.govern import change as operations
from embedgate.govern.failed_logins import MAX_FAILURES_OF_NAME
from embedgate.govern.resources import CacheAccess, GatewayAccess
from embedgate.govern.selection import FAKE, Selection, Stored, decide
from embedgate.inference.counters import KnownTokenizers
from embedgate.observe import events
from embedgate.policy.decider import CedarDecider
from embedgate.providers import fake
from embedgate.providers.local import LocalProvider
from embedgate.storage.answers import AnswerStore
from embedgate.storage.database import Database
from embedgate.wiring import discovery
from embedgate.wiring.administration import decide_within, open_resources
from embedgate.wiring.credentials import open_credentials
from embedgate.wiring.folder_claim import FolderClaim
from embedgate.wiring.following import Following
from embedgate.wiring.retention import AuditRetention
from embedgate.wiring.storage import Storage, open_storage, stored_at

_CLOSE_TIMEOUT_S = 2


class Gateway:
    """An open gateway: storage, providers and the pipeline over them."""

    def __init__(
        self,
        loaded: Loaded,
        storage: Storage,
        rules: Rules,
        stored: Stored,
        decided: Selection,
        *,
        has_claim: bool = True,
    ) -> None:
        """Use `open_gateway`. has_claim: whether no other server runs on the data folder."""
        settings = loaded.settings
        self.settings = settings
        self.first_keys = storage.first_keys
        self._loaded = loaded
        self._storage = storage
        self._decided = decided
        self._stored = stored
        self._tokenizers = KnownTokenizers(decided.local_models, settings.local.cl100k_file)
        self._providers = self._open_providers(decided, {})
        self._retired: set[asyncio.Task[None]] = set()
        self._looking: asyncio.Task[list[str]] | None = None
        self.limits = RateLimits(rules.limits)
        self.budgets = Budgets(rules.budgets, storage.spending, newest_ms=storage.newest_entry_ms)
        self.claim = FolderClaim(storage.claim, is_held=has_claim, on_taken=self._take_over)
        self._refusals = Refusals(storage.ledger, settings.access.refusal_summary_s)
        self._admission = self._open_admission(rules)
        self._healths = RouteHealths(settings.upstream)
        self._prober = Prober(self._embed_as_operator)
        self.pipeline = Pipeline(
            Authenticator(storage.keys, settings.keys.prefix, accepted_prefixes=settings.keys.accepted_prefixes),
            self._stages(),
            self._admission,
            Accountant(storage.ledger, charges_reuse=settings.cache.reuse_costs == "full"),
            settings.server.request_timeout_s,
            settings.server.chat_timeout_s,
            storage.cache.json_of if storage.cache is not None else to_json,
        )
        self.drift = DriftWatch(self.usable_models, self._embed_as_operator, settings.upstream.verify_every_s)
        self._offer = Offer(
            self._admission,
            self._healths,
            self.drift,
            refuses_unpriced=settings.catalog.unpriced == "refuse",
        )
        self._loop = asyncio.get_running_loop()
        self._resources = open_resources(loaded, self._access())
        self._rules = rules
        self._following = Following(storage.database, rules, self._apply)
        self.retention = AuditRetention(lambda: self.invocation(operations.GATEWAY), settings.storage.audit_keep_days)

    def _open_admission(self, rules: Rules) -> Admission:
        settings, storage = self.settings, self._storage
        return Admission(
            CedarDecider(rules.policies),
            self.limits,
            self.budgets,
            storage.ledger,
            settings.access.is_emergency,
            ledger=storage.ledger.watch,
            serves_unrecorded=settings.storage.ledger_outage == "refuse-priced",
            refusals=self._refusals,
            intents=None if settings.storage.intents == "off" else storage.intents,
            intends_for_all=settings.storage.intents == "priced",
            is_sole=lambda: self.claim.is_held,
            heeds_callers_emergency=settings.access.heeds_callers_emergency,
        )

    @property
    def catalog(self) -> Catalog:
        """Every model that is known, with the routes and prices in force."""
        return self._decided.catalog

    @property
    def database(self) -> Database:
        """The open database, for administrators."""
        return self._storage.database

    @property
    def answers(self) -> AnswerStore:
        """The answers that are kept for idempotency keys."""
        return self._storage.answers

    def invocation(self, actor: operations.Actor, secret: str = "") -> operations.Invocation:
        """What one operation of administration runs with; `follow` puts its changes in force.

        secret: the key or the access token that came with the request.
        """
        return operations.Invocation(self._storage.database, self._resources, actor, secret=secret)

    async def follow(self, touched: operations.Touched) -> None:
        """Return once committed changes are in force here, and nothing else was read anew. Raises InternalError.

        A provider that cannot be opened (say, the master key is gone) is logged and keeps nothing else from being in
        force: the change is stored, and what it was about did not fail.
        """
        if touched.any_key:
            self._storage.keys.forget(touched.concerns)
        if touched.rules:
            try:
                await self._following.catch_up()
            except ConfigError as error:
                events.RULES_NOT_READ.emit(reason=str(error))

    def usable_models(self) -> list[Model]:
        """Embedding models with a route that is switched on, and only those routes."""
        return self._decided.usable_models()

    async def offer(self, caller: Caller, ip_address: str, model_id: str | None = None) -> list[OfferedModel]:
        """The models that a caller may use now, with their routes; the one of that id alone, if it is given.

        Raises InternalError if policies read what was spent, and the ledger cannot be read.
        """
        models = [model for model in self._decided.served_models() if model_id in (None, model.id)]
        return await self._offer.of(models, caller, ip_address)

    def find_model(self, name: str, project_id: str | None = None) -> Model | None:
        """The model of an id, an alias or a bare name, on or off; None if there is none. project_id: of the caller."""
        return self._decided.find_model(name, project_id)

    def aliases_of(self, caller: Caller) -> tuple[AliasRule, ...]:
        """The aliases that count for a caller, by name, whether or not it may use their models."""
        return self._decided.aliases_of(caller.project_id)

    def cache_stats(self) -> CacheStats | None:
        """What the vector cache holds and has done; None without one."""
        return self._storage.cache.stats() if self._storage.cache is not None else None

    async def catch_up(self) -> None:
        """Return once what administrators have changed is in force here. Others follow within a second.

        Raises InternalError, or ConfigError if a provider's settings cannot be used; the rest is in force then.
        """
        self._storage.keys.forget_all()
        await self._following.catch_up()

    async def try_provider(self, name: str, model: str | None) -> EmbedResult:
        """Embed a word with a provider, billed to the operator, to see if it works. model: None takes its first one.

        Raises a GatewayError.
        """
        served = [found.id for found in self.usable_models() for route in found.routes if route.provider == name]
        if model is None and not served:
            raise ProviderKeyMissing(f"{name} serves no embedding model here: {self._decided.explain_off(name)}.")
        self._lift(name)  # it is to be asked in any case: what made it fail may be mended
        request = EmbedRequest(model or served[0], ("embedgate",), provider=name, cache="no-store")
        return await self._embed_as_operator(request)

    def _lift(self, name: str) -> None:
        """Forget that a provider has failed, has refused a key, or has asked us to wait."""
        self._healths.forget(name)
        provider = self._providers.get(name)
        if isinstance(provider, Credentials):
            provider.lift()

    def _try_provider_aside(self, name: str, model: str | None) -> EmbedResult:
        """As `try_provider`, for worker threads: the event loop is asked, and must go on meanwhile."""
        trial = asyncio.run_coroutine_threadsafe(self.try_provider(name, model), self._loop)
        return trial.result(self.settings.server.request_timeout_s + _CLOSE_TIMEOUT_S)

    def _access(self) -> GatewayAccess:
        """This gateway, for operations, which run on worker threads."""
        cache, settings = self._storage.cache, self.settings.cache
        clear = (lambda: None) if cache is None else cache.clear
        return GatewayAccess(
            lambda: self._decided,
            lambda connection: decide_within(self._loaded, connection, self._decided.local_models),
            self._try_provider_aside,
            CacheAccess(self.cache_stats, clear, settings.memory_bytes, settings.disk_bytes),
            self._budget_states,
            lambda name: discovery.list_models(self.settings, self._decided, name),
            lambda name, model: discovery.probe(self.settings, self._decided, name, model),
            self._is_summed,
            self._verify_aside,
        )

    def _verify_aside(self, models: Sequence[Model]) -> list[list[Verdict]]:
        """The verdicts on the routes of each model, for worker threads: the event loop is asked, and must go on."""
        longest_s = len(models) * 2 * self.settings.server.request_timeout_s + _CLOSE_TIMEOUT_S
        return asyncio.run_coroutine_threadsafe(self.verify_models(models), self._loop).result(longest_s)

    async def verify_models(self, models: Sequence[Model]) -> list[list[Verdict]]:
        """The verdicts on the routes of each model, one model after the other."""
        return [await self.verify_model(model) for model in models]

    async def verify_model(self, model: Model) -> list[Verdict]:
        """Compare the vectors of the same texts from every route that is on, billed to the operator.

        Its twins in this process count as routes. What it costs is in the ledger.
        """
        return await verify(same_vectors(model, self.usable_models()), self._embed_as_operator)

    async def _embed_as_operator(self, request: EmbedRequest) -> EmbedResult:
        return await self.pipeline.embed_as(f"req_{uuid.uuid4().hex}", OPERATOR, request)

    async def not_ready(self) -> list[str]:
        """What prevents requests from being served; empty if nothing does. Concurrent callers share one check."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(self._look())
        return await asyncio.shield(self._looking)

    async def _look(self) -> list[str]:
        missing = []
        try:
            if await asyncio.to_thread(self._storage.ledger.check) is not None:
                missing.append("ledger")
        except Exception:  # noqa: BLE001 - whatever keeps the database from answering
            missing.append("database")
        return missing

    async def aclose(self) -> None:
        """Close providers, write what is left of the ledger, close the database. Call after draining.

        A provider call that nobody waits for any more gets a moment to end, then its connection is closed.
        """
        await self.claim.aclose()
        await self.drift.aclose()
        await self.retention.aclose()
        await self._following.aclose()
        await self._prober.aclose()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await asyncio.gather(*(provider.aclose() for provider in self._providers.values()), *self._retired)
        self._refusals.close()
        await asyncio.to_thread(self._storage.close)

    async def _take_over(self) -> None:
        """Book what the server before has left open, and count from the ledger on. Raises InternalError."""
        await asyncio.to_thread(self._storage.recover)
        self.budgets.recount()

    def _budget_states(self) -> list[BudgetState]:
        """Where the budgets in use stand. For worker threads: the event loop is asked, and must go on meanwhile."""
        return asyncio.run_coroutine_threadsafe(self.budgets.state(), self._loop).result()

    def _is_summed(self, event: AuditEvent) -> bool:
        """Whether a failed login was counted with those before it. For worker threads, as `_budget_states`."""

        async def counts() -> bool:
            return self._refusals.counts(event, MAX_FAILURES_OF_NAME)

        return asyncio.run_coroutine_threadsafe(counts(), self._loop).result()

    async def _apply(self, rules: Rules) -> None:
        """Put in force what is different in the rules, and nothing else.

        Raises ConfigError if the providers cannot be; all else is then in force.
        """
        in_force = self._rules
        if rules.policies != in_force.policies:
            self._admission.follow(await asyncio.to_thread(CedarDecider, rules.policies))
            events.RULES_IN_FORCE.emit(changed="policies")
        if rules.limits != in_force.limits:
            self.limits.replace(rules.limits)
            events.RULES_IN_FORCE.emit(changed="limits")
        if rules.budgets != in_force.budgets:
            self.budgets.replace(rules.budgets)
            events.RULES_IN_FORCE.emit(changed="budgets")
        if rules.revision != in_force.revision:
            self.budgets.recount()  # a settlement may have corrected the ledger
        self._rules = rules
        await self._follow_providers(rules)

    async def _follow_providers(self, rules: Rules) -> None:
        """Put in force what is stored of providers and prices, if it is different. Raises ConfigError."""
        now_ms = utc_ms()
        # The record of a provider whose key was changed is another one, so that no key needs to be read to compare.
        if stored_at(rules, self._stored.keys, now_ms) == self._stored:
            return
        stored = await asyncio.to_thread(self._storage.stored, rules, now_ms)
        decided = await asyncio.to_thread(decide, self._loaded, stored, self._decided.local_models)
        self._replace_providers(decided, self._loaded, stored)
        events.RULES_IN_FORCE.emit(changed="providers and prices")

    async def reload(self, loaded: Loaded) -> None:
        """Put other settings of providers in force. Raises ConfigError, and changes nothing, if they cannot be used.

        loaded: the settings in force, except for those of providers and of the log.
        """
        async with self._following.paused():
            decided = await asyncio.to_thread(decide, loaded, self._stored, self._decided.local_models)
            if faults := decided.faults():
                raise ConfigError(faults)
            self._replace_providers(decided, loaded, self._stored)
            self.settings = loaded.settings

    def _replace_providers(self, decided: Selection, loaded: Loaded, stored: Stored) -> None:
        """Open the providers that are other ones than before, and retire those. Raises ConfigError."""
        old, records = self._providers, self._stored.providers
        self._providers = self._open_providers(decided, old)
        self._loaded, self._decided, self._stored = loaded, decided, stored
        self.pipeline.reroute(self._stages())
        for name, provider in old.items():
            if self._providers.get(name) is not provider:
                self._healths.forget(name)
                task = asyncio.get_running_loop().create_task(self._retire(provider))
                self._retired.add(task)
                task.add_done_callback(self._retired.discard)
            elif stored.providers.get(name) != records.get(name):
                self._lift(name)

    async def _retire(self, provider: Provider) -> None:
        """Close a provider that was replaced, once no request is left that began with it: one may yet try again."""
        await self.pipeline.running.outlast()
        await provider.aclose()

    def _open_providers(self, decided: Selection, old: Mapping[str, Provider]) -> dict[str, Provider]:
        """Every provider that is on; those of `old` that are as they were are kept, with their connections."""
        providers: dict[str, Provider] = {}
        for name, in_use in decided.hosts.items():
            if name in old and in_use == self._decided.hosts.get(name):
                providers[name] = old[name]
                continue
            try:
                providers[name] = open_credentials(in_use, self.settings, self._tokenizers)
            except DependencyMissing as error:
                raise ConfigError([f"providers.{name}: {error.message}"]) from error
        if LOCAL in decided.switched_on:
            providers[LOCAL] = old.get(LOCAL) or LocalProvider(decided.local_models)
        if FAKE in decided.switched_on:
            providers[FAKE] = old.get(FAKE) or fake.FakeProvider()
        return providers

    def _stages(self) -> Stages:
        """The stages that depend on which models and providers there are."""
        decided, settings, tokenizers = self._decided, self.settings, self._tokenizers
        healths, upstream = self._healths, settings.upstream
        default_model = decided.default_model(settings.local.default_model)
        finder = ModelFinder(decided.catalog, decided.switched_on, default_model, decided.aliases)
        remote = {name: provider for name, provider in self._providers.items() if isinstance(provider, Credentials)}
        resolver = Resolver(
            decided.catalog,
            decided.switched_on,
            decided.explain_off,
            refuses_unpriced=settings.catalog.unpriced == "refuse",
            order=RouteOrder(healths, upstream.order),
            aliases=decided.aliases,
        )
        return Stages(
            resolver=resolver,
            paid_options=PaidOptions(
                {name: int(usd * PICODOLLARS_PER_DOLLAR) for name, usd in settings.limits.paid_options.items()}
            ),
            embedding_validator=EmbeddingValidator(finder, settings.limits, tokenizers, resolver),
            embedding_weigher=EmbeddingWeigher(tokenizers),
            executor=Executor(
                self._providers,
                tokenizers,
                upstream,
                decided.batching(),
                decided.space_of,
                healths,
                Planner(tokenizers, self._storage.cache, settings.cache.scope),
                self._prober.probe,
            ),
            chat_validator=ChatValidator(finder),
            chat_weigher=ChatWeigher(tokenizers, settings.limits.max_chat_output_tokens),
            completer=Completer(remote, healths, upstream, settings.transport.max_reply_bytes),
            rerank_validator=RerankValidator(finder, settings.limits),
            rerank_weigher=RerankWeigher(tokenizers),
            ranker=Ranker(remote, healths, upstream, tokenizers),
        )


OPERATOR = Caller("operator", "operator", "command line", is_admin=True)
"""Who embeds from the command line, in the ledger."""


async def open_gateway(loaded: Loaded, *, is_server: bool = False) -> Gateway:
    """Open everything and load the default model. is_server: serves callers, and so counts their budgets and limits.

    Raises ConfigError, also if there are budgets and another process serves from the same folder.
    """
    storage = await asyncio.to_thread(open_storage, loaded)
    try:
        rules = await asyncio.to_thread(storage.rules)
        has_claim = not is_server or storage.claim()
        if not has_claim:
            if rules.budgets:
                raise ConfigError(
                    [
                        f"another server runs on {loaded.settings.storage.data_dir}, and there are budgets, which only "
                        "one process can count; stop that server, or use another storage.data_dir"
                    ]
                )
            events.SECOND_SERVER.emit()
        elif is_server:  # once more: the server before may have ended only now
            await asyncio.to_thread(storage.recover)
        stored = await asyncio.to_thread(storage.stored, rules, utc_ms())
        decided = decide(loaded, stored)
        if not decided.switched_on:
            raise ConfigError(
                ["no provider is on: install embedgate[minilm] for the embedded model, or set a provider's key"]
            )
        await _load_default_model(decided.default_model(loaded.settings.local.default_model), decided)
        gateway = Gateway(loaded, storage, rules, stored, decided, has_claim=has_claim)
    except BaseException:
        storage.close()
        raise
    if is_server:
        if rules.limits:
            now_ms = utc_ms()
            gateway.limits.restore(await asyncio.to_thread(storage.recent_requests, now_ms), now_ms)
        await asyncio.to_thread(storage.watch)
        gateway.drift.start()
        gateway.retention.start()
    return gateway


async def _load_default_model(name: str, decided: Selection) -> None:
    """Have the default model ready before the first request, if it is a local one."""
    model = decided.catalog.find(name)
    if model is not None and model.routes and model.routes[0].provider == LOCAL:
        try:
            await asyncio.to_thread(decided.local_models.load, model.routes[0].upstream_model)
        except DependencyMissing as error:
            raise ConfigError([error.message]) from error
