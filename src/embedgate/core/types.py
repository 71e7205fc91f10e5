"""Records that travel through the gateway: requests, results, ledger entries. All frozen, except `Call`.

Records that every request makes anew are structs: a frozen dataclass takes ten times as long to make. Those that no
cycle of references can pass through are not tracked by the garbage collector (`gc=False`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Generic, Literal, Protocol, TypeVar

from msgspec import Struct, field

from embedgate.core.access import Caller, Rate
from embedgate.core.actions import CHAT, EMBEDDING, Action
from embedgate.core.demand import Demand
from embedgate.core.errors import GatewayError
from embedgate.core.models import Model, Route, Truncate
from embedgate.core.quantise import Quantisation
from embedgate.core.vectors import Vectors, to_json

InputType = Literal["query", "document"]
Dialect = Literal["openai", "ziri", "azure", "cohere", "ollama", "tei"]
OrderBy = Literal["list", "weight", "latency", "price", "throughput"]
CacheUse = Literal["store", "no-store"]
TokenIds = tuple[int, ...]
Input = str | TokenIds
"""A text, or the cl100k_base token ids of one."""
NO_OPTIONS: Mapping[str, bytes] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Routing:
    """Order of routes that one request asks for: a list of providers, or a criterion."""

    order: tuple[str, ...] = ()
    by: OrderBy | None = None


class Origin(Struct, frozen=True):
    """Origin of a request: its id, dialect, credential and client address.

    `demand` ends when the caller closes the connection. `outlives_caller` says that the task that brings the request
    is not cancelled then.
    """

    request_id: str
    dialect: Dialect
    secret: str | None
    ip_address: str = ""
    demand: Demand = field(default_factory=Demand)
    outlives_caller: bool = False


class AnyRequest(Protocol):
    """What every kind of request has. `action` is its kind."""

    action: ClassVar[Action]

    @property
    def is_emergency(self) -> bool:
        """Whether the caller says that it is one."""

    @property
    def model(self) -> str:
        """The requested model name."""

    @property
    def user(self) -> str | None:
        """The end user whom the caller serves."""

    @property
    def provider(self) -> str | None:
        """The only provider that may serve it; None for any."""

    @property
    def routing(self) -> "Routing | None":
        """The requested order of routes."""

    @property
    def fallback_model(self) -> str | None:
        """The model to try when all routes of the requested one fail."""

    @property
    def n_items(self) -> int:
        """Number of inputs, messages or documents."""

    @property
    def input_type(self) -> InputType | None:
        """The input type, if given."""


class EmbedRequest(Struct, frozen=True, gc=False):
    """One embeddings request, free of any wire format.

    `dim` None means the model's own size. `options` are fields that no dialect knows, as raw JSON by name: passed
    to routes that accept them, refused otherwise. `provider` pins one provider. `quantisation` is what the vectors will
    be rounded to in the answer; the engine only ensures that they can be. `is_emergency` is what the caller says.
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
    is_emergency: bool = False

    @property
    def n_items(self) -> int:
        """Number of inputs."""
        return len(self.inputs)


class ChatRequest(Struct, frozen=True):
    """One chat completion request. The caller's fields are passed through unchanged: `fields` are raw JSON by name.

    They exclude the model and fields that control the gateway. `text_bytes` is the length of all text the model will
    read, which bounds its tokens; `n_media` counts images, sounds and files. `max_output_tokens` is what
    the caller allows for each of `n_choices`; None if not given. `is_stream` asks for server-sent events,
    `wants_usage` for the event that reports tokens.
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
    is_emergency: bool = False


class Batch(Struct, frozen=True, gc=False):
    """The inputs of one provider call, prefixed and within the route's limits.

    `dim` None means that the call names no size and the native one, `expected_dim`, is expected.
    """

    inputs: tuple[Input, ...]
    expected_dim: int
    dim: int | None = None
    input_type: InputType | None = None
    truncate: Truncate = "none"
    user: str | None = None
    options: Mapping[str, bytes] = NO_OPTIONS


class Part(Struct, frozen=True, gc=False):
    """One provider call of a request: its batch, and the rows of the answer that the batch fills.

    `keys` are those of its inputs in the cache; None if they have none. `truncated` holds the positions of inputs that
    were cut before.
    """

    rows: tuple[int, ...]
    batch: Batch
    keys: tuple[bytes, ...] | None = None
    truncated: tuple[int, ...] = ()


class ProviderReply(Struct, frozen=True, gc=False):
    """The vectors of one batch, (n, dim) float32 in the order of its inputs.

    `tokens` is the provider's own count for the whole batch, None if it gave none. `model` is what the provider
    says it used. `truncated` holds the positions of inputs that were cut. `tokens_each` are the exact tokens of
    every input, if the provider is the local runtime.
    """

    vectors: Vectors
    tokens: int | None = None
    model: str | None = None
    truncated: tuple[int, ...] = ()
    tokens_each: tuple[int, ...] | None = None


class ChatUsage(Struct, frozen=True, gc=False):
    """Token usage that a chat provider reports. `cached_tokens` are input tokens billed at a lower price."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0


class Usage(Struct, frozen=True, gc=False):
    """Token usage of a request. Input tokens count whether they were computed for it or not.

    `is_estimated`: neither the provider nor an exact tokenizer gave the number. `reused_tokens` are those of texts that
    came from the cache or from another request's call. `output_tokens` are those that a chat model wrote.
    """

    tokens: int = 0
    is_estimated: bool = False
    reused_tokens: int = 0
    output_tokens: int = 0


class Candidate(Struct, frozen=True, gc=False):
    """A route that may serve a request, and its model: the requested one or a permitted fallback."""

    model: Model
    route: Route

    def cost_of(self, tokens: int) -> int:
        """Picodollars for input tokens here; 0 where no price is known."""
        price = self.route.price
        return tokens * price.picodollars_per_token if price else 0


class Weighed(Struct, frozen=True, gc=False):
    """A candidate with the maximum cost of the request there. `dim` is the size of the vectors, 0 without any.

    `tokens` are input tokens. Rate limits count them and `output_tokens`, the output that the caller asks for. The cost
    includes `most_output_tokens`, which the model may write at most.
    """

    candidate: Candidate
    tokens: int
    cost_picodollars: int
    dim: int = 0
    output_tokens: int = 0
    most_output_tokens: int = 0


class Answered(Protocol):
    """What accounting reads from a served request."""

    @property
    def candidate(self) -> Candidate:
        """The route that served it."""

    @property
    def usage(self) -> "Usage":
        """Its token usage."""


class Served(Struct, frozen=True, gc=False):
    """Served embeddings: checked vectors (n, dim) float32 in the caller's order, and the route that served them."""

    candidate: Candidate
    vectors: Vectors
    usage: "Usage"
    truncated: tuple[int, ...] = ()


class EmbedResult(Struct, frozen=True, gc=False):
    """The answer to an EmbedRequest: one row of `vectors` per input, in the caller's order, shape (n, dim) float32.

    `model` is the public id of the model that served it; `provider` the route. `truncated` holds the positions of
    inputs that were cut on request. `json_of` writes one vector as JSON.
    """

    model: str
    provider: str
    vectors: Vectors
    usage: Usage
    cost_picodollars: int
    truncated: tuple[int, ...]
    timing: "Timing"
    rate: Rate | None = None
    json_of: Callable[[Vectors], bytes] = to_json


class Timing(Struct, frozen=True, gc=False):
    """Milliseconds spent: in total, before the provider was called, and at providers."""

    total_ms: float
    authenticate_ms: float
    upstream_ms: float


class LedgerEntry(Struct, frozen=True, gc=False):
    """Ledger entry: what one request used and cost, and whom to bill.

    `end_user` is the `user` field of the request. `tokens` and `price_picodollars` are of
    input; a chat model has `output_tokens` as well, whose price is in the cost. `estimated_tokens` and
    `estimated_picodollars` are the parts of tokens and cost that no provider has confirmed: it gave no usage, or no
    answer to a call that it may bill.
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
    estimated_tokens: int = 0
    estimated_picodollars: int = 0


class CachedVector(Struct, frozen=True, gc=False, eq=False):
    """Cached embedding of one text: its full-size vector, (dim,) float32 and read-only, and its token count.

    `tokens` is the text's own count; `is_truncated` says that it was cut before it was embedded. Compared by identity.
    """

    vector: Vectors
    tokens: int
    is_truncated: bool


@dataclass(frozen=True, slots=True)
class TierStats:
    """Statistics of one tier of a cache: contents, and counters since it was opened.

    `size_bytes` includes overhead. `evictions` counts entries that were dropped to make room.
    """

    entries: int = 0
    size_bytes: int = 0
    hits: int = 0
    evictions: int = 0


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Statistics of a cache since it was opened. An entry of the disk tier counts once for each copy of it.

    `dropped` entries stayed in memory but never reached the disk, because the queue was full or the disk refused
    them. `rejected` ones were read from disk and did not match their checksum. `pending_bytes` wait to be written.
    `texts`: of vectors as JSON, kept beside both tiers.
    """

    memory: TierStats
    disk: TierStats
    misses: int
    dropped: int
    rejected: int
    pending_bytes: int
    texts: TierStats = TierStats()


class Spend(Struct):
    """Spend of one request on one route so far. `estimated_` is the part of it that no provider has confirmed."""

    candidate: Candidate
    tokens: int = 0
    tokens_estimated: bool = False
    cost_picodollars: int = 0
    output_tokens: int = 0
    estimated_tokens: int = 0
    estimated_picodollars: int = 0


class Hold(Protocol):
    """Hold: money reserved for one request in its budgets, until it is settled or released."""

    async def cover(self, total_picodollars: int) -> None:
        """Hold at least that much in total. Raises BudgetExhausted, or InternalError if the ledger cannot be read."""

    def settle(self, cost_picodollars: int, at_ms: int, *, is_recorded: bool = True) -> None:
        """Replace the held amount by the true cost. at_ms: of the ledger entry. is_recorded: if that is committed."""

    def release(self) -> None:
        """Give back the held amount, for a request without a ledger entry."""


class Intents(Protocol):
    """Journal of intents: who pays for provider calls that may be under way, kept until the ledger has their cost."""

    async def write(self, entry: LedgerEntry) -> None:
        """Return once the intent survives the end of this process; the last one of a request counts.

        entry: what is booked if this process ends before the request. Raises LedgerUnavailable if that is impossible.
        """

    def settle(self, request_id: str) -> None:
        """End the intent of a request whose cost is in the ledger: it will not be booked. Idempotent."""

    def drop(self, request_id: str) -> None:
        """End the intent of a request without a cost: it will not be booked. Idempotent."""


class CountedRequest(Protocol):
    """One request counted in the rate limits of its subjects, and in flight."""

    def weigh(self, tokens: int) -> None:
        """Count the tokens of a request that entered before they were known.

        Raises RateLimited, and leaves and undoes the count, if the minute has no room for them.
        """
        ...

    def correct(self, tokens: int) -> None:
        """Count the true number of tokens in place of the estimate."""

    def leave(self) -> None:
        """End being in flight. Idempotent."""

    def withdraw(self) -> None:
        """Leave and undo the count: for a request that was refused after all."""


class Grant(Struct, frozen=True):
    """Admission of a request: the routes it may use, its count in the rate limits, its hold on the budgets.

    `held_picodollars` cover answering each input once, at the dearest of the candidates as they were `weighed`.
    `is_budgeted` says that a budget applies to the caller. `intents` is where it is noted what may be spent; None where
    that is not wanted.
    """

    candidates: tuple[Candidate, ...]
    counted: CountedRequest
    hold: Hold
    held_picodollars: int
    weighed: tuple[Weighed, ...] = ()
    is_budgeted: bool = False
    intents: Intents | None = None

    def most_at(self, candidate: Candidate) -> Weighed:
        """What the request can use and cost at a candidate. Raises KeyError for one that it was not admitted to."""
        for each in self.weighed:
            if each.candidate is candidate:
                return each
        raise KeyError(candidate.route.provider)


RequestT = TypeVar("RequestT", bound=AnyRequest)


class Call(Struct, Generic[RequestT]):
    """State of one request, the only mutable record. Stages add to it; `account` reads it at the end.

    `counted` is its place in the rate limits, if it was taken before the body was read; `admit` passes it to the grant.
    `grant` is None until the request is admitted. `surcharge_picodollars` is the most that its options can cost
    beside its tokens. `wasted_picodollars` were billed for answers that had to be requested again. `began_s`: when the
    stages after reading began. `demand` is that of its caller for an answer. The last intent on disk is
    `intended_for` this candidate and of so many picodollars.
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
    counted: CountedRequest | None = None
    grant: Grant | None = None
    spends: list[Spend] = []
    surcharge_picodollars: int = 0
    wasted_picodollars: int = 0
    intended_for: Candidate | None = None
    intended_picodollars: int = 0
    upstream_s: float = 0.0
    error: GatewayError | None = None
    demand: Demand = field(default_factory=Demand)
