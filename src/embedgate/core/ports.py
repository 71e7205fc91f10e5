"""Ports: the protocols through which the engine reaches the world. `wiring` chooses their implementations."""

from collections.abc import AsyncIterator, Sequence
from typing import ClassVar, NamedTuple, Protocol, TypeVar

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
)
from embedgate.core.actions import Action
from embedgate.core.errors import UpstreamError
from embedgate.core.models import Route, Side
from embedgate.core.types import (
    Batch,
    CachedVector,
    CacheStats,
    ChatRequest,
    ChatUsage,
    CountedRequest,
    Hold,
    InputType,
    LedgerEntry,
    ProviderReply,
)
from embedgate.core.vectors import Vectors


class Provider(Protocol):
    """Provider of embeddings, ready to be called, with its credential, connection pool and workers."""

    async def embed(self, batch: Batch, route: Route, deadline_s: float) -> ProviderReply:
        """Embed one batch. deadline_s: on the monotonic clock.

        Returns vectors in the order of `batch.inputs`, not yet checked.
        Raises UpstreamError, InputTooLong with a position in the batch, or InvalidInput.
        """
        ...

    async def aclose(self) -> None:
        """Wait for calls in flight, then free connections, threads and models."""
        ...


class ChatReply(Protocol):
    """Answer of a chat model whose first bytes have arrived, byte for byte as the provider sends it."""

    content_type: str
    usage: ChatUsage | None
    """Usage as the provider counted it: known at the end; None if it reports none or was cut off."""
    output_bytes: int
    """Bytes of text and arguments that the model has written so far, to estimate usage that is not reported."""

    @property
    def fault(self) -> UpstreamError | None:
        """The error in a stream that had begun, which is passed on like all else; None before it comes."""
        ...

    @property
    def is_complete(self) -> bool:
        """False at the end of a stream in which neither the model said why it stopped, nor the host that it was all."""
        ...

    def pieces(self) -> AsyncIterator[bytes]:
        """The body as it arrives. Can be read once. Raises UpstreamError if it breaks off."""
        ...

    async def aclose(self) -> None:
        """Close the call; the rest of the answer is not read."""
        ...


class ChatProvider(Protocol):
    """Provider of chat completions."""

    async def chat(self, request: ChatRequest, route: Route, deadline_s: float) -> ChatReply:
        """Start one completion. deadline_s: on the monotonic clock, for the whole answer.

        Returns once the first bytes of a good answer have arrived. The caller must `aclose` it.
        Raises UpstreamError, or InvalidInput.
        """
        ...


class UnaryReply(Protocol):
    """Reply to a unary request."""

    @property
    def tokens(self) -> int | None:
        """Tokens that the provider bills; None where it does not report them."""


Reply = TypeVar("Reply", bound=UnaryReply)
Reply_co = TypeVar("Reply_co", bound=UnaryReply, covariant=True)


class UnaryRequest(Protocol[Reply_co]):
    """Request that one provider call answers whole, such as rerank: neither batched like embeddings nor streamed."""

    action: ClassVar[Action]

    @property
    def texts(self) -> Sequence[str]:
        """The texts of the caller in it, which no message may show."""

    @property
    def reply_type(self) -> type[Reply_co]:
        """What a provider's answer is read into."""


class UnaryProvider(Protocol):
    """Provider of answers to unary requests, of every action it knows."""

    async def call(self, request: UnaryRequest[Reply], route: Route, deadline_s: float, most_tokens: int) -> Reply:
        """Answer one request. deadline_s: on the monotonic clock. most_tokens: a bound, for limits of rate.

        Returns a reply that is not yet checked. Raises UpstreamError, or InvalidInput.
        """
        ...


class TokenCounter(Protocol):
    """Token counts of one tokenizer."""

    is_exact: bool

    def count(self, text: str) -> int:
        """Tokens of one text as the model sees it, special tokens included; an upper bound if not `is_exact`."""
        ...


class TextCutter(Protocol):
    """Cuts texts at the borders of one tokenizer's tokens."""

    def cut(self, text: str, max_tokens: int, side: Side, prefix: str = "") -> str:
        """The text, or what is left of it after cutting as little as possible at one side.

        Guarantees that `prefix` and the result together have at most `max_tokens` tokens, special tokens included, and
        that no character is cut in two. Empty if nothing fits. Blocks for about a microsecond per 10 bytes.
        """
        ...


class TokenDecoder(Protocol):
    """Decoder of cl100k_base token ids into text."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`. Raises InvalidInput for ids outside the vocabulary or bytes that are not UTF-8."""
        ...


class Tokenizers(Protocol):
    """The tokenizers that the gateway has."""

    def counter(self, route: Route) -> TokenCounter:
        """The token counter of a route: exact where its tokenizer is installed, else an upper bound from bytes."""
        ...

    def cutter(self, route: Route) -> TextCutter | None:
        """What cuts texts for a route; None where its tokenizer is not installed."""
        ...

    def decoder(self) -> TokenDecoder:
        """The decoder of cl100k_base. Raises DependencyMissing if none is installed."""
        ...


class Ledger(Protocol):
    """Ledger: the append-only record of usage and cost."""

    async def record(self, entry: LedgerEntry) -> None:
        """Record an entry; return once it is committed to disk.

        Raises InternalError if it could not be; the entry is then kept and tried again.
        """
        ...


class LedgerHealth(Protocol):
    """Whether the ledger can be written. `outage` says why not; None while it can."""

    @property
    def outage(self) -> str | None:
        """Why the ledger cannot be written; None while it can."""
        ...


class VectorCache(Protocol):
    """Cache of vectors by fingerprint (core/fingerprint.py). It may lose vectors, never return a wrong one."""

    def get_many(self, keys: Sequence[bytes]) -> list[CachedVector | None]:
        """The cached vector of each key, in order; None where there is none. Never blocks or raises."""
        ...

    def put_many(self, items: Sequence[tuple[bytes, CachedVector]]) -> None:
        """Store vectors: `get_many` finds them from now on; they reach the disk later. Never waits or raises."""
        ...

    def stats(self) -> CacheStats:
        """Contents and counters of the cache since it was opened."""
        ...

    def clear(self) -> None:
        """Delete everything, for every process that shares the cache. Blocks while files are deleted.

        Raises InternalError if the disk refuses.
        """
        ...

    def close(self) -> None:
        """Write what is pending, within a few seconds, then close files and threads. Blocks."""
        ...


class PolicyDecider(Protocol):
    """Policy decision point: decides by the policies in force whether a request is permitted.

    `reads` are the attributes that decisions depend on, such as `context.input_tokens`; others need no value.
    `constant` is the decision on every question if no policy has a condition; else None.
    """

    reads: frozenset[str]
    constant: Decision | None

    def decide(self, question: Question) -> Decision:
        """Deny unless a policy permits and none forbids. Does not block the event loop. Never raises."""
        ...


class AuditTrail(Protocol):
    """Audit trail: the append-only record of decisions, changes and logins."""

    def note(self, event: AuditEvent) -> None:
        """Queue an event: it is committed with the next ledger entry, or shortly after. Never waits or raises."""
        ...


class RateLimiter(Protocol):
    """Rate limits of keys, users and projects: requests and tokens per minute, requests in flight."""

    def replace(self, rules: Sequence[LimitRule]) -> None:
        """Replace the rules in force. Counts are kept."""
        ...

    async def enter(self, subjects: Sequence[Subject], tokens: int, deadline_s: float) -> CountedRequest:
        """Count a request for all of its subjects at once; wait in the queue if needed.

        tokens: an estimate. deadline_s: on the monotonic clock. A refused or cancelled request is not counted.
        Raises RateLimited, or Overloaded if too many requests are in flight.
        """
        ...

    def applies(self, subjects: Sequence[Subject]) -> bool:
        """Whether any limit applies to these subjects."""
        ...

    def rate(self, subjects: Sequence[Subject]) -> Rate | None:
        """Rate-limit state of a caller; None without a limit per minute."""
        ...

    def requests_per_minute(self, user_id: str) -> int | None:
        """The request limit of a user; None without one."""
        ...


class BudgetKeeper(Protocol):
    """Budgets of keys, users and projects: money is held before it is spent, then settled or released."""

    def replace(self, rules: Sequence[BudgetRule]) -> None:
        """Replace the rules in force. Holds and spends are kept."""
        ...

    async def hold(self, request_id: str, subjects: Sequence[Subject], amount_picodollars: int) -> Hold:
        """Hold the maximum cost of a request in every budget of its subjects. It must be settled or released.

        Raises BudgetExhausted, or InternalError if the ledger cannot be read; then nothing is held.
        """
        ...

    def applies(self, subjects: Sequence[Subject]) -> bool:
        """Whether any budget applies to these subjects."""
        ...

    async def spends(self, subject: Subject) -> Spends:
        """Spends of a subject. Raises InternalError if the ledger cannot be read."""
        ...

    async def state(self) -> list[BudgetState]:
        """State of every known budget, spent and held. Raises InternalError as `spends`."""
        ...


class KeyStore(Protocol):
    """Key look-up by SHA-256 digest."""

    async def find(self, digest: bytes) -> KeyRecord | None:
        """The key of a digest, revoked ones included; None if there is none. At most a second stale."""
        ...

    def note_use(self, digest: bytes, at_ms: int) -> None:
        """Note that a key was accepted, about once a second while it is used. at_ms: UTC milliseconds."""
        ...


class CallLimits(NamedTuple):
    """What one call of an embedder takes, and how many of its calls may run at the same time."""

    max_inputs: int = 2_048
    max_tokens: int = 300_000
    parallel: int = 1
    """More than 1 only if `embed` may be called from several threads."""


class Embedder(Protocol):
    """Blocking embedder: turns texts into vectors. The client, a model in the process, or one of your own.

    Whoever writes their own derives from it and writes `embed`; everything else has a default.
    """

    @property
    def model(self) -> str:
        """Id of the model."""
        return type(self).__name__

    @property
    def space(self) -> str:
        """Name of its vector space. Vectors can be compared if space and dim are the same."""
        return self.model

    @property
    def dim(self) -> int:
        """Length of its vectors; found out by embedding a word unless the implementation knows it."""
        return int(self.embed(["dimension"]).shape[1])

    @property
    def call_limits(self) -> CallLimits:
        """What one call of `embed` takes; callers split longer lists of texts."""
        return CallLimits()

    def embed(self, texts: Sequence[str], input_type: InputType | None = None) -> Vectors:
        """(n, dim) float32, one row per text, in order."""
        ...

    def embed_anew(self, texts: Sequence[str], input_type: InputType | None = None) -> Vectors:
        """As `embed`, but past any cache that the implementation knows of."""
        return self.embed(texts, input_type)
