"""A pipeline over scripted providers: the far side is replaced, everything of ours is real."""

import asyncio
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType

import numpy as np
from msgspec import structs

import virtual_time
from embedgate.catalog import Catalog
from embedgate.core.access import AuditEvent, Decision, KeyRecord, Question, Rules, Subject
from embedgate.core.clock import utc_now
from embedgate.core.errors import InvalidInput
from embedgate.core.keys import digest
from embedgate.core.models import BatchLimits, DimRange, Model, Price, Route, Side
from embedgate.core.ports import (
    ChatProvider,
    TextCutter,
    TokenCounter,
    TokenDecoder,
    Tokenizers,
    UnaryProvider,
    VectorCache,
)
from embedgate.core.rerank import RerankRequest, RerankResult
from embedgate.core.types import (
    Batch,
    CachedVector,
    CacheStats,
    EmbedRequest,
    EmbedResult,
    Input,
    LedgerEntry,
    Origin,
    ProviderReply,
)
from embedgate.core.vectors import Vectors, normalise
from embedgate.engine.admission.admit import Admission
from embedgate.engine.admission.authenticate import Authenticator
from embedgate.engine.admission.budgets import Budgets
from embedgate.engine.admission.paid_options import PaidOptions
from embedgate.engine.admission.rate_limits import RateLimits
from embedgate.engine.chat.complete import ChatValidator, Completer
from embedgate.engine.chat.weigh import ChatWeigher
from embedgate.engine.embedding.execute import Executor
from embedgate.engine.embedding.plan import Planner, Scope
from embedgate.engine.embedding.validate import EmbeddingValidator
from embedgate.engine.embedding.weigh import EmbeddingWeigher
from embedgate.engine.ledger.account import Accountant
from embedgate.engine.pipeline import Pipeline, Stages
from embedgate.engine.rerank.rank import Ranker, RerankValidator
from embedgate.engine.rerank.weigh import RerankWeigher
from embedgate.engine.routing.find_model import ModelFinder
from embedgate.engine.routing.order import RouteOrder
from embedgate.engine.routing.resolve import Resolver
from embedgate.engine.routing.route_health import RouteHealths
from embedgate.settings import LimitSettings, UpstreamSettings

SECRET = "eg_" + "0" * 12 + "4" + "0" * 3 + "8" + "0" * 15
DIM = 8
NO_RULES = Rules()
ONE_RETRY = UpstreamSettings(max_retries=1, retry_wait_s=0.001)


def vector_of(item: Input, space: str = "s", dim: int = DIM) -> Vectors:
    """The one right vector of an input in a space: (dim,) float32 of unit length."""
    seed = hashlib.blake2b(repr((space, item)).encode(), digest_size=8).digest()
    numbers = np.random.default_rng(int.from_bytes(seed, "big")).standard_normal((1, dim))
    vector: Vectors = normalise(numbers.astype(np.float32))[0]
    return vector


Step = Callable[[Batch, ProviderReply], ProviderReply]
"""What a scripted provider does with the right reply of one call: give it, spoil it, or raise."""


@dataclass
class ScriptedProvider:
    """Answers rightly, unless a step is scripted for the call; remembers what it was asked and what it charged."""

    space: str = "s"
    dim: int = DIM
    steps: list[Step] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    charged: int = 0
    gate: asyncio.Event | None = None

    async def embed(self, batch: Batch, route: Route, deadline_s: float) -> ProviderReply:
        """One call."""
        self.batches.append(batch)
        step = self.steps.pop(0) if self.steps else None
        if self.gate is not None:
            await self.gate.wait()
        rows = np.stack([vector_of(item, self.space, self.dim) for item in batch.inputs])
        if batch.dim is not None:
            rows = normalise(rows[:, : batch.dim])
        tokens = sum(weight(item) for item in batch.inputs)
        reply = ProviderReply(rows, tokens=tokens)
        if step is not None:
            reply = step(batch, reply)
        self.charged += reply.tokens or 0
        return reply

    async def aclose(self) -> None:
        """Nothing to free."""


def weight(item: Input) -> int:
    """Tokens as these tests count them: words of a text, length of a list of ids."""
    return len(item.split()) if isinstance(item, str) else len(item)


class _Words:
    is_exact = True

    def count(self, text: str) -> int:
        return weight(text)


class _Digits:
    def decode(self, tokens: Sequence[int]) -> str:
        if any(token > 9 for token in tokens):
            raise InvalidInput("has a token id outside the vocabulary", index=0)
        return "".join(map(str, tokens))


class _Scissors:
    def cut(self, text: str, max_tokens: int, side: Side, prefix: str = "") -> str:
        words, room = text.split(), max_tokens - weight(prefix)
        return " ".join(words[:room] if side == "end" else words[-room:]) if len(words) > room else text


class Words:
    """Tokenizers whose tokens are words, and whose token ids are digits."""

    def cutter(self, route: Route) -> TextCutter | None:
        """The same for all routes."""
        return _Scissors()

    def counter(self, route: Route) -> TokenCounter:
        """The same for all routes."""
        return _Words()

    def decoder(self) -> TokenDecoder:
        """Ids above 9 do not exist."""
        return _Digits()


class Permit:
    """A decider that permits, until it is told to forbid providers. Cedar has tests of its own."""

    def __init__(self) -> None:
        self.reads: frozenset[str] = frozenset()
        self.constant: Decision | None = None
        self.forbidden: set[str] = set()
        self.questions: list[Question] = []

    def decide(self, question: Question) -> Decision:
        """Names the one policy there is."""
        self.questions.append(question)
        return Decision(question.provider not in self.forbidden, ("the-policy",))


class Memory:
    """Ledger, audit trail and key store in lists: their real selves have tests of their own."""

    def __init__(self) -> None:
        self.entries: list[LedgerEntry] = []
        self.events: list[AuditEvent] = []
        self.uses: list[tuple[bytes, int]] = []
        self.key = KeyRecord("key_1", "user_1", "u", "k", "0000", False, 0)

    async def record(self, entry: LedgerEntry) -> None:
        """Keep the entry."""
        self.entries.append(entry)

    async def spent(self, subject: Subject, since_ms: int, without: Collection[str]) -> int:
        """The sum of the entries of a subject."""
        return sum(
            entry.cost_picodollars
            for entry in self.entries
            if {"key": entry.key_id, "user": entry.user_id, "project": entry.project_id}[subject.kind] == subject.id
            and entry.at_ms >= since_ms
            and entry.request_id not in without
        )

    def note(self, event: AuditEvent) -> None:
        """Keep the event."""
        self.events.append(event)

    async def find(self, secret_digest: bytes) -> KeyRecord | None:
        """The one key there is."""
        return self.key if secret_digest == digest(SECRET) else None

    def note_use(self, secret_digest: bytes, at_ms: int) -> None:
        """Keep when it was used."""
        self.uses.append((secret_digest, at_ms))


class DictCache:
    """A cache that keeps everything: its real self has tests of its own."""

    def __init__(self) -> None:
        self.kept: dict[bytes, CachedVector] = {}

    def get_many(self, keys: Sequence[bytes]) -> list[CachedVector | None]:
        """What is kept of each key."""
        return [self.kept.get(key) for key in keys]

    def put_many(self, items: Sequence[tuple[bytes, CachedVector]]) -> None:
        """Keep copies: what a provider answered with may be written over."""
        self.kept.update((key, structs.replace(item, vector=item.vector.copy())) for key, item in items)

    def stats(self) -> CacheStats:
        """Nobody asks."""
        raise NotImplementedError

    def clear(self) -> None:
        """Forget everything."""
        self.kept.clear()

    def close(self) -> None:
        """Nothing to free."""


def model(
    *providers: str,
    name: str = "acme/m",
    space: str = "s",
    dim: int = DIM,
    max_inputs: int | None = None,
    max_tokens: int | None = None,
    matryoshka: bool = True,
    price: int = 7,
    accepts_dim: bool = False,
    accepts_token_ids: bool = False,
) -> Model:
    """An embedding model with one route per provider."""
    dims = DimRange(dim, 1 if matryoshka else dim, dim)
    routes = tuple(
        Route(
            provider=provider,
            upstream_model="m",
            dims=dims,
            max_input_tokens=20,
            tokenizer="unknown",
            limits=BatchLimits(max_inputs=max_inputs, max_tokens=max_tokens),
            price=Price(price),
            accepts_dim=accepts_dim,
            accepts_token_ids=accepts_token_ids,
            promises_unit_length=True,
        )
        for provider in providers
    )
    return Model(
        id=name,
        action="embedding",
        routes=routes,
        space=space,
        dims=dims,
        is_matryoshka=matryoshka,
        is_normalised=True,
        max_input_tokens=20,
    )


class Bench:
    """A pipeline over some models and scripted providers."""

    def __init__(
        self,
        models: Sequence[Model],
        providers: dict[str, ScriptedProvider],
        limits: LimitSettings | None = None,
        refuses_unpriced: bool = False,
        cache: VectorCache | None = None,
        gathering: dict[str, int] | None = None,
        scope: Scope = "shared",
        rules: Rules = NO_RULES,
        memory: Memory | None = None,
        upstream: UpstreamSettings = ONE_RETRY,
        charges_reuse: bool = False,
        tokenizers: Tokenizers | None = None,
        now: Callable[[], datetime] = utc_now,
        clock: Callable[[], float] = virtual_time.now,
        request_timeout_s: float = 10,
        chatting: Mapping[str, ChatProvider] = MappingProxyType({}),
        rerankers: Mapping[str, UnaryProvider] = MappingProxyType({}),
        paid_options: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """memory: the ledger of an earlier bench, after a restart. now: dates entries. clock: of the limits.

        chatting, rerankers: providers of chat models, and of those that order documents, by name.
        """
        self.memory = memory or Memory()
        self.providers = providers
        catalog = Catalog(models)
        tokenizers = tokenizers or Words()
        self.policies = Permit()
        self.limits = RateLimits(rules.limits, clock)
        self.budgets = Budgets(rules.budgets, self.memory, now)

        def space_of(provider: str, name: str) -> str | None:
            found = catalog.at_provider(provider, name)
            return found.space if found else None

        self.admission = Admission(self.policies, self.limits, self.budgets, self.memory, now=now)
        self.states = RouteHealths(upstream, virtual_time.now)
        switched_on = providers.keys() | chatting.keys() | rerankers.keys()
        finder = ModelFinder(catalog, switched_on, models[0].id)
        order = RouteOrder(self.states, upstream.order)
        limit_settings = limits or LimitSettings()
        resolver = Resolver(catalog, switched_on, lambda name: f"switch {name} on", refuses_unpriced, order=order)
        self.pipeline = Pipeline(
            authenticator=Authenticator(self.memory, "eg"),
            stages=Stages(
                resolver=resolver,
                paid_options=PaidOptions(paid_options),
                embedding_validator=EmbeddingValidator(finder, limit_settings, tokenizers, resolver),
                embedding_weigher=EmbeddingWeigher(tokenizers),
                executor=Executor(
                    providers,
                    tokenizers,
                    upstream,
                    gathering or {},
                    space_of,
                    self.states,
                    Planner(tokenizers, cache, scope),
                ),
                chat_validator=ChatValidator(finder),
                chat_weigher=ChatWeigher(tokenizers, max_output_tokens=1_000),
                completer=Completer(chatting, self.states, upstream, max_answer_bytes=10_000),
                rerank_validator=RerankValidator(finder, limit_settings),
                rerank_weigher=RerankWeigher(tokenizers),
                ranker=Ranker(rerankers, RouteHealths(upstream, virtual_time.now), upstream, tokenizers),
            ),
            admission=self.admission,
            accountant=Accountant(
                self.memory, charges_reuse=charges_reuse, now_ms=lambda: int(now().timestamp() * 1000)
            ),
            request_timeout_s=request_timeout_s,
            chat_timeout_s=request_timeout_s,
        )
        self._requests = 0

    async def embed(
        self, request: EmbedRequest, secret: str | None = SECRET, *, outlives_caller: bool = False
    ) -> EmbedResult:
        """Serve one request. outlives_caller: as in `Origin`."""
        self._requests += 1

        async def read() -> EmbedRequest:
            return request

        origin = Origin(f"req_{self._requests}", "openai", secret, outlives_caller=outlives_caller)
        return await self.pipeline.embed(origin, read)

    async def rerank(self, request: RerankRequest, secret: str | None = SECRET) -> RerankResult:
        """Order documents."""
        self._requests += 1

        async def read() -> RerankRequest:
            return request

        return await self.pipeline.rerank(Origin(f"req_{self._requests}", "openai", secret), read)
