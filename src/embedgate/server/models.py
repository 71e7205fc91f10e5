"""`GET /v1/models` and `/v1/models/{id}`: the models that a caller may use, in the OpenAI and ZenMux format.

Owns the format. The gateway knows which models a key may use, and the health of their routes.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from embedgate.core.access import Caller
from embedgate.core.actions import ACTIONS, EMBEDDING, ActionName, Modality
from embedgate.core.errors import UnknownModel
from embedgate.core.models import BatchLimits, DimRange, Model, Price, Route, ScoreScale, Truncate
from embedgate.core.money import usd_text
from embedgate.core.quantise import BITS_PER_NUMBER, PACKED
from embedgate.core.types import InputType
from embedgate.govern.models import Sizes
from embedgate.govern.query import read_query
from embedgate.govern.values import moment_or_none
from embedgate.server.address import CallerAddress
from embedgate.server.answer import Answer
from embedgate.server.dialects import ollama, openai, tei
from embedgate.server.fields import ENCODING_FORMATS, INPUT_TYPES, TRUNCATES, EncodingFormat
from embedgate.server.respond import Request
from embedgate.wiring import Gateway, OfferedModel, OfferedRoute, RouteCondition

_CREATED_S = 1_767_225_600
"""`created` of every model: 2026-01-01, since the API requires a time and none is known."""
_TOKENS_PER_PRICE = 1_000_000


class ModelsQuery(Struct):
    """Filter of models. Unknown fields are ignored: clients send versions and page sizes of their own."""

    action: Annotated[ActionName | None, Meta(description="Only models with this input type.")] = None
    provider: Annotated[str | None, Meta(description="Only models with a route at this provider.")] = None


class Pricing(Struct, frozen=True):
    """One price."""

    value: Annotated[
        msgspec.Raw, Meta(description="Dollars, exactly.", extra_json_schema={"type": "number", "minimum": 0})
    ]
    unit: Literal["perMTokens", "perCount"]
    currency: Literal["USD"]


class Pricings(Struct, frozen=True, omit_defaults=True):
    """Prices of a model. A list is empty where no price is known, and absent where it does not apply."""

    prompt: Annotated[tuple[Pricing, ...], Meta(description="Input tokens.")]
    completion: Annotated[tuple[Pricing, ...], Meta(description="Output tokens of a chat model.")] = ()
    input_cache_read: Annotated[tuple[Pricing, ...], Meta(description="Input that the provider had cached.")] = ()
    request: Annotated[tuple[Pricing, ...], Meta(description="Each search, for rerank models billed by searches.")] = ()


class Capabilities(Struct, frozen=True):
    """Capabilities of an embedding model; empty for the others."""

    dimensions: Annotated[Sizes | None, Meta(description="Available lengths of vectors.")]
    matryoshka: Annotated[bool, Meta(description="Whether its vectors can be shortened with `dimensions`.")]
    encoding_formats: tuple[EncodingFormat, ...]
    input_types: Annotated[
        tuple[InputType, ...], Meta(description="Input types that make a difference: none, or query and document.")
    ]
    truncate: Annotated[tuple[Truncate, ...], Meta(description="Sides at which an over-long input can be cut.")]


class LimitsOfRoute(Struct, frozen=True):
    """Limits of one provider call; null where no limit is known. Larger requests are split."""

    max_inputs: int | None
    max_tokens: int | None
    max_bytes: int | None


class HealthOfRoute(Struct, frozen=True):
    """Health of the route, from its last calls."""

    state: Annotated[
        RouteCondition,
        Meta(
            description="`failing`: its circuit is open; `probing`: half-open, being probed; `drifted`: its vectors "
            "have drifted; `unknown`: not called yet."
        ),
    ]
    p50_ms: float | None
    p95_ms: float | None
    failure_share: Annotated[float | None, Meta(description="Over its last calls.")]
    last_failure_code: str | None
    last_failure_at: datetime | None


class ServedRoute(Struct, frozen=True):
    """Route: the model at one provider."""

    provider: str
    upstream_model: Annotated[str, Meta(description="Its name at the provider.")]
    pricings: Pricings
    price_as_of: str | None
    context_length: Annotated[int, Meta(description="Tokens per input there.")]
    dimensions: Annotated[int | None, Meta(description="Length of its vectors by default.")]
    precision: Annotated[str, Meta(description="Precision of the weights there.")]
    limits: LimitsOfRoute
    weight: Annotated[int, Meta(description="Its share of requests where routes are drawn by weight.")]
    health: HealthOfRoute


class ListedModel(Struct, frozen=True, omit_defaults=True):
    """A model that can be used now."""

    id: Annotated[str, Meta(description="What to send as `model`.")]
    object: Literal["model"]
    created: Annotated[int, Meta(description="A fixed time, since the real one is not known. Unix seconds.")]
    owned_by: Annotated[str, Meta(description="Who made the model.")]
    action: Annotated[ActionName, Meta(description="What it is for.")]
    input_modalities: tuple[Literal["text"], ...]
    output_modalities: tuple[Modality, ...]
    context_length: Annotated[int, Meta(description="Tokens per input.")]
    max_output_tokens: Annotated[int | None, Meta(description="Most output tokens of a chat model.")]
    dimensions: Annotated[int | None, Meta(description="Length of its vectors, unless shortened.")]
    space: Annotated[str | None, Meta(description="Name of its vector space: vectors of one space can be compared.")]
    status: Annotated[str, Meta(description="`active`; `legacy`: there is a better one; `retiring`: ends soon.")]
    capabilities: Capabilities
    pricings: Annotated[Pricings, Meta(description="Prices of its cheapest route.")]
    routes: Annotated[tuple[ServedRoute, ...], Meta(description="Where it is served, in the order of the catalogue.")]
    scores: Annotated[
        ScoreScale | None,
        Meta(description="Scale of a rerank model: `unit` is 0 to 1, `cosine` -1 to 1, `logit` has no bounds."),
    ] = None
    alias_of: Annotated[str | None, Meta(description="Id of the model that this other name stands for.")] = None


class ListedModels(Struct, frozen=True):
    """The models that can be used now."""

    object: Literal["list"]
    data: tuple[ListedModel, ...]


class Models:
    """Handlers of the models routes."""

    def __init__(self, gateway: Gateway, address: CallerAddress) -> None:
        """gateway: whose models are listed. address: the client address, which policies may read."""
        self._gateway = gateway
        self._address = address

    async def list(self, request: Request) -> Answer:
        """The models that the caller may use now, with the routes that it may use. Raises MalformedRequest."""
        caller = await self._gateway.pipeline.identify(openai.secret(request.headers))
        query = read_query(request.query, ModelsQuery)
        offered = await self._gateway.offer(caller, self._address.of(request))
        data = [
            listed_model(each, alias)
            for alias, each in self._named(caller, offered)
            if query.action in (None, each.model.action)
            and (query.provider is None or any(at.route.provider == query.provider for at in each.routes))
        ]
        return _json(request.id, ListedModels("list", tuple(data)))

    async def tags(self, request: Request) -> Answer:
        """The embedding models that the caller may use now, as Ollama lists them."""
        caller = await self._gateway.pipeline.identify(ollama.secret(request.headers))
        offered = await self._gateway.offer(caller, self._address.of(request))
        named = self._named(caller, offered)
        names = (alias or each.model.id for alias, each in named if each.model.action == EMBEDDING.name)
        return ollama.write_models(names, request.id)

    async def info(self, name: str, request: Request) -> Answer:
        """One model, as a server of Text Embeddings Inference describes its own. Raises UnknownModel."""
        found = await self._find(name, request, tei.Server.secret(request.headers))
        return tei.write_info(found.model, found.routes[0].route.precision, self._gateway.settings.limits, request.id)

    async def show(self, name: str, request: Request) -> Answer:
        """One model, by its id, alias or bare name. Raises UnknownModel, also for one that the caller may not use."""
        return _json(request.id, listed_model(await self._find(name, request, openai.secret(request.headers))))

    async def _find(self, name: str, request: Request, secret: str | None) -> OfferedModel:
        """The model of that name that the caller may use. Raises UnknownModel."""
        caller = await self._gateway.pipeline.identify(secret)
        known = self._gateway.find_model(name, caller.project_id)
        offered = await self._gateway.offer(caller, self._address.of(request), known.id) if known else []
        if not offered:
            raise UnknownModel(
                f"There is no model {name[:200]!r} that this key can use here. See GET /v1/models.", param="model"
            )
        return offered[0]

    def _named(self, caller: Caller, offered: Sequence[OfferedModel]) -> Iterable[tuple[str | None, OfferedModel]]:
        """Models with None, and those that have aliases for the caller once more with each of these, at the end."""
        by_id = {each.model.id: each for each in offered}
        yield from ((None, each) for each in offered)
        for alias in self._gateway.aliases_of(caller):
            if alias.model in by_id:
                yield alias.name, by_id[alias.model]


def listed_model(offered: OfferedModel, alias: str | None = None) -> ListedModel:
    """The answer for a model. alias: instead of its id."""
    model = offered.model
    return ListedModel(
        id=alias or model.id,
        object="model",
        created=_CREATED_S,
        owned_by=model.author,
        action=model.action,
        input_modalities=("text",),
        output_modalities=(ACTIONS[model.action].modality,),
        context_length=model.max_input_tokens,
        max_output_tokens=model.max_output_tokens,
        dimensions=model.dims.default if model.dims else None,
        space=model.space,
        status=model.status,
        capabilities=_capabilities(model, [each.route for each in offered.routes]),
        pricings=_pricings(_cheapest(each.route.price for each in offered.routes)),
        routes=tuple(_route(each) for each in offered.routes),
        scores=model.scores,
        alias_of=model.id if alias else None,
    )


def _capabilities(model: Model, routes: Sequence[Route]) -> Capabilities:
    dims = model.dims
    if dims is None:
        return Capabilities(None, matryoshka=False, encoding_formats=(), input_types=(), truncate=())
    return Capabilities(
        dimensions=Sizes(dims.default, dims.minimum, dims.maximum, dims.allowed),
        matryoshka=model.is_matryoshka,
        encoding_formats=tuple(name for name in ENCODING_FORMATS if _can_encode(name, model, dims)),
        input_types=INPUT_TYPES if any(map(_tells_types_apart, routes)) else (),
        truncate=tuple(where for where in TRUNCATES if any(route.can_truncate(where) for route in routes)),
    )


def _can_encode(encoding_format: EncodingFormat, model: Model, dims: DimRange) -> bool:
    if encoding_format in ("float", "base64"):
        return True
    if encoding_format not in PACKED:
        return model.is_normalised
    largest = dims.maximum - dims.maximum % BITS_PER_NUMBER
    has_whole_bytes = any(size % BITS_PER_NUMBER == 0 for size in dims.allowed) or largest >= max(1, dims.minimum)
    return model.is_normalised and has_whole_bytes


def _tells_types_apart(route: Route) -> bool:
    names = (route.query_prefix, route.document_prefix, route.query_input_type, route.document_input_type)
    return any(name is not None for name in names)


def _cheapest(prices: Iterable[Price | None]) -> Price | None:
    known = [price for price in prices if price is not None]
    return min(known, key=lambda price: (price.picodollars_per_token, price.picodollars_per_search or 0), default=None)


def _pricings(price: Price | None) -> Pricings:
    if price is None:
        return Pricings(prompt=())
    output, cached = price.output_picodollars_per_token, price.cached_input_picodollars_per_token
    return Pricings(
        prompt=_per_million(price.picodollars_per_token),
        completion=_per_million(output),
        input_cache_read=_per_million(cached),
        request=_each(price.picodollars_per_search),
    )


def _per_million(picodollars_per_token: int | None) -> tuple[Pricing, ...]:
    if picodollars_per_token is None:
        return ()
    return (Pricing(_number(picodollars_per_token * _TOKENS_PER_PRICE), "perMTokens", "USD"),)


def _each(picodollars: int | None) -> tuple[Pricing, ...]:
    return () if picodollars is None else (Pricing(_number(picodollars), "perCount", "USD"),)


def _number(picodollars: int) -> msgspec.Raw:
    """Dollars as a JSON number with all its digits: a float would round them."""
    return msgspec.Raw(usd_text(picodollars).encode())


def _route(offered: OfferedRoute) -> ServedRoute:
    route, health = offered.route, offered.health
    return ServedRoute(
        provider=route.provider,
        upstream_model=route.upstream_model,
        pricings=_pricings(route.price),
        price_as_of=route.price.as_of if route.price else None,
        context_length=route.max_input_tokens,
        dimensions=route.dims.default or None,
        precision=route.precision,
        limits=_limits(route.limits),
        weight=route.weight,
        health=HealthOfRoute(
            state=offered.condition,
            p50_ms=health.p50_ms,
            p95_ms=health.p95_ms,
            failure_share=health.failure_share,
            last_failure_code=health.last_failure_code,
            last_failure_at=moment_or_none(health.last_failure_at_ms),
        ),
    )


def _limits(limits: BatchLimits) -> LimitsOfRoute:
    return LimitsOfRoute(limits.max_inputs, limits.max_tokens, limits.max_bytes)


def _json(request_id: str, body: Struct) -> Answer:
    return Answer(200, openai.headers(request_id), msgspec.json.encode(body))
