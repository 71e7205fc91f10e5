"""Records that travel through the gateway: requests, results, ledger entries. All frozen, except `Call`.

Records that every request makes anew are structs: a frozen dataclass takes ten times as long to make. Those that no
cycle of references can pass through are not tracked by the garbage collector (`gc=False`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Generic, Literal, Protocol, TypeVar

from msgspec import Struct

from embedgate.core.access import Caller, Rate
from embedgate.core.actions import CHAT, EMBEDDING, RERANK, Action
from embedgate.core.errors import GatewayError
from embedgate.core.models import Model, Route, Truncate
from embedgate.core.quantise import Quantisation
from embedgate.core.vectors import Vectors

InputType = Literal["query", "document"]
Dialect = Literal["openai", "ziri"]
OrderBy = Literal["list", "weight", "latency", "price", "throughput"]
CacheUse = Literal["store", "no-store"]
TokenIds = tuple[int, ...]
Input = str | TokenIds
"""A text, or the cl100k_base token ids of one."""
NO_OPTIONS: Mapping[str, bytes] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Routing:
    """How one request wants its routes ordered: by a list of providers, or by what they are like."""

    order: tuple[str, ...] = ()
    by: OrderBy | None = None


class Origin(Struct, frozen=True, gc=False):
    """Where a request comes from: its id, the API it speaks, the credential and the address it came with."""

    request_id: str
    dialect: Dialect
    secret: str | None
    ip_address: str = ""


class AnyRequest(Protocol):
    """What every kind of request has: `action` says which kind it is, `n_items` how much it holds."""

    action: ClassVar[Action]

    @property
    def model(self) -> str:
        """The name asked for."""
        ...

    @property
    def user(self) -> str | None:
        """Whom the caller serves."""
        ...

    @property
    def provider(self) -> str | None:
        """The only provider that may serve it."""
        ...

    @property
    def routing(self) -> "Routing | None":
        """How its routes are to be ordered."""
        ...

    @property
    def fallback_model(self) -> str | None:
        """The model to go on with when the routes of the asked one fail."""
        ...

    @property
    def n_items(self) -> int:
        """Inputs, messages or documents."""
        ...

    @property
    def input_type(self) -> InputType | None:
        """What the inputs are for, where that was said."""
        ...


class EmbedRequest(Struct, frozen=True, gc=False):
    """One embeddings request, free of any wire format.

    `dim` None means the model's own size. `options` are fields that no dialect knows, as raw JSON by name: passed
    to routes that accept them, refused otherwise. `provider` pins one provider. `quantisation` is what the vectors will
    be rounded to when they are answered; the engine only sees to it that they can be.
    """

    action: ClassVar[Action] = EMBEDDING

    model: str
    inputs: tuple[Input, ...]
    dim: int | None = None
    input_type: InputType | None = None
    truncate: Truncate = "none"
    user: str | None = None
    provider: str | None = None
    routing: Routing | None = None
    fallback_model: str | None = None
    allow_space_change: bool = False
    cache: CacheUse = "store"
    options: Mapping[str, bytes] = NO_OPTIONS
    quantisation: Quantisation | None = None

    @property
    def n_items(self) -> int:
        """Its inputs."""
        return len(self.inputs)


class ChatRequest(Struct, frozen=True):
    """One chat completion. What the caller wrote travels on as it is: `fields` are raw JSON by name.

    They leave out the model and what steers the gateway. `text_bytes` is the length of all text that the model will
    read, which bounds its tokens; `n_media` are the pictures, sounds and files beside it. `max_output_tokens` is what
    the caller allows for each of `n_choices`; None if it names nothing. `is_stream` asks for server-sent events,
    `wants_usage` for the event that counts tokens.
    """

    action: ClassVar[Action] = CHAT
    input_type: ClassVar[InputType | None] = None

    model: str
    fields: Mapping[str, bytes]
    n_items: int
    text_bytes: int
    is_stream: bool = False
    wants_usage: bool = False
    max_output_tokens: int | None = None
    n_choices: int = 1
    user: str | None = None
    provider: str | None = None
    routing: Routing | None = None
    fallback_model: str | None = None
    n_media: int = 0


class RerankRequest(Struct, frozen=True):
    """One query, and documents to be put in the order in which they answer it. `top_n` None returns all of them."""

    action: ClassVar[Action] = RERANK
    input_type: ClassVar[InputType | None] = None

    model: str
    query: str
    documents: tuple[str, ...]
    top_n: int | None = None
    returns_documents: bool = False
    user: str | None = None
    provider: str | None = None
    routing: Routing | None = None
    fallback_model: str | None = None

    @property
    def n_items(self) -> int:
        """Its documents."""
        return len(self.documents)


class Batch(Struct, frozen=True, gc=False):
    """The inputs of one provider call, prefixed and within the route's limits.

    `dim` None means that the call names no size and the native one is expected (`expected_dim` says it).
    """

    inputs: tuple[Input, ...]
    expected_dim: int
    dim: int | None = None
    input_type: InputType | None = None
    truncate: Truncate = "none"
    user: str | None = None
    options: Mapping[str, bytes] = NO_OPTIONS


class Part(Struct, frozen=True, gc=False):
    """One provider call of a request: its batch, and the rows of the answer that the batch fills."""

    rows: tuple[int, ...]
    batch: Batch


class ProviderReply(Struct, frozen=True, gc=False):
    """The vectors of one batch, (n, dim) float32 in the order of its inputs.

    `tokens` is the provider's own count for the whole batch, None if it gave none. `model` is what the provider
    says it used. `truncated` holds the positions of inputs that were cut. `tokens_each` are the exact tokens of
    every input, where the provider is ours and knows them.
    """

    vectors: Vectors
    tokens: int | None = None
    model: str | None = None
    truncated: tuple[int, ...] = ()
    tokens_each: tuple[int, ...] | None = None


class ChatUsage(Struct, frozen=True, gc=False):
    """What a chat model says it read and wrote. `cached_tokens` are those of the input that cost less."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0


class RerankReply(Struct, frozen=True):
    """Scores of documents by their position in the request, (position, score), in any order.

    `tokens` and `searches` are what the provider bills, whichever it says; None if it does not.
    """

    scores: tuple[tuple[int, float], ...]
    tokens: int | None = None
    searches: int | None = None


class Usage(Struct, frozen=True, gc=False):
    """Input tokens of a request: what its texts weigh, whether they were computed for it or not.

    `is_estimated` when no provider and no exact tokenizer gave the number. `reused_tokens` are those of texts that
    came from the cache or from another request's call. `output_tokens` are those that a chat model wrote.
    """

    tokens: int = 0
    is_estimated: bool = False
    reused_tokens: int = 0
    output_tokens: int = 0


class Candidate(Struct, frozen=True, gc=False):
    """A route that may serve a request, and the model it belongs to: the asked one or a permitted fallback."""

    model: Model
    route: Route


class Weighed(Struct, frozen=True, gc=False):
    """A candidate, and the most that the request can come to there. `dim` is the size of the vectors, 0 without any.

    `tokens` are those that go in. Limits count them and `output_tokens`, those that the caller asks to come out.
    """

    candidate: Candidate
    tokens: int
    cost_picodollars: int
    dim: int = 0
    output_tokens: int = 0


class Answered(Protocol):
    """What accounting needs of a request that was answered."""

    @property
    def candidate(self) -> Candidate:
        """Who served it."""
        ...

    @property
    def usage(self) -> "Usage":
        """What it weighed."""
        ...


class Served(Struct, frozen=True, gc=False):
    """What the providers gave: checked vectors (n, dim) float32 in the caller's order, and who served them."""

    candidate: Candidate
    vectors: Vectors
    usage: "Usage"
    truncated: tuple[int, ...] = ()


class EmbedResult(Struct, frozen=True, gc=False):
    """The answer to an EmbedRequest: one row of `vectors` per input, in the caller's order, shape (n, dim) float32.

    `model` is the public id of the model that served it; `provider` the route. `truncated` holds the positions of
    inputs that were cut on request.
    """

    model: str
    provider: str
    vectors: Vectors
    usage: Usage
    cost_picodollars: int
    truncated: tuple[int, ...]
    timing: "Timing"
    rate: Rate | None = None


class Timing(Struct, frozen=True, gc=False):
    """Milliseconds spent, by stage: in all, before the provider was called, and at providers."""

    total_ms: float
    authenticate_ms: float
    upstream_ms: float


class LedgerEntry(Struct, frozen=True, gc=False):
    """One line of the ledger: what one request used and cost, and whom to bill.

    `end_user` is the `user` field of the request: whom the caller serves. `tokens` and `price_picodollars` are of
    input; a chat model has `output_tokens` beside them, whose price is in the cost.
    """

    request_id: str
    at_ms: int
    dialect: Dialect
    user_id: str
    key_id: str
    end_user: str | None
    model: str
    space: str
    provider: str
    upstream_model: str
    items: int
    tokens: int
    reused_tokens: int
    tokens_estimated: bool
    price_picodollars: int
    price_as_of: str | None
    cost_picodollars: int
    outcome: str
    total_ms: float
    upstream_ms: float
    project_id: str | None = None
    authenticate_ms: float = 0.0
    admit_ms: float = 0.0
    action: str = "embedding"
    output_tokens: int = 0


class CachedVector(Struct, frozen=True, gc=False, eq=False):
    """What a cache keeps of one text: its full-size vector, (dim,) float32 and read-only, and what the text weighed.

    `tokens` is the text's own count; `is_truncated` says that it was cut before it was embedded. Compared by identity.
    """

    vector: Vectors
    tokens: int
    is_truncated: bool


@dataclass(frozen=True, slots=True)
class TierStats:
    """One tier of a cache: what it holds, and what it has done since it was opened.

    `size_bytes` is what the entries take, overhead included. `evictions` counts entries that had to make room.
    """

    entries: int = 0
    size_bytes: int = 0
    hits: int = 0
    evictions: int = 0


@dataclass(frozen=True, slots=True)
class CacheStats:
    """A cache since it was opened. An entry of the disk tier counts once for each copy of it.

    `dropped` entries were kept in memory but never reached the disk, because the queue was full or the disk refused
    them. `rejected` ones were read from disk and did not match their checksum. `pending_bytes` are yet to be written.
    """

    memory: TierStats
    disk: TierStats
    misses: int
    dropped: int
    rejected: int
    pending_bytes: int


class Spend(Struct):
    """What one route has cost one request so far."""

    candidate: Candidate
    tokens: int = 0
    tokens_estimated: bool = False
    cost_picodollars: int = 0
    output_tokens: int = 0


class Hold(Protocol):
    """Money held for one request, until it is settled or released. The budgets port gives it out."""

    async def cover(self, total_picodollars: int) -> None:
        """Hold at least that much in all. Raises BudgetExhausted, or InternalError if the ledger cannot be read."""
        ...

    def settle(self, cost_picodollars: int, at_ms: int, *, is_recorded: bool = True) -> None:
        """Replace what was held by the true cost. at_ms: of the ledger entry. is_recorded: if that is committed."""
        ...

    def release(self) -> None:
        """Give back what was held, for a request without a ledger entry."""
        ...


class CountedRequest(Protocol):
    """One request in the rate limits of its subjects: counted, and in flight. The rate-limit port gives it out."""

    def correct(self, tokens: int) -> None:
        """Count the true number of tokens in place of the estimate."""
        ...

    def leave(self) -> None:
        """Be in flight no more. Leaving twice changes nothing."""
        ...

    def withdraw(self) -> None:
        """Leave, and be counted no more: for a request that was refused after all."""
        ...


class Grant(Struct, frozen=True):
    """What a request was admitted with: the routes it may use, its count in the rate limits, its hold on the budgets.

    `held_picodollars` were held for answering each input once.
    """

    candidates: tuple[Candidate, ...]
    counted: CountedRequest
    hold: Hold
    held_picodollars: int


RequestT = TypeVar("RequestT", bound=AnyRequest)


class Call(Struct, Generic[RequestT]):
    """The life of one request: the only mutable record. Stages add to it; `account` reads it at the end.

    `grant` is None until the request is admitted. `wasted_picodollars` were billed for answers that had to be asked for
    again. `began_s`: when the stages after reading began.
    """

    request_id: str
    dialect: Dialect
    caller: Caller
    request: RequestT
    started_s: float
    authenticate_s: float
    deadline_s: float
    ip_address: str = ""
    began_s: float = 0.0
    admit_s: float = 0.0
    grant: Grant | None = None
    spends: list[Spend] = []
    wasted_picodollars: int = 0
    upstream_s: float = 0.0
    error: GatewayError | None = None
