"""Routes for operators and tools: health, readiness, the list of models, the description of the API, its page."""

import orjson

from embedgate import metrics
from embedgate.core.errors import UnknownModel
from embedgate.core.types import Model
from embedgate.server.answer import Answer
from embedgate.server.dialects import openai
from embedgate.server.respond import Request
from embedgate.wiring import Gateway

_CREATED_S = 1_767_225_600
"""`created` of a model in lists: 2026-01-01, since the API wants a time and none is known."""


class Operations:
    """Handlers; each takes a request and gives an answer."""

    def __init__(self, gateway: Gateway) -> None:
        """gateway: what is being operated."""
        self._gateway = gateway

    async def health(self, request: Request) -> Answer:
        """The process is alive and its event loop turns."""
        return _json(request.id, {"status": "ok"})

    async def readiness(self, request: Request) -> Answer:
        """200 when requests can be served; 503 names what is missing."""
        missing = await self._gateway.not_ready()
        body = {"status": "not ready", "missing": missing} if missing else {"status": "ready"}
        return _json(request.id, body, status=503 if missing else 200)

    async def metrics(self, request: Request) -> Answer:
        """Everything that is counted, as Prometheus reads it. Names no caller, so it needs no key."""
        headers = [(b"content-type", metrics.CONTENT_TYPE.encode()), (b"x-request-id", request.id.encode())]
        return Answer(200, headers, metrics.text(self._gateway.cache_stats()))

    async def models(self, request: Request) -> Answer:
        """The models that the caller can use now, in the shape of the OpenAI API."""
        await self._gateway.pipeline.identify(openai.secret(request.headers))
        data = [_describe(model) for model in self._gateway.usable_models()]
        return _json(request.id, {"object": "list", "data": data})

    async def model(self, name: str, request: Request) -> Answer:
        """One model by its id. Raises UnknownModel."""
        await self._gateway.pipeline.identify(openai.secret(request.headers))
        for model in self._gateway.usable_models():
            if model.id == name:
                return _json(request.id, _describe(model))
        raise UnknownModel(f"The model {name[:200]!r} is not switched on here. See GET /v1/models.", param="model")


def _describe(model: Model) -> dict[str, object]:
    dims = model.dims
    return {
        "id": model.id,
        "object": "model",
        "created": _CREATED_S,
        "owned_by": model.author,
        "context_length": model.max_input_tokens,
        "dimensions": dims.default if dims else None,
        "matryoshka": model.is_matryoshka,
        "space": model.space,
        "providers": [route.provider for route in model.routes],
    }


def _json(request_id: str, body: object, status: int = 200) -> Answer:
    return Answer(status, openai.headers(request_id), orjson.dumps(body))
