"""Example answers of the OpenAPI document."""

import msgspec
import numpy as np
import orjson
from msgspec.structs import replace

from embedgate.core.models import Model
from embedgate.core.money import cost_picodollars
from embedgate.core.types import EmbedResult, LedgerEntry, Timing, Usage
from embedgate.engine.routing.route_health import HealthReport
from embedgate.server.describe.errors import EXAMPLE_RATE, REQUEST_ID
from embedgate.server.generation import generation_of
from embedgate.server.models import listed_model
from embedgate.wiring import OfferedModel, OfferedRoute

_AT_MS = 1_795_253_400_000


def sample_result(model: Model) -> EmbedResult:
    """An example result for EXAMPLE_INPUT."""
    route, tokens = model.routes[0], 18
    price = route.price.picodollars_per_token if route.price else 0
    return EmbedResult(
        model=model.id,
        provider=route.provider,
        vectors=np.array([[-0.0421, 0.0837, 0.0155, -0.0612], [0.0274, -0.0193, 0.0568, 0.0406]], dtype=np.float32),
        usage=Usage(tokens),
        cost_picodollars=cost_picodollars(tokens, price),
        truncated=(),
        timing=Timing(total_ms=6.214, authenticate_ms=0.031, upstream_ms=5.402),
    )


def with_every_header(result: EmbedResult) -> EmbedResult:
    """The result for which a dialect sends every header."""
    return replace(result, usage=replace(result.usage, is_estimated=True), truncated=(0,), rate=EXAMPLE_RATE)


def listed_example(model: Model) -> object:
    """The model as in the list of models, before any route was called."""
    routes = tuple(OfferedRoute(route, "unknown", HealthReport()) for route in model.routes)
    return orjson.loads(msgspec.json.encode(listed_model(OfferedModel(model, routes))))


def generation_example(result: EmbedResult, model: Model) -> object:
    """The generation record of an example request."""
    entry = LedgerEntry(
        request_id=REQUEST_ID,
        at_ms=_AT_MS,
        dialect="openai",
        user_id="",
        key_id="",
        end_user=None,
        model=result.model,
        space=model.space or model.id,
        provider=result.provider,
        upstream_model=model.routes[0].upstream_model,
        items=len(result.vectors),
        tokens=result.usage.tokens,
        reused_tokens=0,
        tokens_estimated=False,
        price_picodollars=0,
        price_as_of=None,
        cost_picodollars=result.cost_picodollars,
        outcome="ok",
        total_ms=result.timing.total_ms,
        upstream_ms=result.timing.upstream_ms,
    )
    return orjson.loads(msgspec.json.encode(generation_of(entry)))
