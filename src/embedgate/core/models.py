"""Records of the catalogue: models, their routes, sizes, limits and prices. All frozen."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from embedgate.core.actions import ActionName

Truncate = Literal["none", "start", "end"]
Side = Literal["start", "end"]
"""Where an over-long input is cut."""
Confidence = Literal["confirmed", "partial", "third-party", "unconfirmed"]
ParamValue = str | int | float | bool
LOCAL = "local"
"""The provider of the models that run in this process."""


@dataclass(frozen=True, slots=True)
class Price:
    """Price per input token. `as_of` is the date of the price list, `source` names it.

    Two further prices are of chat models: per output token, and per cached input token. One is of rerank models:
    per search, where a host bills searches beside tokens or in place of them.
    """

    picodollars_per_token: int
    as_of: str | None = None
    source: str | None = None
    output_picodollars_per_token: int | None = None
    cached_input_picodollars_per_token: int | None = None
    picodollars_per_search: int | None = None

    def is_zero(self) -> bool:
        """Whether every price is zero."""
        return not (
            self.picodollars_per_token
            or self.output_picodollars_per_token
            or self.cached_input_picodollars_per_token
            or self.picodollars_per_search
        )


@dataclass(frozen=True, slots=True)
class DimRange:
    """The vector sizes of a model: those in `allowed`, or any from `minimum` to `maximum` if it is empty."""

    default: int
    minimum: int
    maximum: int
    allowed: tuple[int, ...] = ()

    def __contains__(self, dim: object) -> bool:
        """Whether `dim` is an available size."""
        if not isinstance(dim, int):
            return False
        return dim in self.allowed if self.allowed else self.minimum <= dim <= self.maximum

    def describe(self) -> str:
        """For messages: `1..1536` or `256, 512, 1024`."""
        if self.allowed:
            return ", ".join(map(str, sorted(self.allowed)))
        if self.minimum == self.maximum:
            return str(self.maximum)
        return f"{self.minimum}..{self.maximum}"


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Limits of one provider call. None means that no limit is known."""

    max_inputs: int | None = None
    max_tokens: int | None = None
    max_bytes: int | None = None
    max_parallel: int = 8


@dataclass(frozen=True, slots=True)
class Route:
    """Route: one model at one provider, with its name, wire fields, limits and price there.

    `query_prefix` and `document_prefix` are what the gateway prepends to inputs; None means nothing is needed,
    or the host does it. `accepts_dim` says the host takes a size; `accepts_truncate` that it cuts over-long inputs if
    told to, `truncates_silently` that it always does. `tokenizer` is `tiktoken:cl100k_base`, `hf:<name>`, `local`
    or `unknown`.

    Wire names are the host's: `dim_field` for the size, `input_type_field` for the type, with the values
    `query_input_type` and `document_input_type` out of its `input_types` (empty where it has none). A dot in a field
    name is a level of nesting. `required_params` go into every call, `truncate_params` into those that want over-long
    inputs cut so; where there are any, no other cut is possible. `promises_unit_length` says that this host is
    known to return vectors of length 1. `aliases` are other names of the model in the host's answers; with
    `names_freely` any name is taken there, unless it is that of a known model of another space. `cuts_here` says that
    the gateway has the tokenizer, and cuts over-long inputs itself where the host cannot. `confidence` is how
    certain names and sizes are. `weight` is the share of requests that it gets where routes are drawn by weight; 0:
    only those that no other can serve. `is_free` is a server of one's own: what has no price there costs nothing.
    """

    provider: str
    upstream_model: str
    dims: DimRange
    max_input_tokens: int
    tokenizer: str
    limits: BatchLimits = field(default_factory=BatchLimits)
    price: Price | None = None
    accepts_dim: bool = False
    accepts_base64: bool = False
    accepts_token_ids: bool = False
    accepts_user: bool = False
    accepts_unknown_options: bool = False
    input_types: tuple[str, ...] = ()
    query_prefix: str | None = None
    document_prefix: str | None = None
    accepts_truncate: bool = False
    truncates_silently: bool = False
    truncate_params: Mapping[Truncate, Mapping[str, ParamValue]] = field(default_factory=dict)
    dim_field: str = "dimensions"
    input_type_field: str | None = None
    query_input_type: str | None = None
    document_input_type: str | None = None
    required_params: tuple[tuple[str, ParamValue], ...] = ()
    promises_unit_length: bool = False
    aliases: tuple[str, ...] = ()
    names_freely: bool = True
    cuts_here: bool = False
    confidence: Confidence = "confirmed"
    precision: str = "f32"
    weight: int = 1
    is_free: bool = False

    def has_price(self, action: ActionName) -> bool:
        """Whether all that the host bills for a request of this kind is known: what a chat writes has its own price."""
        if self.price is None or (action == "chat" and self.price.output_picodollars_per_token is None):
            return self.is_free
        return True

    def costs_nothing(self) -> bool:
        """Whether it is known that nothing is billed."""
        return self.is_free if self.price is None else self.price.is_zero()

    def prefix_of(self, input_type: Literal["query", "document"] | None) -> str:
        """What the gateway must prepend to inputs of a type; empty if nothing."""
        if input_type is None:
            return ""
        return (self.query_prefix if input_type == "query" else self.document_prefix) or ""

    def can_truncate(self, truncate: Truncate, prefix: str = "") -> bool:
        """Whether over-long inputs can be treated as `truncate` says on this route: by the host, or before a call.

        prefix: what the gateway prepends to each input.
        """
        return self.cuts_here or self.host_truncates(truncate, prefix)

    def host_truncates(self, truncate: Truncate, prefix: str = "") -> bool:
        """Whether the host itself can treat over-long inputs as `truncate` says."""
        if truncate == "none":
            return True
        if truncate == "start" and prefix:
            return False  # it would cut the prefix off
        return self.accepts_truncate and (not self.truncate_params or truncate in self.truncate_params)


ScoreScale = Literal["unit", "cosine", "logit"]
"""What the scores of a rerank model are: from 0 to 1, a cosine from -1 to 1, or logits without bounds."""


@dataclass(frozen=True, slots=True)
class Model:
    """A public model name and the space its vectors live in.

    Two models of one space give comparable vectors. `dims.default` is the native size. A chat model has
    `action` "chat", no space and no dims.
    `cuts_exactly` says that a Matryoshka size equals the beginning of the full vector, rescaled, up to rounding.
    `is_normalised` says that its vectors are compared at unit length, whether or not a host scales them.
    `revision` stands for all that decides which vectors its routes give: where one is changed, it is another. Cached
    vectors of one revision are never found under another. `scores` is the scale of a rerank model.
    """

    id: str
    action: ActionName
    routes: tuple[Route, ...]
    space: str | None = None
    dims: DimRange | None = None
    is_matryoshka: bool = False
    is_normalised: bool = False
    max_input_tokens: int = 0
    cuts_exactly: bool = True
    status: str = "active"
    note: str | None = None
    max_output_tokens: int | None = None
    revision: str = ""
    scores: ScoreScale | None = None

    def is_served_by(self, providers: Collection[str]) -> bool:
        """Whether one of its routes is at one of these providers."""
        return any(route.provider in providers for route in self.routes)

    @property
    def author(self) -> str:
        """The part of the id before the first slash."""
        return self.id.partition("/")[0]

    @property
    def name(self) -> str:
        """The bare name: the part of the id after the first slash."""
        return self.id.partition("/")[2]
