"""Blocking HTTP client of a gateway: embeddings as arrays, the ZIRI API's calls as JSON, with retries.

Splits inputs to fit the request limits, checks answers, and waits between attempts. Needs
no gateway in this process, and works with any server of the OpenAI embeddings format. Its errors are
those of `core/errors.py`; to a client, the gateway is upstream.
"""

import contextlib
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from datetime import timedelta
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote

import msgspec
import numpy as np
import orjson
from pyreqwest import exceptions
from pyreqwest.client import SyncClient, SyncClientBuilder
from pyreqwest.request import SyncRequestBuilder
from pyreqwest.response import SyncResponse

from embedgate.core.errors import (
    ConfigError,
    GatewayRefused,
    InvalidInput,
    MalformedRequest,
    UpstreamError,
    UpstreamFailed,
    UpstreamGarbled,
    UpstreamTimeout,
)
from embedgate.core.models import Truncate
from embedgate.core.ports import Embedder
from embedgate.core.types import CacheUse, Input, InputType
from embedgate.core.vectors import Vectors
from embedgate.core.version import VERSION
from embedgate.transport import Endpoint, faults, read_vectors

DEFAULT_URL = "http://127.0.0.1:3100"
DEFAULT_MODEL = "local/all-minilm-l6-v2"
MAX_INPUTS = 2_048
MAX_TOKENS = 300_000
"""What one request may carry at the gateway's default settings, and at OpenAI's own API."""
MAX_ANSWER_BYTES = 512_000_000
"""Largest accepted answer: more than 2,048 vectors of 4,096 numbers take as decimals."""

_MAX_REFUSAL_BYTES = 65_536
_MAX_MESSAGE_CHARS = 2_000
_SPECIAL_TOKENS = 4
_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_NO_SUCH_ROUTE = frozenset({404, 405, 501})
"""How servers answer that do not describe their models."""
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 8.0

_Result = TypeVar("_Result")
_Text = TypeVar("_Text", bound=Input)
_Auth = Literal["authorization", "x-api-key"]


class Client(Embedder):
    """Client of one gateway. Thread-safe; `close` it, or use it as a context manager.

    Every method raises GatewayRefused if the gateway answers with an error, UpstreamFailed if it cannot be reached,
    UpstreamTimeout if it does not answer in time, UpstreamGarbled if its answer is invalid.
    """

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str = DEFAULT_URL,
        *,
        timeout_s: float = 60,
        max_retries: int = 3,
        model: str = DEFAULT_MODEL,
    ) -> None:
        """Opens no connection yet.

        base_url: of the gateway, with or without `/v1`. timeout_s: seconds for one request, all its attempts and the
        waits between them included. max_retries: further attempts after a transient failure. model: for `embed`
        calls that name none. Raises ConfigError for an address or a key that cannot be used.
        """
        self._endpoint = _endpoint(base_url, api_key)
        self._timeout_s = timeout_s
        self._max_retries = max_retries
        self._model = model
        self._facts: ModelFacts | None = None
        builder = SyncClientBuilder().user_agent(f"embedgate/{VERSION}").follow_redirects(False).referer(False)
        self._http: SyncClient = (builder if self._endpoint.may_use_proxy else builder.no_proxy()).build()

    def __repr__(self) -> str:
        """The address; never the key."""
        return f"Client(base_url={self._endpoint.base_url!r}, model={self._model!r})"

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    @property
    def model(self) -> str:
        """The model of `embed` calls that name none."""
        return self._model

    @property
    def space(self) -> str:
        """Vector space of that model as the gateway names it; the model's id where a server names none."""
        return self.model_facts().space or self._model

    @property
    def dim(self) -> int:
        """Length of that model's vectors as the gateway says, else as one embedded word shows."""
        return self.model_facts().dimensions or super().dim

    def model_facts(self, model: str | None = None) -> "ModelFacts":
        """What the gateway says of a model: its space, and the length of its vectors. Those of `model` are kept."""
        if model is None or model == self._model:
            if self._facts is None:
                self._facts = self._ask_facts(self._model)
            return self._facts
        return self._ask_facts(model)

    def _ask_facts(self, model: str) -> "ModelFacts":
        try:
            raw = self._exchange(f"/v1/models/{quote(model)}", None, "authorization", method="GET")
            return _facts.decode(raw)
        except GatewayRefused as error:
            if error.status in _NO_SUCH_ROUTE:
                return ModelFacts()
            raise
        except (msgspec.DecodeError, UnicodeDecodeError):
            return ModelFacts()

    def embed(
        self,
        texts: Sequence[Input],
        input_type: InputType | None = None,
        *,
        model: str | None = None,
        dim: int | None = None,
        truncate: Truncate = "none",
        cache: CacheUse = "store",
    ) -> Vectors:
        """Embed any number of texts, in as many requests as the limits require, one after the other.

        texts: not a single string. dim: None for the model's own size. cache: of the gateway; others may not know it.
        Returns (n, d) float32, one row per text, in order; (0, dim or 0) without a request if there are no texts.
        Raises InvalidInput for a single string, and what every method raises; vectors of earlier requests are lost.
        """
        if isinstance(texts, str):
            raise InvalidInput("texts is a single text; give a list of texts")
        fields: dict[str, object] = {"model": model or self._model, "encoding_format": "base64"}
        if dim is not None:
            fields["dimensions"] = dim
        if input_type is not None:
            fields["input_type"] = input_type
        if truncate != "none":
            fields["truncate"] = truncate
        if cache != "store":
            fields["cache"] = cache
        parts: list[Vectors] = []
        start = 0
        for batch in batches(texts):
            try:
                parts.append(self._embed_batch(batch, fields))
            except GatewayRefused as error:
                if start:
                    error.add_note(f"input[0] of this request is texts[{start}]")
                raise
            start += len(batch)
        if len({part.shape[1] for part in parts}) > 1:
            raise UpstreamGarbled("the gateway changed the length of its vectors from one request to the next")
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty((0, dim or 0), dtype=np.float32)

    def embeddings(
        self,
        *,
        provider: str,
        model: str,
        input: str | Sequence[Input],  # noqa: A002 - the name of the field in the API
        encoding_format: Literal["float", "base64"] | None = None,
        dimensions: int | None = None,
        **parameters: Any,
    ) -> dict[str, Any]:
        """One call of `POST /api/embeddings`, under the names of the ZIRI SDK.

        parameters: further fields of the body. Fields that are None are left out.
        Returns the answer's JSON as it came, with `data`, `usage` and `_meta` (request id, cost, timing).
        """
        fields = {"provider": provider, "model": model, "input": input}
        named = {"encoding_format": encoding_format, "dimensions": dimensions}
        return self._call_json("/api/embeddings", {**fields, **named, **parameters})

    def chat_completions(
        self, *, provider: str, model: str, messages: Sequence[Mapping[str, Any]], **parameters: Any
    ) -> dict[str, Any]:
        """One call of `POST /api/chat/completions`, under the names of the ZIRI SDK. Returns the answer's JSON."""
        fields = {"provider": provider, "model": model, "messages": messages}
        return self._call_json("/api/chat/completions", {**fields, **parameters})

    def rerank(self, query: str, documents: Sequence[str], *, model: str) -> list[float]:
        """Score documents against a query by one call of `POST /v1/rerank`: one score each, in order."""
        body = _body({"model": model, "query": query, "documents": list(documents), "top_n": len(documents)})
        try:
            scored = _ranking.decode(self._exchange("/v1/rerank", body, "authorization")).results
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UpstreamGarbled("the gateway's answer is not a ranking") from error
        scores = {item.index: item.relevance_score for item in scored}
        if len(scored) != len(documents) or scores.keys() != set(range(len(documents))):
            raise UpstreamGarbled(f"the gateway sent {len(scored)} scores for {len(documents)} documents")
        return [scores[index] for index in range(len(documents))]

    def stream_chat(self, messages: Sequence[Mapping[str, Any]], *, model: str, **parameters: Any) -> Iterator[str]:
        """The text of a completion, piece by piece as it comes, by one call of `POST /v1/chat/completions`.

        parameters: further fields of the body. Nothing is repeated after a failure.
        """
        body = _body({"model": model, "messages": list(messages), "stream": True, **parameters})
        deadline_s = time.monotonic() + self._timeout_s
        pending = b""
        has_begun = False
        try:
            built = self._request("POST", "/v1/chat/completions", body, "authorization", deadline_s)
            request = built.streamed_read_buffer_limit(0).build_streamed()  # else the first 64 KiB are waited for
            response = _interruptible(request.__enter__)
            with contextlib.ExitStack() as stack:
                stack.push(request)
                reader = response.body_reader
                if not 200 <= response.status < 300:
                    raise self._refusal(response, bytes(reader.read(_MAX_REFUSAL_BYTES) or b""))
                has_begun = True
                while (chunk := _interruptible(reader.read_chunk)) is not None:
                    *lines, pending = (pending + bytes(chunk)).split(b"\n")
                    for line in lines:
                        if line.strip() == b"data: [DONE]":
                            return
                        yield from _piece_of(line)
        except exceptions.RequestError as error:
            if not has_begun or isinstance(error, exceptions.RequestTimeoutError):
                raise self._fault(error) from error
        raise UpstreamFailed(f"the answer of {self._endpoint.base_url} broke off before its end")

    def _embed_batch(self, batch: Sequence[Input], fields: Mapping[str, object]) -> Vectors:
        answer = self._exchange("/v1/embeddings", _body({**fields, "input": batch}), "authorization")
        vectors = _read_vectors(answer, len(batch))
        dim = fields.get("dimensions")
        if dim is not None and vectors.shape[1] != dim:
            raise UpstreamGarbled(f"the gateway sent vectors of {vectors.shape[1]} numbers; {dim} were asked for")
        return vectors

    def _call_json(self, path: str, fields: Mapping[str, object]) -> dict[str, Any]:
        given = {name: value for name, value in fields.items() if value is not None}
        raw = self._exchange(path, _body(given), "x-api-key")
        try:
            answer = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise UpstreamGarbled("the gateway's answer is not JSON") from error
        if not isinstance(answer, dict):
            raise UpstreamGarbled("the gateway's answer is not a JSON object")
        return answer

    def administer(self, method: str, target: str, body: bytes | None = None) -> memoryview:
        """One call of the administration API: the body of its answer. target: path and query, URL-encoded.

        Only a GET is repeated after a transient failure: it is not known then whether a change was made.
        """
        return self._exchange(target, body, "x-api-key", method=method, max_retries=None if method == "GET" else 0)

    def _exchange(
        self, path: str, body: bytes | None, auth: _Auth, *, method: str = "POST", max_retries: int | None = None
    ) -> memoryview:
        """The body of a 2xx answer, after as many attempts as `max_retries` and the timeout allow."""
        allowed = self._max_retries if max_retries is None else max_retries
        deadline_s = time.monotonic() + self._timeout_s
        for attempt in itertools.count():
            try:
                return _interruptible(lambda: self._attempt(method, path, body, auth, deadline_s))
            except (GatewayRefused, UpstreamFailed) as error:
                wait_s = _backoff_s(attempt) if error.retry_after_s is None else error.retry_after_s
                has_time = time.monotonic() + wait_s < deadline_s
                if not error.may_retry or attempt >= allowed or not has_time:
                    raise
            time.sleep(wait_s)
        raise AssertionError("the attempts are counted without end")

    def _attempt(self, method: str, path: str, body: bytes | None, auth: _Auth, deadline_s: float) -> memoryview:
        request = self._request(method, path, body, auth, deadline_s)
        try:
            with request.build_streamed() as response:
                is_success = 200 <= response.status < 300
                answer = response.body_reader.read(MAX_ANSWER_BYTES + 1 if is_success else _MAX_REFUSAL_BYTES) or b""
        except exceptions.RequestError as error:
            raise self._fault(error) from error
        if not is_success:
            raise self._refusal(response, bytes(answer))
        if len(answer) > MAX_ANSWER_BYTES:
            raise UpstreamGarbled(f"the gateway's answer has more than {MAX_ANSWER_BYTES} bytes")
        return memoryview(answer)

    def _request(
        self, method: str, path: str, body: bytes | None, auth: _Auth, deadline_s: float
    ) -> SyncRequestBuilder:
        remaining_s = max(deadline_s - time.monotonic(), 0.001)
        request = self._http.request(method, self._endpoint.url(path)).timeout(timedelta(seconds=remaining_s))
        if body is not None:
            request = request.header("content-type", "application/json").body_bytes(body)
        if self._endpoint.key is not None:
            prefix = "Bearer " if auth == "authorization" else ""
            request = request.header(auth, prefix + self._endpoint.key, is_sensitive=True)
        return request

    def _fault(self, error: exceptions.RequestError) -> UpstreamError:
        url = self._endpoint.base_url
        if isinstance(error, exceptions.RequestTimeoutError):
            return UpstreamTimeout(
                f"{url} did not answer within {self._timeout_s:g} s. Send fewer texts at once, or raise timeout_s."
            )
        # The innermost cause is the system's own message; the outer ones repeat the address.
        causes = error.details["causes"] or []
        detail = causes[-1]["message"] if causes else error.message
        if isinstance(error, exceptions.NetworkError):
            return UpstreamFailed(f"{url} cannot be reached: {detail}. Is the gateway running there?")
        return UpstreamFailed(f"the answer of {url} broke off: {detail}")

    def _refusal(self, response: SyncResponse, body: bytes) -> GatewayRefused:
        names = ("retry-after-ms", "retry-after", "x-request-id", "x-should-retry")
        headers = {name: value for name in names if (value := response.get_header(name)) is not None}
        said = faults.read(body)
        message = said.message or f"{self._endpoint.base_url} answered {response.status} without saying why"
        if self._endpoint.key is not None:
            message = message.replace(self._endpoint.key, "[key]")  # other servers may quote the refused input
        return GatewayRefused(
            message[:_MAX_MESSAGE_CHARS],
            status=response.status,
            code=said.code or f"http_{response.status}",
            request_id=headers.get("x-request-id"),
            retry_after_s=faults.retry_after_s(headers),
            may_retry=response.status in _RETRIED and headers.get("x-should-retry") != "false",
        )


def batches(
    texts: Sequence[_Text], *, max_inputs: int = MAX_INPUTS, max_tokens: int = MAX_TOKENS
) -> Iterator[Sequence[_Text]]:
    """Cut texts, in order, into batches within the limits of one request: number of texts, and of tokens.

    Tokens are bounded by bytes plus special tokens, so nothing is tokenized here. A text that may be
    over `max_tokens` by itself is a batch of its own: the gateway counts and decides.
    """
    start, tokens = 0, 0
    for position, text in enumerate(texts):
        bound = _most_tokens(text)
        if position > start and (position - start == max_inputs or tokens + bound > max_tokens):
            yield texts[start:position]
            start, tokens = position, 0
        tokens += bound
    if start < len(texts):
        yield texts[start:]


def _most_tokens(text: Input) -> int:
    if not isinstance(text, str):
        return len(text)
    size_bytes = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return size_bytes + _SPECIAL_TOKENS


def _endpoint(base_url: str, api_key: str | None) -> Endpoint:
    """Address and key of the gateway. The key is kept nowhere else, and in no `repr`."""
    url = base_url.rstrip("/").removesuffix("/v1")
    try:
        return Endpoint("client", url, key=None if api_key is None else api_key.strip())
    except ConfigError as error:
        # These messages name a section of the settings, which the client does not have.
        raise ConfigError([mistake.removeprefix("providers.client: ") for mistake in error.mistakes]) from error


def _body(fields: Mapping[str, object]) -> bytes:
    try:
        return orjson.dumps(fields)
    except orjson.JSONEncodeError as error:
        raise MalformedRequest(f"the request cannot be written as JSON: {error}") from error


def _backoff_s(attempt: int) -> float:
    """Wait before a further attempt: exponential backoff with full jitter."""
    return random.uniform(0, min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**attempt))  # noqa: S311 - a wait is no secret


class ModelFacts(msgspec.Struct, frozen=True):
    """What a server says of a model; None for what it does not say."""

    space: str | None = None
    dimensions: int | None = None


_facts = msgspec.json.Decoder(ModelFacts)


class _Item(msgspec.Struct):
    index: int
    embedding: msgspec.Raw


class _Answer(msgspec.Struct):
    data: list[_Item]


_answer = msgspec.json.Decoder(_Answer)


class _Scored(msgspec.Struct):
    index: int
    relevance_score: float


class _Ranking(msgspec.Struct):
    results: list[_Scored]


_ranking = msgspec.json.Decoder(_Ranking)


class _ChatEvent(msgspec.Struct):
    choices: list[dict[str, Any]] = []
    error: dict[str, Any] | None = None


_chat_event = msgspec.json.Decoder(_ChatEvent)


def _read_vectors(raw: memoryview, n: int) -> Vectors:
    """The vectors of an answer to `n` texts, (n, d) float32, by index; base64, or decimals from servers without it."""
    try:
        items = _answer.decode(raw).data
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UpstreamGarbled("the gateway's answer is not a list of embeddings") from error
    if len(items) != n:
        raise UpstreamGarbled(f"the gateway sent {len(items)} vectors for {n} text{'' if n == 1 else 's'}")
    by_index = {item.index: item.embedding for item in items}
    if by_index.keys() != set(range(n)):
        raise UpstreamGarbled(f"the gateway's vectors are not numbered from 0 to {n - 1}, each once")
    vectors = read_vectors([by_index[index] for index in range(n)], "the gateway")
    if vectors.shape[1] == 0 or not np.isfinite(vectors).all():
        raise UpstreamGarbled("the gateway sent an empty vector, or one with something that is not a number")
    doubtful = vectors[vectors[:, 0] == 0]  # few, so that the others need not be looked at
    if not doubtful.any(axis=1).all():
        raise UpstreamGarbled("the gateway sent a vector of zeros, which is like no text")
    return vectors


def _piece_of(line: bytes) -> Iterator[str]:
    """The text in a line of a stream of server-sent events. Raises UpstreamFailed for an event that tells an error."""
    if not line.startswith(b"data:"):
        return
    try:
        event = _chat_event.decode(line.removeprefix(b"data:"))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UpstreamGarbled("the gateway sent an event that does not belong to a chat") from error
    if event.error is not None:
        raise UpstreamFailed(str(event.error.get("message", "the answer broke off"))[:_MAX_MESSAGE_CHARS])
    for choice in event.choices:
        if content := (choice.get("delta") or {}).get("content"):
            yield str(content)


def _interruptible(call: Callable[[], _Result]) -> _Result:
    """Run a call so that Ctrl-C interrupts the wait for it.

    pyreqwest blocks without handling signals, which only the main thread gets: there the call runs on a thread. An
    abandoned call ends with its timeout, or with the process.
    """
    if threading.current_thread() is not threading.main_thread():
        return call()
    outcome: Future[_Result] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:  # noqa: BLE001 - any exception is raised again in the waiting thread
            outcome.set_exception(error)

    threading.Thread(target=run, name="embedgate-client", daemon=True).start()
    return outcome.result()
