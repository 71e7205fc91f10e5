"""Every provider, one suite: what is sent, which answers are right, which are wrong, and what a refusal means.

A new provider adds a file to `replies/`, not a test.
"""

import itertools
import json
import time
from collections.abc import AsyncIterator, Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import pytest

from embedgate.core import errors
from embedgate.core.errors import GatewayError, InvalidInput, UpstreamError, UpstreamGarbled
from embedgate.core.types import Batch, ProviderReply
from embedgate.providers import hosts
from embedgate.settings import TransportSettings
from embedgate.transport import Endpoint, HttpCall, HttpDriver
from recorded_replies import DIM, KEY, TABLE, TEXTS, Recorded, filled, is_vector, load
from upstream import Answer, Upstream
from waiting import PATIENCE_S

CASES = load()
every_case = pytest.mark.parametrize("case", CASES, ids=[f"{case.provider}-{case.model}" for case in CASES])

NO_VECTORS: tuple[object, ...] = (
    None,
    True,
    0.5,
    [],
    "",
    "no base64!",
    [[0.6, 0.8]],
    ["0.6", "0.8"],
    [True, False],
    {},
)
STATUSES: dict[int, type[UpstreamError]] = {
    401: errors.UpstreamDenied,
    403: errors.UpstreamDenied,
    413: errors.UpstreamTooLarge,
    429: errors.UpstreamBusy,
    500: errors.UpstreamFailed,
    502: errors.UpstreamFailed,
    503: errors.UpstreamBusy,
    504: errors.UpstreamFailed,
}


@pytest.fixture
async def driver(case: Recorded, upstream: Upstream) -> AsyncIterator[HttpDriver]:
    host = case.host
    endpoint = Endpoint(case.provider, case.base_url(upstream.port), KEY, host.key_header, host.key_prefix)
    driver = HttpDriver(hosts.vendor(host), endpoint, TransportSettings())
    yield driver
    await driver.aclose()


async def embed(driver: HttpDriver, case: Recorded, batch: Batch | None = None) -> ProviderReply:
    return await driver.embed(batch or case.batch({}), case.route, time.monotonic() + PATIENCE_S)


def answer(recorded: dict[str, Any]) -> Answer:
    """What the far side is to answer. A text in place of JSON goes out as it is."""
    body = recorded["body"]
    raw = body if isinstance(body, str) else json.dumps(filled(body))
    return Answer(recorded.get("status", 200), raw.encode(), recorded.get("headers", {}))


def places(node: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where the vectors of an answer are."""
    if is_vector(node):
        yield path
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, value in items:
        yield from places(value, (*path, name))


def changed(body: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """The body with something else in one place."""
    copy = deepcopy(body)
    node = copy
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = value
    return copy


def without(body: Any, path: tuple[str | int, ...]) -> Any:
    """The body with one field or item less."""
    copy = deepcopy(body)
    node = copy
    for name in path[:-1]:
        node = node[name]
    del node[path[-1]]
    return copy


def test_every_provider_has_recorded_answers() -> None:
    assert {case.provider for case in CASES} == {name for name, host in TABLE.items() if host.embeds}


@every_case
async def test_a_call_is_as_documented(case: Recorded, driver: HttpDriver, upstream: Upstream) -> None:
    for call in case.calls:
        upstream.script(answer(case.answers[0]))
        await embed(driver, case, case.batch(call["ask"]))
        seen = upstream.requests[-1]
        assert (seen.method, seen.path) == ("POST", call["path"])
        assert seen.json == filled(call["body"])
        assert b"null" not in seen.body
        assert seen.headers["content-type"] == "application/json"


@every_case
async def test_the_key_is_in_its_header_and_nowhere_else(
    case: Recorded, driver: HttpDriver, upstream: Upstream
) -> None:
    upstream.script(answer(case.answers[0]))
    await embed(driver, case)
    (seen,) = upstream.requests
    assert {name: value for name, value in seen.headers.items() if KEY in value} == {
        case.host.key_header: case.host.key_prefix + KEY
    }
    assert KEY not in seen.path
    assert KEY.encode() not in seen.body


@every_case
async def test_a_right_answer_is_read(case: Recorded, driver: HttpDriver, upstream: Upstream) -> None:
    for recorded in case.answers:
        upstream.script(answer(recorded))
        reply = await embed(driver, case)
        assert reply.vectors.dtype == np.float32
        assert reply.vectors.flags.c_contiguous
        np.testing.assert_allclose(reply.vectors, case.vectors, atol=1e-6)
        assert reply.tokens == recorded["tokens"]
        assert reply.truncated == ()


USAGES = {"usage", "usageMetadata", "meta", "prompt_eval_count", "inputTextTokenCount", "statistics"}
"""Fields in which providers say what was used."""


@pytest.mark.parametrize("odd", [None, [], 5.5, "5", {}, {"prompt_tokens": "many", "billed_units": []}])
@every_case
async def test_an_odd_usage_spoils_no_vectors(
    case: Recorded, driver: HttpDriver, upstream: Upstream, odd: object
) -> None:
    for recorded in case.answers:
        body = recorded["body"]
        for name in USAGES.intersection(body if isinstance(body, dict) else ()):
            upstream.script(answer({**recorded, "body": {**body, name: odd}}))
            reply = await embed(driver, case)
            np.testing.assert_allclose(reply.vectors, case.vectors, atol=1e-6)
            assert reply.tokens in (None, 5, 6, recorded["tokens"])


@every_case
async def test_fields_of_an_answer_that_nobody_knows_are_skipped(
    case: Recorded, driver: HttpDriver, upstream: Upstream
) -> None:
    for recorded in case.answers:
        if isinstance(recorded["body"], dict):
            upstream.script(answer({**recorded, "body": {**recorded["body"], "new": {"field": [None, 1]}}}))
            reply = await embed(driver, case)
            np.testing.assert_allclose(reply.vectors, case.vectors, atol=1e-6)


@every_case
async def test_a_vector_too_few_or_too_many_is_garbled(case: Recorded, driver: HttpDriver, upstream: Upstream) -> None:
    for recorded in case.answers:
        for n in {1, 2, 3, 4} - {case.inputs}:
            upstream.script(answer(recorded))
            batch = Batch(tuple(f"text {position}" for position in range(n)), DIM)
            with pytest.raises(UpstreamGarbled, match=f"{case.inputs} vectors for {n} inputs"):
                await embed(driver, case, batch)


@every_case
async def test_an_answer_without_its_vectors_is_garbled(case: Recorded, driver: HttpDriver, upstream: Upstream) -> None:
    for recorded in case.answers:
        first = next(places(recorded["body"]))
        for depth in range(1, len(first) + 1):
            upstream.script(answer({**recorded, "body": without(recorded["body"], first[:depth])}))
            with pytest.raises(UpstreamGarbled):
                await embed(driver, case)


@every_case
async def test_a_vector_that_is_none_is_garbled(case: Recorded, driver: HttpDriver, upstream: Upstream) -> None:
    for recorded, wrong in itertools.product(case.answers, NO_VECTORS):
        first = next(places(recorded["body"]))
        upstream.script(answer({**recorded, "body": changed(recorded["body"], first, wrong)}))
        with pytest.raises(UpstreamGarbled) as caught:
            await embed(driver, case)
        assert not any(text in caught.value.message for text in TEXTS)


@every_case
async def test_vectors_of_two_lengths_are_garbled(case: Recorded, driver: HttpDriver, upstream: Upstream) -> None:
    for recorded in case.answers:
        last = list(places(recorded["body"]))[-1]
        wrong = "AAAAAAAAAAAAAAAA" if case.provider == "perplexity" else [0.1, 0.2, 0.3]
        upstream.script(answer({**recorded, "body": changed(recorded["body"], last, wrong)}))
        if case.inputs > 1:
            with pytest.raises(UpstreamGarbled, match="of 2 and of|of 3 and of"):
                await embed(driver, case)


@every_case
async def test_what_is_no_answer_is_garbled(case: Recorded, driver: HttpDriver, upstream: Upstream) -> None:
    for body in (b"", b"null", b"5", b"<html></html>", b"{}", b"\xff"):
        upstream.script(Answer(200, body))
        with pytest.raises(UpstreamGarbled):
            await embed(driver, case)


@every_case
async def test_a_documented_fault_means_what_it_says(case: Recorded, driver: HttpDriver, upstream: Upstream) -> None:
    for recorded in case.faults:
        upstream.script(answer(recorded))
        with pytest.raises(GatewayError) as caught:
            await embed(driver, case)
        fault = caught.value
        assert type(fault) is getattr(errors, recorded["error"]), recorded
        assert fault.retry_after_s == recorded.get("retry_after_s")
        assert KEY not in fault.message
        if isinstance(fault, InvalidInput):
            assert fault.index == recorded["index"]


@every_case
async def test_a_load_balancer_in_between_is_understood(case: Recorded, driver: HttpDriver, upstream: Upstream) -> None:
    for status, kind in STATUSES.items():
        page = f"<html><head><title>{status} from {KEY}</title></head></html>"
        upstream.script(Answer(status, page.encode(), {"retry-after": "2"}))
        with pytest.raises(UpstreamError) as caught:
            await embed(driver, case)
        assert type(caught.value) is kind
        assert caught.value.retry_after_s == (2 if caught.value.may_retry else None)
        assert KEY not in caught.value.message


@every_case
def test_a_call_holds_no_credential_and_no_address(case: Recorded) -> None:
    call = hosts.vendor(case.host).build(case.batch({}), case.route)
    assert isinstance(call, HttpCall)
    assert call.path.startswith("/")
    assert dict(call.headers) == {}
