"""Idempotency keys: a request that comes again with the key of an earlier one is answered alike, and charged once.

The header `Idempotency-Key` counts for the API key that sends it. What is kept: every answer, and every error of a
request that cost something. Any other error leaves the key free, so that the request can be tried again; so does one
that ends a stream. Of a stream, and of an answer that is too large, only the fact is kept that it was answered.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from itertools import chain
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import orjson
from msgspec.structs import replace

from embedgate.core.access import Caller
from embedgate.core.errors import (
    AnswerNotKept,
    CallerLeft,
    GatewayError,
    IdempotencyKeyReused,
    InternalError,
    MalformedRequest,
    Overloaded,
    RequestInProgress,
)
from embedgate.observe import events, metrics
from embedgate.server.answer import Answer, Headers
from embedgate.server.body import Body, Enter
from embedgate.server.respond import Request, Serve
from embedgate.storage.answers import AnswerStore, KeptAnswer

P = ParamSpec("P")
T = TypeVar("T")

HEADER = b"idempotency-key"
REPLAYED = (b"idempotent-replayed", b"true")
MAX_CHARACTERS = 255
_RETRY_S = 1.0
_OTHER_SERVER_RETRY_S = 5.0


class _Dialect(Protocol):
    def secret(self, headers: Mapping[bytes, bytes]) -> str | None: ...

    def write_error(self, error: GatewayError, request_id: str) -> Answer: ...


class _Replay(Exception):
    """The request was answered before."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer


class _CheckedBody(Body):
    """A body that is checked when it has been read: by then the caller is known, and may be served."""

    def __init__(self, body: Body, check: Callable[[bytes], Awaitable[None]]) -> None:
        """check: raises to keep the request from being served."""
        self._body = body
        self._check = check

    async def read(self, max_bytes: int | None = None, enter: Enter | None = None, owner: str = "") -> bytes:
        body = await self._body.read(max_bytes, enter, owner)
        await self._check(body)
        return body

    async def parsed(
        self, parse: Callable[Concatenate[bytes, P], T], body: bytes, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._body.parsed(parse, body, *args, **kwargs)

    def hold_answer(self, size_bytes: int) -> None:
        self._body.hold_answer(size_bytes)

    def watch(self, gone: Callable[[], None]) -> None:
        self._body.watch(gone)

    async def close(self) -> None:
        await self._body.close()


class Idempotency:
    """Serves requests with an idempotency key. One instance serves all of a process."""

    def __init__(
        self,
        store: AnswerStore,
        identify: Callable[[str | None], Awaitable[Caller]],
        max_answer_bytes: int,
        *,
        is_sole: Callable[[], bool] = lambda: True,
    ) -> None:
        """identify: the caller of a credential. max_answer_bytes: of an answer that is kept.

        is_sole: whether no other process serves requests with the same keys; what is in progress is known only here.
        """
        self._is_sole = is_sole
        self._store = store
        self._identify = identify
        self._max_answer_bytes = max_answer_bytes
        self._in_progress: dict[tuple[str, bytes], bytes] = {}

    async def serve(self, request: Request, dialect: "_Dialect", action: str, serve: Serve) -> Answer:
        """The answer to a request with the header: the one that was kept, or that of `serve`, which is then kept.

        action: what is asked for, in which dialect: the same body may mean something else elsewhere.
        Raises MalformedRequest, RequestInProgress, IdempotencyKeyReused, AnswerNotKept, Overloaded if another server
        has the keys, or what `serve` does.
        """
        key = request.headers[HEADER]
        attempt = _Attempt(self._store, self._in_progress, key, self._max_answer_bytes)

        async def check(body: bytes) -> None:
            _check(key)
            if not self._is_sole():
                raise Overloaded(
                    "Another server runs on the same data folder, and only that one knows the requests with an "
                    "Idempotency-Key. Ask that one, or try again when it has ended.",
                    retry_after_s=_OTHER_SERVER_RETRY_S,
                )
            caller = await self._identify(dialect.secret(request.headers))
            digest = await request.body.parsed(_digest, body, action)
            await attempt.begin(caller.key_id, digest)

        headers = {name: value for name, value in request.headers.items() if name != HEADER}
        try:
            answer = await serve(replace(request, headers=headers, body=_CheckedBody(request.body, check)))
            return await attempt.keep(answer)
        except _Replay as replay:
            return replay.answer
        except GatewayError as error:
            if error.is_charged:
                await attempt.keep(dialect.write_error(error, request.id), is_lost=isinstance(error, CallerLeft))
            raise
        finally:
            attempt.end()


class _Attempt:
    """One request with a key, from its body to its answer."""

    def __init__(
        self, store: AnswerStore, in_progress: dict[tuple[str, bytes], bytes], key: bytes, max_answer_bytes: int
    ) -> None:
        self._store = store
        self._in_progress = in_progress
        self._key = key
        self._max_answer_bytes = max_answer_bytes
        self._owner = ""
        self._digest = b""
        self._has_begun = False

    async def begin(self, owner: str, digest: bytes) -> None:
        """Begin to be the request of this key. Raises what keeps it from that."""
        other = self._in_progress.get((owner, self._key))
        if other is not None:
            if other != digest:
                raise _reused()
            metrics.idempotent("in_progress")
            raise RequestInProgress(
                "A request with this Idempotency-Key is in progress. Wait for its answer.", retry_after_s=_RETRY_S
            )
        self._owner, self._digest, self._has_begun = owner, digest, True
        self._in_progress[owner, self._key] = digest
        kept = await self._store.find(owner, self._key)
        if kept is not None:
            raise _kept(kept, digest)
        metrics.idempotent("new")

    async def keep(self, answer: Answer, *, is_lost: bool = False) -> Answer:
        """Keep an answer, and return it, to be sent. One that cannot be kept is sent all the same.

        is_lost: it is none for who asks again, so that only the fact is kept.
        """
        answer, body = await _whole(answer, self._max_answer_bytes)
        body = None if is_lost else body
        headers = orjson.dumps([[name.decode("latin-1"), value.decode("latin-1")] for name, value in answer.headers])
        try:
            await self._store.keep(self._owner, self._key, KeptAnswer(self._digest, answer.status, headers, body))
        except InternalError as error:
            events.ANSWER_NOT_KEPT.emit(reason=error.message)
        return answer if answer.stream is None else replace(answer, stream=self._freeing(answer.stream))

    async def _freeing(self, stream: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """The same stream, which leaves the key free if it ends with an error that cost nothing.

        It may have opened before a provider has begun to answer.
        """
        try:
            async with contextlib.aclosing(stream):
                async for piece in stream:
                    yield piece
        except GatewayError as error:
            if not error.is_charged and not isinstance(error, CallerLeft):
                with contextlib.suppress(InternalError):  # then it stays taken, and its caller is told so
                    await self._store.forget(self._owner, self._key)
            raise

    def end(self) -> None:
        """Leave the key to the next request with it."""
        if self._has_begun:
            del self._in_progress[self._owner, self._key]


def _kept(kept: KeptAnswer, digest: bytes) -> Exception:
    """What comes of a request whose key was used before."""
    if kept.digest != digest:
        return _reused()
    if kept.body is None:
        metrics.idempotent("not_kept")
        return AnswerNotKept(
            "The request with this Idempotency-Key was answered, by a stream or by more than is kept, or its caller "
            "left the stream. Its answer cannot be sent again; use another key to ask anew."
        )
    metrics.idempotent("replayed")
    headers: Headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in orjson.loads(kept.headers)]
    return _Replay(Answer(kept.status, [*headers, REPLAYED], kept.body))


def _digest(body: bytes, action: str) -> bytes:
    """What tells requests with the same key from each other."""
    digest = hashlib.sha256(b"%s\0" % action.encode())
    digest.update(body)
    return digest.digest()


def _reused() -> IdempotencyKeyReused:
    metrics.idempotent("reused")
    return IdempotencyKeyReused(
        "This Idempotency-Key came before with another request. Use a new key for every request.",
        param="Idempotency-Key",
    )


def _check(key: bytes) -> None:
    """Raises MalformedRequest for a key that is none."""
    if not 1 <= len(key) <= MAX_CHARACTERS or not all(33 <= byte <= 126 for byte in key):
        raise MalformedRequest(
            f"Idempotency-Key has {len(key)} characters; it can be 1 to {MAX_CHARACTERS} visible ASCII characters, "
            "such as a UUID.",
            param="Idempotency-Key",
        )


async def _whole(answer: Answer, max_bytes: int) -> tuple[Answer, bytes | None]:
    """An answer and its body; None for one that is streamed or larger."""
    if answer.stream is not None:
        return answer, None
    parts, size = [answer.body], len(answer.body)
    while answer.pieces is not None and size <= max_bytes and (piece := next(answer.pieces, None)) is not None:
        parts.append(piece)
        size += len(piece)
        await asyncio.sleep(0)
    if size > max_bytes:
        return replace(answer, pieces=chain(parts[1:], answer.pieces or ())), None
    body = b"".join(parts)
    return replace(answer, body=body, pieces=None), body
