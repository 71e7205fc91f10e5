"""One embeddings request, top to bottom. The order of the stages is here and nowhere else.

Work that has begun runs to its end as an owned task, even when the caller leaves, and is accounted for.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from embedgate import metrics
from embedgate.core.access import Caller, Rate
from embedgate.core.errors import GatewayError, InternalError, Overloaded
from embedgate.core.types import Call, EmbedRequest, EmbedResult, LedgerEntry, Origin, Served, Timing
from embedgate.engine.account import Accountant
from embedgate.engine.admit import Admission
from embedgate.engine.authenticate import Authenticator
from embedgate.engine.execute import Executor
from embedgate.engine.grant import Grant
from embedgate.engine.plan import Planner
from embedgate.engine.resolve import Resolver
from embedgate.engine.validate import Validator

ReadRequest = Callable[[], Awaitable[EmbedRequest]]
"""Reads the body and translates it: called once the caller is known, so that strangers send no megabytes."""

T = TypeVar("T")


class Pipeline:
    """authenticate, read, validate, resolve, admit, plan, execute, account."""

    def __init__(
        self,
        authenticate: Authenticator,
        validate: Validator,
        resolve: Resolver,
        execute: Executor,
        admit: Admission,
        planner: Planner,
        account: Accountant,
        request_timeout_s: float,
    ) -> None:
        """request_timeout_s: from the first byte of a request to its answer."""
        self._authenticate = authenticate
        self._validate = validate
        self._resolve = resolve
        self._admit = admit
        self._planner = planner
        self._execute = execute
        self._account = account
        self._request_timeout_s = request_timeout_s
        self.running = Running()

    def reroute(self, validate: Validator, resolve: Resolver, execute: Executor) -> None:
        """Serve what comes from now on with other models and providers; what is in progress keeps what it has."""
        self._validate, self._resolve, self._execute = validate, resolve, execute

    async def embed(self, origin: Origin, read: ReadRequest) -> EmbedResult:
        """Serve one request. Raises a GatewayError."""
        started_s = time.monotonic()
        caller = await self._authenticate(origin.secret)
        authenticate_s = time.monotonic() - started_s
        try:
            request = await read()
        except GatewayError as error:
            error.rate = self._admit.rate(caller)
            raise
        return await self._begin(origin, caller, request, started_s, authenticate_s)

    async def embed_as(self, request_id: str, caller: Caller, request: EmbedRequest) -> EmbedResult:
        """Serve a request of this process's own operator, who needs no key. Raises a GatewayError."""
        return await self._begin(Origin(request_id, "openai", None), caller, request, time.monotonic(), 0.0)

    async def _begin(
        self,
        origin: Origin,
        caller: Caller,
        request: EmbedRequest,
        started_s: float,
        authenticate_s: float,
    ) -> EmbedResult:
        call = Call(
            request_id=origin.request_id,
            dialect=origin.dialect,
            ip_address=origin.ip_address,
            caller=caller,
            request=request,
            started_s=started_s,
            authenticate_s=authenticate_s,
            deadline_s=started_s + self._request_timeout_s,
        )
        return await self.running.to_the_end(self._serve(call))

    async def identify(self, secret: str | None) -> Caller:
        """Who asks, for routes that serve no vectors. Raises an AccessError."""
        return await self._authenticate(secret)

    async def _serve(self, call: Call) -> EmbedResult:
        grant: Grant | None = None
        served: Served | None = None
        entry: LedgerEntry | None = None
        metrics.request_began()
        validate, resolve, execute = self._validate, self._resolve, self._execute  # of one and the same catalogue
        try:
            begun_s = time.monotonic()
            model = await validate(call.request)
            candidates = resolve(call.request, model)
            grant = await self._admit(call, candidates)
            call.admit_s = time.monotonic() - begun_s
            served = await execute(call, grant.candidates, self._planner)
        except GatewayError as error:
            call.error = error
            error.rate = self._admit.rate(call.caller)
            raise
        except Exception as error:
            call.error = InternalError("The gateway failed; its log has the details.")
            raise call.error from error
        finally:
            entry = await self._account(call, grant, served)
        if entry is None or served is None:
            raise InternalError("An answered request left no entry.")
        return _result(call, served, entry, self._admit.rate(call.caller))


def _result(call: Call, served: Served, entry: LedgerEntry, rate: Rate | None) -> EmbedResult:
    timing = Timing(
        total_ms=(time.monotonic() - call.started_s) * 1000,
        authenticate_ms=call.authenticate_s * 1000,
        upstream_ms=call.upstream_s * 1000,
    )
    return EmbedResult(
        model=entry.model,
        provider=entry.provider,
        vectors=served.vectors,
        usage=served.usage,
        cost_picodollars=entry.cost_picodollars,
        truncated=served.truncated,
        timing=timing,
        rate=rate,
    )


class Running:
    """Owns the tasks of requests in progress."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        """Requests in progress."""
        return len(self._tasks)

    async def to_the_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` in a task that outlives a caller who leaves. Returns or raises what it does."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():  # by `drain`: it was not the caller who left
                raise Overloaded("The gateway is shutting down. Try again in a moment.", retry_after_s=1) from None
            raise

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen here, so that a failure nobody waits for any more is not reported as lost

    async def outlast(self) -> None:
        """Return once all work that is in progress now has ended."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def drain(self, timeout_s: float) -> int:
        """Wait for all work in progress, at most that long; then cancel what is left. Returns how many were cut."""
        if not self._tasks:
            return 0
        _, late = await asyncio.wait(self._tasks, timeout=timeout_s)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=5)
        return len(late)
