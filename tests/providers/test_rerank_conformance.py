"""Every provider that orders documents, one suite: what is sent, what is read, and what a refusal means."""

import dataclasses
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import ValidationError

from embedgate.catalog import Catalog
from embedgate.core import errors
from embedgate.core.actions import RERANK
from embedgate.core.errors import InvalidInput, UpstreamError, UpstreamGarbled, UpstreamRejected
from embedgate.core.models import DimRange, Route
from embedgate.core.rerank import RerankReply, RerankRequest
from embedgate.engine.rerank.weigh import cut
from embedgate.providers import hosts
from embedgate.settings import LimitSettings, TransportSettings
from embedgate.transport import Endpoint, HttpDriver
from upstream import Answer, Upstream
from waiting import PATIENCE_S

KEY = "k-3f9c27d1a58e"
TABLE = hosts.load()
REQUEST = RerankRequest("any", "which one?", ("first", "second", "\u7b2c\u4e09"), top_n=1, returns_documents=True)
SCORES = ((2, 0.875), (0, 0.5), (1, -1.5e-3))
_WANTED = {"model": "m-1", "query": "which one?", "documents": ["first", "second", "\u7b2c\u4e09"]}


def results(score: str = "relevance_score") -> list[dict[str, Any]]:
    return [{"index": index, score: value} for index, value in SCORES]


@dataclasses.dataclass(frozen=True)
class Case:
    """One provider: the call that is right, and answers with what they say that was used."""

    provider: str
    path: str
    body: dict[str, Any]
    answers: tuple[tuple[Any, dict[str, str], int | None, int | None], ...]


def meta(**units: float) -> dict[str, Any]:
    return {"id": "i", "results": results(), "meta": {"api_version": {"version": "2"}, "billed_units": units}}


CASES = (
    Case(
        "cohere",
        "/v2/rerank",
        _WANTED,
        (
            (meta(search_units=2), {}, None, 2),
            (meta(input_tokens=31), {}, 31, None),
            (meta(search_units=0.5), {}, None, 1),
            (meta(search_units=-1), {}, None, None),
            (meta(search_units=1e300, input_tokens=1e300), {}, None, None),
            ({"results": results()}, {}, None, None),
        ),
    ),
    Case(
        "voyage",
        "/v1/rerank",
        {**_WANTED, "truncation": False, "return_documents": False},
        (
            ({"object": "list", "data": results(), "model": "m-1", "usage": {"total_tokens": 26}}, {}, 26, None),
            ({"data": results(), "usage": {"total_tokens": 2**63}}, {}, None, None),
            ({"data": results(), "usage": {"total_tokens": -3}}, {}, None, None),
        ),
    ),
    Case(
        "jina",
        "/v1/rerank",
        {**_WANTED, "return_documents": False},
        (
            ({"model": "m-1", "results": results(), "usage": {"total_tokens": 38, "prompt_tokens": 38}}, {}, 38, None),
            ({"results": results()}, {}, None, None),
        ),
    ),
    Case(
        "tei",
        "/rerank",
        {
            "query": "which one?",
            "texts": _WANTED["documents"],
            "raw_scores": False,
            "return_text": False,
            "truncate": False,
        },
        (
            (results("score"), {}, None, None),
            (results("score"), {"x-compute-tokens": "19"}, 19, None),
            (results("score"), {"x-compute-tokens": "9" * 5_000}, None, None),
        ),
    ),
    Case(
        "vllm",
        "/v1/rerank",
        _WANTED,
        (
            (
                {
                    "id": "rerank-1",
                    "model": "m-1",
                    "results": [{**result, "document": {"text": "x", "multi_modal": None}} for result in results()],
                    "usage": {"prompt_tokens": 22, "total_tokens": 22},
                },
                {},
                22,
                None,
            ),
        ),
    ),
)
every_case = pytest.mark.parametrize("case", CASES, ids=[case.provider for case in CASES])


def driver_of(provider: str, upstream: Upstream) -> HttpDriver:
    host = TABLE[provider]
    base = (host.base_url or "").partition("//")[2].partition("/")[2]
    url = f"http://127.0.0.1:{upstream.port}/{base}"
    endpoint = Endpoint(provider, url, KEY, host.key_header, host.key_prefix)
    return HttpDriver(hosts.vendor(host), endpoint, TransportSettings())


@pytest.fixture
async def driver(case: Case, upstream: Upstream) -> AsyncIterator[HttpDriver]:
    driver = driver_of(case.provider, upstream)
    yield driver
    await driver.aclose()


async def rerank(driver: HttpDriver, case: Case, request: RerankRequest = REQUEST) -> RerankReply:
    route = Route(case.provider, "m-1", DimRange(0, 0, 0), 512, "unknown")
    return await driver.call(request, TABLE[case.provider].adapt(route), time.monotonic() + PATIENCE_S)


def answer(case: Case) -> Answer:
    body, headers, _, _ = case.answers[0]
    return Answer(200, json.dumps(body).encode(), headers)


def test_these_providers_order_documents_and_no_others() -> None:
    able = {name for name, host in TABLE.items() if RERANK.name in hosts.vendor(host).unary}
    assert able == {case.provider for case in CASES}


@every_case
async def test_a_call_is_as_documented_and_asks_for_all_scores(
    case: Case, driver: HttpDriver, upstream: Upstream
) -> None:
    upstream.script(answer(case))
    await rerank(driver, case)
    (seen,) = upstream.requests
    assert (seen.method, seen.path, seen.json) == ("POST", case.path, case.body)
    assert b"null" not in seen.body
    assert seen.headers["content-type"] == "application/json"
    assert [name for name, value in seen.headers.items() if KEY in value] == [TABLE[case.provider].key_header]
    assert KEY not in seen.path
    assert KEY.encode() not in seen.body


@every_case
async def test_a_right_answer_is_read_and_fields_that_nobody_knows_are_skipped(
    case: Case, driver: HttpDriver, upstream: Upstream
) -> None:
    for body, headers, tokens, searches in case.answers:
        upstream.script(Answer(200, json.dumps(body).encode(), headers))
        assert await rerank(driver, case) == RerankReply(SCORES, tokens, searches)
        more = [{**item, "new": None} for item in body] if isinstance(body, list) else {**body, "new": {"field": [1]}}
        upstream.script(Answer(200, json.dumps(more).encode(), headers))
        assert await rerank(driver, case) == RerankReply(SCORES, tokens, searches)


@every_case
async def test_scores_that_are_no_numbers_are_garbled(case: Case, driver: HttpDriver, upstream: Upstream) -> None:
    good = answer(case).body or b""
    for wrong in (b"null", b'"0.875"', b"true", b"NaN", b"[0.875]", b"1e999"):
        upstream.script(Answer(200, good.replace(b"0.875", wrong)))
        with pytest.raises(UpstreamGarbled) as caught:
            await rerank(driver, case)
        assert not any(text in caught.value.message for text in (KEY, *REQUEST.documents, REQUEST.query))
    for wrong in (b"null", b'"2"', b"2.5"):
        upstream.script(Answer(200, good.replace(b'"index": 2', b'"index": ' + wrong)))
        with pytest.raises(UpstreamGarbled):
            await rerank(driver, case)


@every_case
async def test_what_is_no_answer_has_no_scores(case: Case, driver: HttpDriver, upstream: Upstream) -> None:
    for body in (b"", b"null", b"5", b"<html></html>", b"{}", b"\xff"):
        upstream.script(Answer(200, body))
        try:
            assert (await rerank(driver, case)).scores == ()  # which the engine takes for a wrong answer
        except UpstreamGarbled:
            continue


FAULTS: tuple[tuple[int, dict[str, object], type[UpstreamError]], ...] = (
    (400, {"detail": "the query is too long"}, errors.UpstreamRejected),
    (401, {"message": f"invalid api token {KEY}"}, errors.UpstreamDenied),
    (402, {"message": "Please add a payment method"}, errors.UpstreamDenied),
    (413, {"error": "body too large", "error_type": "Validation"}, errors.UpstreamTooLarge),
    (
        422,
        {"error": "batch size 33 > maximum allowed batch size 32", "error_type": "Validation"},
        errors.UpstreamTooLarge,
    ),
    (424, {"error": "backend", "error_type": "Backend"}, errors.UpstreamBusy),
    (429, {"detail": "slow down, 'second' is too much"}, errors.UpstreamBusy),
    (500, {"message": "internal"}, errors.UpstreamFailed),
    (503, {"message": "later"}, errors.UpstreamBusy),
)


@every_case
async def test_a_fault_means_what_it_says(case: Case, driver: HttpDriver, upstream: Upstream) -> None:
    for status, body, kind in FAULTS:
        upstream.script(Answer(status, json.dumps(body).encode(), {"retry-after": "2"}))
        with pytest.raises(UpstreamError) as caught:
            await rerank(driver, case)
        assert type(caught.value) is kind
        assert caught.value.retry_after_s == (2 if caught.value.may_retry else None)
        assert KEY not in caught.value.message
        assert "second" not in caught.value.message


async def test_cohere_is_told_to_cut_no_document_and_gets_no_query_that_it_would_cut(upstream: Upstream) -> None:
    case, driver = CASES[0], driver_of("cohere", upstream)
    long = RerankRequest("any", "\u7b2c" * 682, ("short", "\u7b2c" * 1_400))
    upstream.script(answer(case))
    await rerank(driver, case, long)
    (seen,) = upstream.requests
    assert seen.json["max_tokens_per_doc"] == 4_200
    with pytest.raises(InvalidInput, match="query has 2049 bytes") as caught:
        await rerank(driver, case, RerankRequest("any", "q" * 2_049, ("short",)))
    assert caught.value.param == "query"
    await driver.aclose()


def test_a_model_that_reads_all_documents_together_gets_them_in_one_call_whatever_the_settings_permit() -> None:
    most = 2_048
    LimitSettings(max_documents=most)
    with pytest.raises(ValidationError, match=f"less than or equal to {most}"):
        LimitSettings(max_documents=most + 1)
    listwise = [model for model in Catalog.builtin().models() if "Reads all documents together" in (model.note or "")]
    assert len(listwise) == 2
    documents = ("a document of some length " * 40,) * most
    for model in listwise:
        for route in model.routes:
            request = RerankRequest(model.id, "which?", documents)
            assert cut(request, TABLE[route.provider].adapt(route).limits) == [request]


async def test_a_provider_that_is_not_known_to_order_documents_is_not_asked(upstream: Upstream) -> None:
    driver = driver_of("openai", upstream)
    with pytest.raises(UpstreamRejected, match="openai is not known to do reranking"):
        await rerank(driver, dataclasses.replace(CASES[0], provider="openai"))
    assert upstream.requests == []
    await driver.aclose()
