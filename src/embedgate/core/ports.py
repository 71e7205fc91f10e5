"""Ports: what the engine needs of the world, as protocols. Their implementations are chosen in `wiring`."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from embedgate.core.access import (
    AuditEvent,
    BudgetRule,
    BudgetState,
    Decision,
    KeyRecord,
    LimitRule,
    Question,
    Rate,
    Spends,
    Subject,
    UserRecord,
)
from embedgate.core.models import Route
from embedgate.core.types import (
    Batch,
    CachedVector,
    CacheStats,
    ChatRequest,
    ChatUsage,
    CountedRequest,
    Hold,
    Input,
    InputType,
    LedgerEntry,
    ProviderReply,
    RerankReply,
    RerankRequest,
)
from embedgate.core.vectors import Vectors


class Provider(Protocol):
    """One host of models, ready to be called: it has its credential, pool and workers."""

    async def embed(self, batch: Batch, route: Route, deadline_s: float) -> ProviderReply:
        """Embed one batch. deadline_s: on the monotonic clock.

        Returns vectors in the order of `batch.inputs`, not yet checked.
        Raises UpstreamError, InputTooLong with a position in the batch, or InvalidInput.
        """
        ...

    async def aclose(self) -> None:
        """Let calls in flight end, then free connections, threads and models."""
        ...


class ChatReply(Protocol):
    """An answer of a chat model that has begun: its first bytes are here, and they are what the provider sent."""

    content_type: str
    usage: ChatUsage | None
    """What the provider counted: known at the end, None if it says nothing or the end did not come."""
    output_bytes: int
    """Bytes of text and arguments that the model has written so far, to estimate from where nothing is counted."""

    def pieces(self) -> AsyncIterator[bytes]:
        """The body, as it arrives. To be read once. Raises UpstreamError if it breaks off."""
        ...

    async def aclose(self) -> None:
        """Close the call, read or not; what the provider has not sent yet, it need not send."""
        ...


class ChatProvider(Protocol):
    """One host of chat models."""

    async def chat(self, request: ChatRequest, route: Route, deadline_s: float) -> ChatReply:
        """Begin one completion. deadline_s: on the monotonic clock, for the whole answer.

        Returns once the first bytes of a good answer have come. `aclose` of it must follow.
        Raises UpstreamError, or InvalidInput.
        """
        ...


class Reranker(Protocol):
    """One host of models that order documents."""

    async def rerank(self, request: RerankRequest, route: Route, deadline_s: float) -> RerankReply:
        """Score the documents of one request. deadline_s: on the monotonic clock.

        Returns scores that are not yet checked. Raises UpstreamError, or InvalidInput.
        """
        ...


class TokenCounter(Protocol):
    """Token counts of one tokenizer."""

    is_exact: bool

    def count(self, text: str) -> int:
        """Tokens of one text as the model sees it, special tokens included; an upper bound if not `is_exact`."""
        ...


class TokenDecoder(Protocol):
    """Turns cl100k_base token ids back into text."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`. Raises InvalidInput for ids outside the vocabulary or bytes that are not UTF-8."""
        ...


class Tokenizers(Protocol):
    """The tokenizers that the gateway has."""

    def counter(self, route: Route) -> TokenCounter:
        """The counter of the model behind a route: exact where its tokenizer is here, else a bound by bytes."""
        ...

    def decoder(self) -> TokenDecoder:
        """The decoder of cl100k_base. Raises DependencyMissing if none is installed."""
        ...


class Ledger(Protocol):
    """The append-only record of what was used."""

    async def record(self, entry: LedgerEntry) -> None:
        """Return once the entry is committed to disk.

        Raises InternalError if it could not be; the entry is then kept and tried again.
        """
        ...


class VectorCache(Protocol):
    """Vectors by the digest of everything that determines them (core/fingerprint.py). It may forget, never err."""

    def get_many(self, keys: Sequence[bytes]) -> list[CachedVector | None]:
        """What is known of each key, in order; None where nothing is. Cheap enough for the event loop. Never raises."""
        ...

    def put_many(self, items: Sequence[tuple[bytes, CachedVector]]) -> None:
        """Keep vectors: `get_many` finds them from now on; they reach the disk later. Never waits, never raises."""
        ...

    def stats(self) -> CacheStats:
        """What the cache holds and has done since it was opened."""
        ...

    def clear(self) -> None:
        """Forget everything, for every process that shares the cache. Blocks while files are deleted.

        Raises InternalError if the disk refuses.
        """
        ...

    def close(self) -> None:
        """Write what is pending, within a few seconds, and let go of files and threads. Blocks."""
        ...


class PolicyDecider(Protocol):
    """Answers whether a request is permitted, by the policies in force.

    `reads` are the attributes that decisions depend on, such as `context.input_tokens`; others need not be found out.
    `constant` is the decision on every question, if no policy has a condition: then nothing need be asked.
    """

    reads: frozenset[str]
    constant: Decision | None

    def decide(self, question: Question) -> Decision:
        """Deny unless a policy permits and none forbids. Fast enough for the event loop. Never raises."""
        ...


class AuditTrail(Protocol):
    """The append-only record of decisions, changes and logins."""

    def note(self, event: AuditEvent) -> None:
        """Put an event on its way: committed with the next ledger entry, or within a moment. Never waits or raises."""
        ...


class RateLimiter(Protocol):
    """Rate limits of keys, users and projects: requests and tokens per minute, requests in flight."""

    def replace(self, rules: Sequence[LimitRule]) -> None:
        """Put other rules in force. What was counted stays counted."""
        ...

    async def enter(self, subjects: Sequence[Subject], tokens: int, deadline_s: float) -> CountedRequest:
        """Count a request for all of its subjects at once, after a wait for its turn if need be.

        tokens: an estimate. deadline_s: on the monotonic clock. Who is refused or cancelled is counted nowhere.
        Raises RateLimited, or Overloaded if too many requests are in flight.
        """
        ...

    def applies(self, subjects: Sequence[Subject]) -> bool:
        """Whether any limit concerns these subjects."""
        ...

    def rate(self, subjects: Sequence[Subject]) -> Rate | None:
        """Where a caller stands with its limits; None if no minute is limited for it."""
        ...

    def requests_per_minute(self, user_id: str) -> int | None:
        """The limit of a user; None without one."""
        ...


class BudgetKeeper(Protocol):
    """Budgets of keys, users and projects: money is held before it is spent, then settled or released."""

    def replace(self, rules: Sequence[BudgetRule]) -> None:
        """Put other rules in force. What is held and spent stays counted."""
        ...

    async def hold(self, request_id: str, subjects: Sequence[Subject], amount_picodollars: int) -> Hold:
        """Hold the most that a request can cost in every budget of its subjects. It must be settled or released.

        Raises BudgetExhausted, or InternalError if the ledger cannot be read; then nothing is held.
        """
        ...

    def applies(self, subjects: Sequence[Subject]) -> bool:
        """Whether any budget concerns these subjects."""
        ...

    async def spends(self, subject: Subject) -> Spends:
        """What a subject has spent. Raises InternalError if the ledger cannot be read."""
        ...

    async def state(self) -> list[BudgetState]:
        """Every budget that is known, with what is spent and held. Raises InternalError as `spends`."""
        ...


class KeyStore(Protocol):
    """Users and their keys. A key is known by its SHA-256 digest only."""

    async def find(self, digest: bytes) -> KeyRecord | None:
        """The key of a digest, revoked ones included; None if there is none. May be at most a second old."""
        ...


class KeyAdmin(Protocol):
    """Management of users and keys, blocking: the little that the first start needs."""

    def create_user(self, name: str, *, is_admin: bool = False) -> UserRecord:
        """Raises InvalidInput if the name is not fit for one, Conflict if it is taken."""
        ...

    def list_users(self) -> list[UserRecord]:
        """All users, oldest first."""
        ...

    def create_key(self, user: str, name: str) -> tuple[KeyRecord, str]:
        """A new key for the user of that name or id, and its secret, which is shown this once.

        Raises UnknownEntity if there is no such user, InvalidInput if the name is not fit for one.
        """
        ...

    def list_keys(self, user: str | None = None) -> list[KeyRecord]:
        """Keys, oldest first; of one user if given. Raises UnknownEntity if there is no such user."""
        ...

    def revoke_key(self, key_id: str) -> KeyRecord:
        """Stop a key, by its id or its full secret. Revoking twice changes nothing.

        Raises UnknownEntity if there is no such key.
        """
        ...


class Embedder(Protocol):
    """Anything that turns texts into vectors, blocking: the client, or a model in the process."""

    def embed(self, texts: Sequence[Input], input_type: InputType | None = None) -> Vectors:
        """(n, dim) float32, one row per text, in order."""
        ...
