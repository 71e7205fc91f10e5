"""Plan of an embeddings request on one route: what the cache knows already, and the rest cut into batches.

Cutting is done per route, because the next route may take other sizes. Nothing is cut more than needed.
"""

import asyncio
from collections.abc import Collection, Hashable, Sequence
from typing import Literal

from msgspec import Struct

from embedgate.core.errors import InvalidInput
from embedgate.core.fingerprint import fingerprint
from embedgate.core.models import Route
from embedgate.core.ports import Tokenizers, VectorCache
from embedgate.core.types import Batch, CachedVector, Call, Candidate, EmbedRequest, Input, InputType, Part
from embedgate.engine.embedding.outcome import Outcome
from embedgate.engine.embedding.prepare import prepared
from embedgate.engine.embedding.progress import Progress
from embedgate.engine.embedding.truncate import Truncated, needs_truncation, truncated
from embedgate.engine.ledger.charge import write_off
from embedgate.engine.ledger.tokens import LARGE_CHARACTERS, bounds, count, is_large, total_bound
from embedgate.observe import metrics

CONTEXTUAL_OPTIONS = frozenset({"late_chunking"})
"""Options that make a vector depend on its neighbours: such requests are never split, joined or cached."""
Scope = Literal["project", "user", "shared"]
INPUTS_PER_TURN = 128
"""About 2 ms of looking up, or of copying vectors of 1,536 numbers; then the event loop has its turn."""
_MAX_KEPT = 4_096


class RoutePlan(Struct, frozen=True):
    """How requests of one kind are served on one route: all that does not depend on their inputs.

    Where `identity` is equal, vectors are interchangeable: kept under the same keys, and asked for in each other's
    place. `owner` is whose texts they are, `candidate` the model and the route. `upstream_dim` is the size to ask the
    route for, None for its native one, which is shortened afterwards if need be; `width` is the size that it answers
    with. `cuts_here`: over-long inputs are cut before the host is asked.
    """

    candidate: Candidate
    identity: tuple[str, ...]
    owner: str
    width: int
    upstream_dim: int | None
    input_type: InputType | None
    prefix: str
    is_cached: bool
    cuts_here: bool = False


class Sizes(Struct, frozen=True, gc=False):
    """What the inputs of a large request measure, as they are sent on one route: bytes, and tokens or a bound of them.

    Worked out before the request is cut: counting the tokens of 36 MB takes a second.
    """

    n_bytes: Sequence[int]
    tokens: Sequence[int]

    def of(self, rows: Sequence[int]) -> "Sizes":
        """Those of some inputs only."""
        if len(rows) == len(self.n_bytes):
            return self
        return Sizes([self.n_bytes[row] for row in rows], [self.tokens[row] for row in rows])


class Planner:
    """Plans requests by the cache and by the limits of routes. Owns the plans that were worked out before."""

    def __init__(self, tokenizers: Tokenizers, cache: VectorCache | None, scope: Scope) -> None:
        """tokenizers: to decode token ids for hosts that take text only, and to weigh large requests.

        cache: None for no cache. scope: who profits from (and can time) whose texts.
        """
        self._tokenizers = tokenizers
        self._cache = cache
        self._scope = scope
        self._plans: dict[tuple[object, ...], RoutePlan] = {}

    def of_route(self, call: Call[EmbedRequest], candidate: Candidate) -> RoutePlan:
        """The plan of a request on a candidate's route: worked out once for all requests that differ in inputs only."""
        request, caller = call.request, call.caller
        # Whose texts the caller's are: those of equal owners may be joined and found by each other.
        scope = self._scope
        owner = "" if scope == "shared" else caller.billed_to if scope == "project" else caller.user_id
        key = (
            id(candidate),
            owner,
            request.dim,
            request.input_type,
            request.truncate,
            request.cache,
            not request.options,
        )
        known = self._plans.get(key)
        if known is not None and known.candidate is candidate:
            return known
        if len(self._plans) >= _MAX_KEPT:
            self._plans.clear()
        plan = self._work_out(request, candidate, owner)
        self._plans[key] = plan
        return plan

    def _work_out(self, request: EmbedRequest, candidate: Candidate, owner: str) -> RoutePlan:
        model, route = candidate.model, candidate.route
        upstream_dim = self._upstream_dim(request, candidate)
        width = upstream_dim or route.dims.default
        prefix = route.prefix_of(request.input_type)
        is_typed = bool(route.input_types or route.query_prefix or route.document_prefix)
        return RoutePlan(
            candidate=candidate,
            identity=(
                owner,
                model.id,
                model.space or "",
                model.revision,
                route.precision,
                str(width),
                (request.input_type or "") if is_typed else "",
                # Vectors of texts that were cut together with their prefix have another identity.
                "start of the text" if prefix and request.truncate == "start" else request.truncate,
            ),
            owner=owner,
            width=width,
            upstream_dim=upstream_dim,
            input_type=request.input_type if route.input_types else None,
            prefix=prefix,
            is_cached=self._cache is not None and upstream_dim is None and request.cache == "store",
            cuts_here=needs_truncation(request, route),
        )

    async def look_up(self, call: Call[EmbedRequest], plan: RoutePlan, progress: Progress) -> None:
        """Go on with a candidate's plan: look up what the cache knows of its vectors, unless that has been done.

        A large request leaves the event loop to others in between.
        """
        if progress.move(plan.candidate, plan.width) and call.spends:
            write_off(call)  # those are vectors of another space
        inputs, identity = call.request.inputs, plan.identity
        if call.request.options or identity == progress.identity:
            return
        cache = self._cache if plan.is_cached else None
        if len(inputs) == 1:
            text = inputs[0]
            is_small = len(text) <= LARGE_CHARACTERS
            key = fingerprint(identity, text) if is_small else await asyncio.to_thread(fingerprint, identity, text)
            progress.keys, progress.identity = (key,), identity
            if cache is not None and progress.n_missing:
                (kept,) = cache.get_many(progress.keys)
                if kept is not None:
                    progress.reuse(0, kept.vector, kept.tokens, kept.is_truncated)
                metrics.looked_up(kept is not None, kept is None)
            return
        keys: list[bytes] = []
        hits = misses = 0
        missing = None if progress.n_missing == len(inputs) else set(progress.missing())
        made = await asyncio.to_thread(_keys, identity, inputs) if is_large(inputs) else None
        for start in range(0, len(inputs), INPUTS_PER_TURN):
            if start:
                await asyncio.sleep(0)
            turn = slice(start, start + INPUTS_PER_TURN)
            keys += _keys(identity, inputs[turn]) if made is None else made[turn]
            if cache is None:
                continue
            rows: Sequence[int] = range(start, len(keys))
            wanted = keys[start:]
            if missing is not None:
                rows = [row for row in rows if row in missing]
                wanted = [keys[row] for row in rows]
            found = _reuse(rows, cache.get_many(wanted), progress)
            hits += found
            misses += len(wanted) - found
        progress.keys, progress.identity = tuple(keys), identity
        if cache is not None:
            metrics.looked_up(hits, misses)

    async def look_again(self, plan: RoutePlan, progress: Progress) -> None:
        """Look up what is still missing: other requests may have got it since, where a worker took its time."""
        keys = progress.keys
        if self._cache is None or not plan.is_cached or keys is None:
            return
        missing = progress.missing()
        for start in range(0, len(missing), INPUTS_PER_TURN):
            if start:
                await asyncio.sleep(0)
            rows = missing[start : start + INPUTS_PER_TURN]
            _reuse(rows, self._cache.get_many([keys[row] for row in rows]), progress)

    async def remember(
        self, call: Call[EmbedRequest], candidate: Candidate, keys: Sequence[bytes], outcome: Outcome
    ) -> None:
        """Put a checked answer into the cache, if the request allows it and the vectors are whole.

        A large answer leaves the event loop to others in between.
        """
        vectors, tokens = outcome.vectors, outcome.tokens
        if self._cache is None or vectors is None or call.request.cache == "no-store":
            return
        if vectors.shape[1] != candidate.route.dims.default or outcome.is_estimated:
            return
        if len(keys) == 1:
            self._cache.put_many([(keys[0], CachedVector(vectors[0], tokens[0], bool(outcome.truncated)))])
            return
        cut = frozenset(outcome.truncated)
        for start in range(0, len(keys), INPUTS_PER_TURN):
            if start:
                await asyncio.sleep(0)
            rows = range(start, min(start + INPUTS_PER_TURN, len(keys)))
            self._cache.put_many([(keys[row], CachedVector(vectors[row], tokens[row], row in cut)) for row in rows])

    def signature(self, call: Call[EmbedRequest], candidate: Candidate, batch: Batch) -> Hashable:
        """What must be equal for the inputs of different callers to share one provider call."""
        owner = self.of_route(call, candidate).owner
        return (owner, batch.dim, batch.input_type, batch.truncate, batch.user, tuple(sorted(batch.options.items())))

    async def truncated(self, request: EmbedRequest, rows: Sequence[int], plan: RoutePlan) -> Truncated:
        """A request as the plan's route takes it: inputs of `rows` that are too long are cut, if the plan says so.

        Raises InvalidInput if token ids have to be decoded for this route and cannot be.
        """
        if not plan.cuts_here:
            return Truncated(request)
        return await truncated(request, rows, plan.candidate.route, plan.prefix, self._tokenizers)

    async def sizes(self, request: EmbedRequest, rows: Sequence[int], plan: RoutePlan) -> Sizes | None:
        """What all inputs measure on the plan's route, for `cut`; those that are not in `rows` as nothing.

        None where `cut` finds that out at once. Raises InvalidInput as `cut` does.
        """
        if CONTEXTUAL_OPTIONS & request.options.keys() or not is_large(request.inputs):
            return None
        return await asyncio.to_thread(self._measured, request, rows, plan)

    def _measured(self, request: EmbedRequest, rows: Sequence[int], plan: RoutePlan) -> Sizes:
        route = plan.candidate.route
        inputs = self._prepared(request, rows, plan.prefix, route)
        sizes = _sizes(inputs, route, self._tokenizers)
        n_bytes, tokens = [0] * len(request.inputs), [0] * len(request.inputs)
        for row, size, n_tokens in zip(rows, sizes.n_bytes, sizes.tokens, strict=True):
            n_bytes[row], tokens[row] = size, n_tokens
        return Sizes(n_bytes, tokens)

    def cut(
        self,
        request: EmbedRequest,
        rows: Sequence[int],
        plan: RoutePlan,
        keys: tuple[bytes, ...] | None = None,
        shortened: Collection[int] = (),
        sizes: Sizes | None = None,
    ) -> list[Part]:
        """Parts that cover `rows`, in order, each within the limits of the plan's route. keys: of all inputs, if any.

        shortened: the rows of inputs that `truncated` has cut. sizes: of all inputs, if they are known. Raises
        InvalidInput if token ids have to be decoded for this route and cannot be.
        """
        route = plan.candidate.route
        inputs = self._prepared(request, rows, plan.prefix, route)
        is_whole = len(inputs) == 1 or CONTEXTUAL_OPTIONS & request.options.keys()
        ends = (len(inputs),) if is_whole else self._ends(inputs, route, sizes and sizes.of(rows))
        parts = []
        start = 0
        for end in ends:
            batch = Batch(
                inputs=tuple(inputs[start:end]),
                expected_dim=plan.width,
                dim=plan.upstream_dim,
                input_type=plan.input_type,
                truncate="none" if plan.cuts_here else request.truncate,
                user=request.user if route.accepts_user else None,
                options=request.options,
            )
            filled = tuple(rows[start:end])
            own = keys if keys is None or len(filled) == len(keys) else tuple([keys[row] for row in filled])
            cut = tuple([n for n, row in enumerate(filled) if row in shortened]) if shortened else ()
            parts.append(Part(filled, batch, own, cut))
            start = end
        return parts

    def _upstream_dim(self, request: EmbedRequest, candidate: Candidate) -> int | None:
        """The size to ask a route for; None means its native one. Resolve has left out the routes of neither."""
        dim, model, route = request.dim, candidate.model, candidate.route
        if dim is None or dim == route.dims.default:
            return None
        # From a full-size vector in the cache every smaller one can be cut.
        is_kept = self._cache is not None and request.cache != "no-store" and not request.options
        if is_kept and model.is_matryoshka and model.cuts_exactly:
            return None
        return dim if route.accepts_dim and dim in route.dims else None

    def _prepared(self, request: EmbedRequest, rows: Sequence[int], prefix: str, route: Route) -> list[Input]:
        inputs: list[Input] = []
        for row in rows:
            item = request.inputs[row]
            if not prefix and isinstance(item, str):
                inputs.append(item)
                continue
            try:
                inputs.append(prepared(item, prefix, route, self._tokenizers))
            except InvalidInput as error:
                raise error.at(row) from error
        return inputs

    def _ends(self, inputs: list[Input], route: Route, sizes: Sizes | None) -> Sequence[int]:
        """Where each batch ends: as few batches as the limits allow when inputs stay in order. sizes: if known."""
        limits = route.limits
        max_inputs = limits.max_inputs or len(inputs)
        total = total_bound(inputs) if sizes is None else sum(sizes.n_bytes)
        max_bytes, max_tokens = limits.max_bytes or total, limits.max_tokens or total
        if len(inputs) <= max_inputs and total <= min(max_bytes, max_tokens):
            return (len(inputs),)
        if sizes is None:
            sizes = _sizes(inputs, route, self._tokenizers)
        ends = []
        n = batch_tokens = batch_bytes = 0
        for position, (size, weight) in enumerate(zip(sizes.n_bytes, sizes.tokens, strict=True)):
            if n and (n == max_inputs or batch_tokens + weight > max_tokens or batch_bytes + size > max_bytes):
                ends.append(position)
                n = batch_tokens = batch_bytes = 0
            n += 1
            batch_tokens += weight
            batch_bytes += size
        ends.append(len(inputs))
        return ends


def _keys(identity: tuple[str, ...], inputs: Sequence[Input]) -> list[bytes]:
    return [fingerprint(identity, item) for item in inputs]


def _sizes(inputs: Sequence[Input], route: Route, tokenizers: Tokenizers) -> Sizes:
    """What inputs measure; their tokens are counted only where the bound of them is over the limit of a call."""
    n_bytes = bounds(inputs)
    is_counted = route.limits.max_tokens is not None and sum(n_bytes) > route.limits.max_tokens
    return Sizes(n_bytes, count(inputs, route, tokenizers).each if is_counted else n_bytes)


def _reuse(rows: Sequence[int], found: Sequence[CachedVector | None], progress: Progress) -> int:
    """Put in place what was found of rows; how many that were."""
    n_found = 0
    for row, kept in zip(rows, found, strict=True):
        if kept is not None:
            progress.reuse(row, kept.vector, kept.tokens, kept.is_truncated)
            n_found += 1
    return n_found
