"""Drift watch: compares the vectors of every route at intervals, and raises an alarm where one has changed.

Owns when the routes are asked, what each of them gave at first, and which have drifted. How vectors are compared is in
`compare`; whether requests go to a route that has drifted is for a person to decide.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from embedgate.core.models import LOCAL, Model
from embedgate.core.types import Candidate
from embedgate.engine.routing.compare import Probe, Sample, Verdict, changed, judge
from embedgate.engine.routing.verify import Embed, ask_routes, route_sets
from embedgate.observe import events, metrics

_Place = tuple[str, str]
"""A route of a model: the model's id and the provider's name."""


class DriftWatch:
    """What is known of the vectors of routes, and the task that finds it out."""

    def __init__(self, usable: Callable[[], Sequence[Model]], embed: Embed, every_s: float) -> None:
        """usable: the embedding models of now, with the routes that are on. every_s: between checks; 0 for none."""
        self._usable = usable
        self._embed = embed
        self._every_s = every_s
        self._first: dict[tuple[_Place, int], Sample] = {}
        """What a route gave when it was first found right, by the number of texts that it was asked for."""
        self._faults: dict[_Place, str] = {}
        """What is wrong with each route that was checked; empty if nothing is."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Check at once, in the background, and then every so often; nothing if that is turned off."""
        if self._every_s:
            self._task = asyncio.get_running_loop().create_task(self._watch())

    async def aclose(self) -> None:
        """End the checks. A question that is on its way is left to its owner, the pipeline."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def is_drifted(self, model_id: str, provider: str) -> bool:
        """Whether the route was found to give other vectors than it should."""
        return bool(self._faults.get((model_id, provider)))

    async def check(self) -> None:
        """Ask every route once, and raise an alarm for those that have drifted since the last check."""
        found: dict[_Place, str] = {}
        for _, candidates in route_sets(self._usable()):
            # The weights of a model of this machine are verified when it is loaded.
            if len(candidates) > 1 or candidates[0].route.provider != LOCAL:
                found |= await self._check_set(candidates)
        for place, fault in found.items():
            _tell(place, fault, self._faults.get(place, ""))
        self._faults = found
        metrics.routes_checked({place: bool(fault) for place, fault in found.items()})

    async def _check_set(self, candidates: Sequence[Candidate]) -> dict[_Place, str]:
        """What is wrong with each of some routes that must give the same vectors; empty for those that are right.

        A route that has changed is blamed alone, so that the others are not measured by it. One that does not answer
        is taken to be as it was; it is left out if nothing is known of it.
        """
        asked, answers = await ask_routes(candidates, self._embed)
        found: dict[_Place, str] = {}
        steady = []
        for answer in answers:
            place = (answer.model, answer.provider)
            if isinstance(answer, Verdict):
                events.ROUTE_NOT_CHECKED.emit(model=place[0], provider=place[1], reason=answer.explanation)
                if place in self._faults:
                    found[place] = self._faults[place]
            elif change := self._change(answer, asked):
                found[place] = f"not what it gave at first: {change}"
            else:
                steady.append(answer)
        for sample, verdict in zip(steady, judge(steady, asked), strict=True):
            place = (sample.model, sample.provider)
            found[place] = verdict.explanation if verdict.state == "wrong" else ""
            if not found[place]:
                self._first.setdefault((place, len(asked)), sample)
        return found

    def _change(self, sample: Sample, asked: Sequence[Probe]) -> str:
        first = self._first.get(((sample.model, sample.provider), len(asked)))
        return changed(first, sample, asked) if first is not None else ""

    async def _watch(self) -> None:
        while True:
            await self.check()
            await asyncio.sleep(self._every_s)


def _tell(place: _Place, fault: str, before: str) -> None:
    model, provider = place
    if fault and not before:
        events.ROUTE_DRIFTED.emit(model=model, provider=provider, reason=fault)
    elif before and not fault:
        events.ROUTE_STEADY.emit(model=model, provider=provider)
