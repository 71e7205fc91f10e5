"""The ASGI application: which path goes to which handler in which dialect, and the drain at shutdown.

Plain ASGI: a table from path and method to a handler. Paths outside `PUBLIC` authenticate first.
"""

import difflib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any
from urllib.parse import quote

from msgspec import Struct

from embedgate.core.chat import ChatResult
from embedgate.core.errors import GatewayError, MethodNotAllowed, NotFound
from embedgate.core.rerank import RerankRequest
from embedgate.core.types import ChatRequest, EmbedRequest, Origin
from embedgate.engine.admission.admit import Entrance
from embedgate.engine.chat.stream import StreamBuffer
from embedgate.govern.operations import OPERATIONS
from embedgate.observe import events
from embedgate.server.address import CallerAddress
from embedgate.server.administration import AdminApi
from embedgate.server.answer import PIECE_BYTES, Answer
from embedgate.server.body import Body, BodyBounds, Receive
from embedgate.server.cors import Cors
from embedgate.server.describe import Description
from embedgate.server.dialect import AnyDialect, ChatDialect, Dialect, RerankDialect, SplitName
from embedgate.server.dialects import cohere, ollama, openai, tei, ziri
from embedgate.server.exchange import Send
from embedgate.server.generation import Generations
from embedgate.server.idempotency import HEADER, Idempotency
from embedgate.server.memory import SMALL_BYTES, MemoryBudget, memory_budget
from embedgate.server.models import Models
from embedgate.server.operations import Operations
from embedgate.server.readiness import Readiness
from embedgate.server.respond import Request, Responder, Serve
from embedgate.server.shedding import LoadShedder
from embedgate.server.work_queue import WorkQueue
from embedgate.wiring import Gateway

HEALTH = ("/healthz", "/health", "/api/health")
"""Where other gateways and probes look for it, too."""
PUBLIC = frozenset({"/", *HEALTH, "/readyz", "/metrics", "/openapi.json", "/docs", "/api/login", "/api/refresh"})
"""Paths that need no key. A test checks that every other path refuses a request without one."""

OF_OPERATORS = frozenset({*HEALTH, "/readyz", "/metrics"})
"""Paths that are answered also while requests are refused for lack of time."""

_ADMIN_THREADS = 4
"""Each reads the database on a connection of its own; and all take the interpreter from the event loop."""


class _NamedRoute(Struct, frozen=True):
    """A route with a model in its path. methods: the handlers for a model, by method."""

    dialect: AnyDialect
    methods: Callable[[str], dict[str, Serve]]


class _Exchange:
    """One embeddings request on the wire: keeps the encoding format from reading to writing."""

    def __init__(self, dialect: Dialect, body: Body, split_name: SplitName) -> None:
        self._dialect = dialect
        self._body = body
        self._split_name = split_name
        self.encoding_format = "float"
        self.entrance = Entrance()

    async def read(self) -> EmbedRequest:
        body = await self._body.read(enter=self.entrance.enter, owner=self.entrance.user_id)
        request, self.encoding_format = await self._body.parsed(self._dialect.read, body, self._split_name)
        return request


class Application:
    """ASGI application of one gateway."""

    def __init__(self, gateway: Gateway, memory: MemoryBudget | None = None) -> None:
        """gateway: opened by the caller, which closes it after `drain`. memory: what requests may take; if absent, a
        budget of its own.
        """
        server = gateway.settings.server
        self._gateway = gateway
        memory = memory or memory_budget(server)
        self._cors = Cors(server.cors_origins) if server.cors_origins else None
        self._bodies = BodyBounds(server.max_body_bytes, server.max_body_values, server.body_timeout_s, memory)
        self._respond = Responder(self._bodies, self._cors)
        self._address = CallerAddress(server.trusted_proxies)
        self._models = Models(gateway, self._address)
        self._queue = WorkQueue("administration", _ADMIN_THREADS, server.max_admin_requests)
        self._admin = AdminApi(gateway, OPERATIONS, self._address.of, self._queue)
        bounds = gateway.settings.idempotency
        self._idempotency = Idempotency(
            gateway.answers,
            gateway.pipeline.identify,
            bounds.max_answer_bytes,
            is_sole=lambda: gateway.claim.is_held,
        )
        self.shedder = LoadShedder(server)
        self.readiness = Readiness()
        self.readiness.add_bound("memory", lambda: memory.is_short)
        self.readiness.add_bound("administration", lambda: self._queue.is_full)
        self.readiness.add_bound("other_server", lambda: not gateway.claim.is_held)
        self.readiness.add("latency", lambda: self.shedder.is_shedding)
        self.readiness.add("draining", lambda: self._is_draining)
        self._is_draining = False
        self._table = self._routes()
        self._named = self._named_routes()
        self.routes = {
            **self._table,
            **{route: (each.dialect, each.methods("{id}")) for route, each in self._named.items()},
        }

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        if scope["type"] == "http":
            dialect, serve = self._route(scope["method"], scope["path"], scope.get("raw_path"))
            if self.shedder.is_shedding and scope["path"] not in OF_OPERATORS:
                serve = partial(_refuse, self.shedder.refusal())
            await self._respond(scope, receive, send, dialect, serve)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})

    async def drain(self, timeout_s: float) -> None:
        """Wait for requests in progress, at most that long; then cancel them."""
        self._is_draining = True
        await self._gateway.drift.aclose()
        cut = await self._gateway.pipeline.running.drain(timeout_s)
        if cut:
            events.REQUESTS_CUT.emit(requests=cut)

    def close(self) -> None:
        """End the threads of administration and of large bodies. Call after draining."""
        self._bodies.worker.shutdown(wait=False)
        self._queue.close()
        self._admin.close()

    def _routes(self) -> dict[str, tuple[AnyDialect, dict[str, Serve]]]:
        operations, description = Operations(self._gateway, self.readiness), Description(self._gateway)
        generations = Generations(self._gateway, self._queue)
        table: dict[str, tuple[AnyDialect, dict[str, Serve]]] = {
            "/": (openai, {"GET": description.page}),
            "/docs": (openai, {"GET": description.page}),
            "/openapi.json": (openai, {"GET": description.openapi}),
            "/metrics": (openai, {"GET": operations.metrics}),
            **{path: (openai, {"GET": operations.health}) for path in HEALTH},
            "/readyz": (openai, {"GET": operations.readiness}),
            "/api/embeddings": (ziri, {"POST": partial(self._embed, ziri)}),
            "/api/chat/completions": (ziri, {"POST": partial(self._chat, ziri)}),
        }
        for prefix in ("/v1", "/api/v1"):
            table[f"{prefix}/embeddings"] = (openai, {"POST": partial(self._embed, openai)})
            table[f"{prefix}/chat/completions"] = (openai, {"POST": partial(self._chat, openai)})
            table[f"{prefix}/rerank"] = (openai, {"POST": partial(self._rerank, openai)})
            table[f"{prefix}/models"] = (openai, {"GET": self._models.list})
            table[f"{prefix}/generation"] = (openai, {"GET": generations.show})
        table["/v2/rerank"] = (cohere.Rerank(), {"POST": partial(self._rerank, cohere.Rerank())})
        for name in ("embeddings", "chat/completions", "models"):
            table[f"/openai/v1/{name}"] = table[f"/v1/{name}"]  # where Azure has the OpenAI API
        embeds: dict[str, Dialect] = {
            "/v1/embed": cohere.Embed(1),
            "/v2/embed": cohere.Embed(2),
            "/api/embed": ollama,
            "/embed": tei.Server(),
        }
        table |= {path: (dialect, {"POST": partial(self._embed, dialect)}) for path, dialect in embeds.items()}
        table["/api/tags"] = (ollama, {"GET": self._models.tags})
        return table

    def _named_routes(self) -> dict[str, "_NamedRoute"]:
        """The routes with a model in the path, whose id has slashes of its own."""

        def embeds(make: Callable[[str], Dialect]) -> Callable[[str], dict[str, Serve]]:
            return lambda name: {"POST": partial(self._embed, make(name), action=f"embeddings {name}")}

        def chats(name: str) -> dict[str, Serve]:
            return {"POST": partial(self._chat, openai.Deployment(name), action=f"chat {name}")}

        def shows(name: str) -> dict[str, Serve]:
            return {"GET": partial(self._models.show, name)}

        def ranks(name: str) -> dict[str, Serve]:
            return {"POST": partial(self._rerank, tei.Server(name), action=f"rerank {name}")}

        def tells(name: str) -> dict[str, Serve]:
            return {"GET": partial(self._models.info, name)}

        deployment = openai.Deployment("")
        return {
            **{f"{prefix}/models/{{id}}": _NamedRoute(openai, shows) for prefix in ("/v1", "/api/v1")},
            "/v1/engines/{id}/embeddings": _NamedRoute(openai, embeds(openai.Engine)),
            "/openai/deployments/{id}/embeddings": _NamedRoute(deployment, embeds(openai.Deployment)),
            "/openai/deployments/{id}/chat/completions": _NamedRoute(deployment, chats),
            "/tei/{id}/embed": _NamedRoute(tei.Server(), embeds(tei.Server)),
            "/tei/{id}/rerank": _NamedRoute(tei.Server(), ranks),
            "/tei/{id}/info": _NamedRoute(tei.Server(), tells),
        }

    def _route(self, method: str, path: str, raw_path: bytes | None) -> tuple[AnyDialect, Serve]:
        """The dialect and the handler of a path; for a wrong path or method, a handler that refuses.

        raw_path: the same, not decoded, if the server gives it.
        """
        if method == "OPTIONS" and self._cors is not None:
            return openai, partial(_preflight, self._cors)
        found = self._table.get(path) or self._named_route(path)
        if found is None:
            dialect: AnyDialect = ziri if path.startswith("/api/") and not path.startswith("/api/v1/") else openai
            undecoded = quote(path) if raw_path is None else raw_path.decode("latin-1")
            return dialect, self._admin.find(method, undecoded) or partial(_refuse, self._not_found(path))
        dialect, methods = found
        serve = methods.get("GET" if method == "HEAD" else method)
        if serve is None:
            refusal = MethodNotAllowed(f"{path} takes {', '.join(methods)}, not {method}.", allowed=tuple(methods))
            return dialect, partial(_refuse, refusal)
        return dialect, serve

    def _not_found(self, path: str) -> NotFound:
        tidied = "/" + "/".join(part for part in path[:200].split("/") if part)
        near = tidied if self._named_route(tidied) else near_route(path, self.routes)
        advice = f"Did you mean {near}?" if near else "/docs lists those there are."
        return NotFound(f"There is no route {path[:200]}. {advice}")

    def _named_route(self, path: str) -> tuple[AnyDialect, dict[str, Serve]] | None:
        """The dialect and the handlers of a path with a model in it, by method."""
        for route, each in self._named.items():
            before, _, after = route.partition("{id}")
            name = path.removeprefix(before).removesuffix(after)
            if path == f"{before}{name}{after}" and (name or not after):
                return each.dialect, each.methods(name)
        return None

    async def _embed(self, dialect: Dialect, request: Request, action: str = "embeddings") -> Answer:
        if HEADER in request.headers:
            return await self._idempotency.serve(
                request, dialect, f"{dialect.NAME} {action}", partial(self._embed, dialect)
            )
        exchange = _Exchange(dialect, request.body, self._gateway.catalog.parse_model_name)
        result = await self._gateway.pipeline.embed(self._origin(dialect, request), exchange.read, exchange.entrance)
        if result.vectors.nbytes > SMALL_BYTES:
            request.body.hold_answer(result.vectors.nbytes + PIECE_BYTES)
        return dialect.write(result, exchange.encoding_format, request.id)

    async def _chat(self, dialect: ChatDialect, request: Request, action: str = "chat") -> Answer:
        if HEADER in request.headers:
            return await self._idempotency.serve(
                request, dialect, f"{dialect.NAME} {action}", partial(self._chat, dialect)
            )
        settings = self._gateway.settings.server
        out = StreamBuffer(settings.max_unsent_bytes, settings.stream_heartbeat_s)
        entrance = Entrance()

        async def read() -> ChatRequest:
            body = await request.body.read(enter=entrance.enter, owner=entrance.user_id)
            asked = await request.body.parsed(dialect.read_chat, body, self._gateway.catalog.parse_model_name)
            if asked.is_stream:  # else the answer is complete almost at once, and the true cost is worth waiting for
                request.body.watch(out.leave)
            return asked

        completion = await self._gateway.pipeline.chat(self._origin(dialect, request), read, out, entrance)
        if isinstance(completion, ChatResult) and len(completion.body) > SMALL_BYTES:
            request.body.hold_answer(len(completion.body))
        return dialect.write_chat(completion, request.id)

    async def _rerank(self, dialect: RerankDialect, request: Request, action: str = "rerank") -> Answer:
        if HEADER in request.headers:
            return await self._idempotency.serve(
                request, dialect, f"{dialect.NAME} {action}", partial(self._rerank, dialect)
            )
        entrance = Entrance()

        async def read() -> RerankRequest:
            body = await request.body.read(enter=entrance.enter, owner=entrance.user_id)
            return await request.body.parsed(dialect.read_rerank, body, self._gateway.catalog.parse_model_name)

        result = await self._gateway.pipeline.rerank(self._origin(dialect, request), read, entrance)
        return dialect.write_rerank(result, request.id)

    def _origin(self, dialect: AnyDialect, request: Request) -> Origin:
        return Origin(
            request.id,
            dialect.NAME,
            dialect.secret(request.headers),
            self._address.of(request),
            request.demand,
            request.outlives_caller,
        )


def near_route(path: str, routes: Iterable[str]) -> str | None:
    """The route that a path is likely meant for: the same with fewer or doubled parts, or of a similar spelling."""
    known = set(routes)
    parts = [part for part in path[:200].lower().split("/") if part][-6:]
    for start in range(len(parts)):
        end = "/".join(parts[start:])
        for candidate in (f"/{end}", f"/v1/{end}", f"/api/{end}"):
            if candidate in known:
                return candidate
    return next(iter(difflib.get_close_matches(path[:200], known, n=1, cutoff=0.8)), None)


async def _preflight(cors: Cors, request: Request) -> Answer:
    if (answer := cors.preflight(request.headers)) is None:
        raise MethodNotAllowed(f"{request.path} is not asked by OPTIONS.", allowed=("GET", "POST"))
    return answer


async def _refuse(error: GatewayError, _request: Request) -> Answer:
    raise error
