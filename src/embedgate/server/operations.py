"""Routes for operators and tools: health, readiness, metrics."""

import asyncio
import time

import orjson

from embedgate.observe import metrics
from embedgate.server.answer import Answer
from embedgate.server.dialects import openai
from embedgate.server.readiness import Readiness
from embedgate.server.respond import Request
from embedgate.wiring import Gateway

_APART_S = 1.0
"""Between two counts of the budgets."""


class Operations:
    """Handlers of health, readiness and metrics."""

    def __init__(self, gateway: Gateway, conditions: Readiness) -> None:
        """gateway: what is being operated. conditions: what else may keep requests from being taken."""
        self._gateway = gateway
        self._conditions = conditions
        self._rendering: asyncio.Task[bytes] | None = None
        self._count_budgets_at_s = 0.0

    async def health(self, request: Request) -> Answer:
        """Liveness: the process and its event loop run."""
        return _json(request.id, {"status": "ok"})

    async def readiness(self, request: Request) -> Answer:
        """Readiness: 200 when requests can be served; 503 names what is missing. Names the bounds that are reached."""
        missing = await self._gateway.not_ready() + self._conditions.missing()
        body: dict[str, object] = {"status": "not ready", "missing": missing} if missing else {"status": "ready"}
        if reached := self._conditions.reached():
            body["reached"] = reached
        return _json(request.id, body, status=503 if missing else 200)

    async def metrics(self, request: Request) -> Answer:
        """Metrics in the Prometheus text format. Names no caller, so it needs no key."""
        headers = [(b"content-type", metrics.CONTENT_TYPE.encode()), (b"x-request-id", request.id.encode())]
        if self._rendering is None:
            self._rendering = asyncio.get_running_loop().create_task(self._render())
        return Answer(200, headers, await asyncio.shield(self._rendering))

    async def _render(self) -> bytes:
        """The metrics, for all who ask in one turn of the loop: strangers may ask, and each text takes over 1 ms."""
        await asyncio.sleep(0)
        self._rendering = None
        now_s = time.monotonic()
        if now_s >= self._count_budgets_at_s:  # strangers may ask, and there may be many budgets
            self._count_budgets_at_s = now_s + _APART_S
            metrics.budgets_now(self._gateway.budgets.near_cap())
        return metrics.text(self._gateway.cache_stats())


def _json(request_id: str, body: object, status: int = 200) -> Answer:
    return Answer(status, openai.headers(request_id), orjson.dumps(body))
