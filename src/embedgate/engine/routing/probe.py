"""Health probe of a route whose circuit is half-open: a real embedding beside the requests, billed to the operator.

A probe goes the whole way of a request that names its provider, so its answer is checked and its cost is in the ledger.
The call itself tells the route's health how it ended.
"""

import asyncio
from collections.abc import Awaitable, Callable

from embedgate.core.errors import GatewayError, NotPermitted
from embedgate.core.types import Candidate, EmbedRequest, EmbedResult

_TEXT = "embedgate asks whether this works again"


class Prober:
    """At most one probe of a route at a time, and only when a request would have gone there."""

    def __init__(self, embed: Callable[[EmbedRequest], Awaitable[EmbedResult]]) -> None:
        """embed: serves a request of the operator."""
        self._embed = embed
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._barred: set[tuple[str, str]] = set()

    def probe(self, candidate: Candidate) -> bool:
        """Begin a probe, unless one is under way. False: the policies forbid it, so a request has to find out."""
        place = (candidate.model.id, candidate.route.provider)
        if place in self._barred:
            return False
        if place not in self._tasks:
            self._tasks[place] = asyncio.get_running_loop().create_task(self._probe(place))
        return True

    async def aclose(self) -> None:
        """End what is under way."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _probe(self, place: tuple[str, str]) -> None:
        model, provider = place
        try:
            await self._embed(EmbedRequest(model, (_TEXT,), provider=provider, cache="no-store"))
        except NotPermitted:
            self._barred.add(place)
        except GatewayError:
            pass  # the route's health knows, and if it was something else, the next probe will tell
        finally:
            del self._tasks[place]
