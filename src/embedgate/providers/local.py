"""Local provider: tokenizes on one worker thread and infers on another, never on the event loop.

Requests take turns. Each queues at most two runs of the engine, so that a short text never waits for the
whole of a 2,048-input request, and the engine still never waits for the event loop.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from embedgate.core.demand import check_wanted
from embedgate.core.errors import (
    ConfigError,
    InternalError,
    InvalidInput,
    UpstreamFailed,
    UpstreamTimeout,
)
from embedgate.core.models import Route
from embedgate.core.types import Batch, InputType, ProviderReply
from embedgate.core.vectors import Vectors
from embedgate.inference.batching import Rows, cut_in_order
from embedgate.inference.runtime import LoadedModel, LocalModels
from embedgate.inference.tokenizer import TokenRow

_RUNS_IN_FLIGHT = 2
_TOKENIZE_CHARACTERS = 65_536  # some ten milliseconds of tokenizing, so that requests take turns there too
_Done = TypeVar("_Done")


class LocalProvider:
    """Implements the `Provider` port over the models in the process."""

    def __init__(self, models: LocalModels) -> None:
        """models: owned by the caller until `aclose`, which unloads them. Threads start with the first call."""
        self._models = models
        self._loading = ThreadPoolExecutor(1, thread_name_prefix="embedgate-load")
        self._tokenizing = ThreadPoolExecutor(1, thread_name_prefix="embedgate-tokenize")
        self._inference = ThreadPoolExecutor(1, thread_name_prefix="embedgate-infer")
        self._n_active = 0
        self._is_closed = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def embed(self, batch: Batch, route: Route, deadline_s: float) -> ProviderReply:
        """Embed texts with the local model that `route.upstream_model` names, loading it if needed.

        `tokens` of the reply is exact, special tokens included. `truncated` holds the positions
        of texts that were cut, at the side that `batch.truncate` names.
        Raises InputTooLong for the first over-long text if truncation is `none`, InvalidInput for a text without any
        token, UpstreamTimeout at the deadline, CallerLeft when nobody waits any more, InternalError if the model cannot
        be loaded.
        """
        if self._is_closed:
            raise UpstreamFailed("the local models are shut down")
        self._n_active += 1
        self._idle.clear()
        try:
            async with asyncio.timeout(max(0.0, deadline_s - time.monotonic())):
                model = await self._loaded(route.upstream_model)
                rows, truncated = await self._tokenize(model, batch)
                vectors = await self._run(model, rows, batch.input_type)
        except TimeoutError as error:
            raise UpstreamTimeout(
                f"local/{route.upstream_model} did not finish within the call's time; send fewer inputs"
            ) from error
        finally:
            self._n_active -= 1
            if not self._n_active:
                self._idle.set()
        tokens = tuple(map(len, rows))
        return ProviderReply(vectors, sum(tokens), route.upstream_model, truncated, tokens)

    async def aclose(self) -> None:
        """Refuse new calls, wait for those in flight, then stop the threads and unload the models."""
        self._is_closed = True
        await self._idle.wait()
        for worker in (self._loading, self._tokenizing, self._inference):
            await asyncio.to_thread(worker.shutdown)
        self._models.unload()

    async def _loaded(self, name: str) -> LoadedModel:
        model = self._models.loaded(name)
        if model is not None:
            return model
        try:
            return await _on(self._loading, self._models.load, name)
        except ConfigError as error:
            raise InternalError(f"local/{name} cannot be loaded: {error}") from error

    async def _tokenize(self, model: LoadedModel, batch: Batch) -> tuple[list[TokenRow], tuple[int, ...]]:
        """The ids of every text, within the model's limit, and the positions of truncated texts."""
        texts = [text for text in batch.inputs if isinstance(text, str)]
        if len(texts) != len(batch.inputs):
            raise InternalError("token ids reached a local model, whose route takes text only")
        rows: list[TokenRow] = []
        truncated: list[int] = []
        for span in cut_in_order([len(text) for text in texts], _TOKENIZE_CHARACTERS):
            check_wanted()
            first = span[0]
            chunk = texts[first : first + len(span)]
            try:
                fitted, cut = await _on(self._tokenizing, model.fit, chunk, batch.truncate)
            except InvalidInput as error:
                raise _at_batch_position(error, span) from error
            rows += fitted
            truncated += [span[position] for position in cut]
        return rows, tuple(truncated)

    async def _run(self, model: LoadedModel, rows: Sequence[TokenRow], input_type: InputType | None) -> Vectors:
        """Vectors of all rows, (n, dim), computed run by run."""
        vectors: Vectors = np.empty((len(rows), model.engine.dim), dtype=np.float32)
        n_prompt_tokens = model.n_prompt_tokens.get(input_type, 0) if input_type else 0
        waiting: deque[tuple[Rows, asyncio.Future[Vectors]]] = deque()

        async def finish_first() -> None:
            run, answer = waiting[0]
            try:
                vectors[list(run)] = await answer
            except InvalidInput as error:
                raise _at_batch_position(error, run) from error
            waiting.popleft()

        try:
            for run in model.engine.cut([len(row) for row in rows]):
                if len(waiting) == _RUNS_IN_FLIGHT:
                    await finish_first()
                check_wanted()
                part = [rows[position] for position in run]
                answer = _on(self._inference, model.engine.embed, part, n_prompt_tokens)
                waiting.append((run, answer))
            while waiting:
                await finish_first()
        finally:
            for _, answer in waiting:
                answer.cancel()
        return vectors


def _at_batch_position(error: InvalidInput, rows: Rows) -> InvalidInput:
    """The same error with its position in `rows` turned into a position in the batch."""
    return error if error.index is None else error.at(rows[error.index])


def _on(worker: ThreadPoolExecutor, work: Callable[..., _Done], *arguments: object) -> asyncio.Future[_Done]:
    return asyncio.get_running_loop().run_in_executor(worker, work, *arguments)
