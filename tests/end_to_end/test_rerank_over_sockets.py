"""Documents put in order by each of the hosts that can, over sockets: the answer, the money, and what is on record."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pytest

from administrator import Administrator
from crowd import LOCAL_OFF, metric
from embedgate.core.access import Subject
from embedgate.engine.rerank.weigh import PAIR_TOKENS
from embedgate.govern.keys import Key
from running import RunningGateway, gateway
from upstream import Answer, Upstream, error
from waiting import wait_until
from wire import Reply, call

KEYS = {"COHERE_API_KEY": "co-key-1", "VOYAGE_API_KEY": "pa-key-2", "JINA_API_KEY": "jina-key-3"}
SETTINGS = (
    LOCAL_OFF
    + """
    [providers.cohere]
    base_url = "{root}/cohere"
    [providers.voyage]
    base_url = "{root}/voyage/v1"
    [providers.jina]
    base_url = "{root}/jina/v1"
    [providers.tei]
    base_url = "{root}/tei"
    models = ["BAAI/bge-reranker-v2-m3"]
    [providers.vllm]
    base_url = "{root}/vllm/v1"
    [upstream]
    max_retries = 0
"""
)
QUERY = "Where do cats sit?"
DOCUMENTS = ["A dog ran.", "A cat sat on the mat.", "Katzen sitzen gern überall."]
SCORES = {0: 0.0625, 1: 0.875, 2: 0.5}
ORDER = [1, 2, 0]
BYTES = sum(-(-len(text.encode()) // 4) for text in DOCUMENTS) + 3 * -(-len(QUERY) // 4)
"""What the texts weigh by rule, the query with each: so much is told where nobody counts."""
MOST_TOKENS = sum(len(text.encode()) + 4 for text in DOCUMENTS) + 3 * (len(QUERY) + 4)
"""What they weigh at most: so much is held."""


@dataclass(frozen=True)
class Host:
    """One host: the model that it is asked for, its answer, and what must be made of that."""

    model: str
    provider: str
    path: str
    answer: Any
    tokens: int
    cost_picodollars: int
    is_estimated: bool = False
    searches: int | None = None

    @property
    def asked(self) -> str:
        """The name that pins it."""
        return f"{self.model}:{self.provider}"


def results(score: str = "relevance_score") -> list[dict[str, Any]]:
    return [{"index": index, score: value} for index, value in SCORES.items()]


HOSTS = (
    Host(
        "cohere/rerank-v4.0-pro",
        "cohere",
        "/cohere/v2/rerank",
        {"id": "x", "results": results(), "meta": {"billed_units": {"search_units": 1}}},
        BYTES,
        2_500_000_000,
        is_estimated=True,
        searches=1,
    ),
    Host(
        "voyage/rerank-2.5",
        "voyage",
        "/voyage/v1/rerank",
        {"data": results(), "usage": {"total_tokens": 31}},
        31,
        31 * 50_000,
    ),
    Host(
        "jina/jina-reranker-v3",
        "jina",
        "/jina/v1/rerank",
        {"results": results(), "usage": {"total_tokens": 44}},
        44,
        44 * 50_000,
    ),
    Host("BAAI/bge-reranker-v2-m3", "tei", "/tei/rerank", results("score"), BYTES, 0, is_estimated=True),
    Host(
        "BAAI/bge-reranker-v2-m3",
        "vllm",
        "/vllm/v1/rerank",
        {"results": results(), "usage": {"total_tokens": 27}},
        27,
        0,
    ),
)
COHERE, VOYAGE, _, TEI, VLLM = HOSTS


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, far_side: Upstream) -> Iterator[RunningGateway]:
    settings = SETTINGS.format(root=far_side.base_url.removesuffix("/v1"))
    with gateway(tmp_path_factory.mktemp("rerank"), settings, KEYS) as started:
        yield started


@pytest.fixture
def hosts(far_side: Upstream) -> Upstream:
    far_side.reset()
    return far_side


def said(host: Host) -> Answer:
    return Answer(200, json.dumps(host.answer).encode())


def rerank(
    running: RunningGateway, secret: str, asked: Mapping[str, Any] | None = None, path: str = "/v1/rerank", **more: Any
) -> Reply:
    body = {"query": QUERY, "documents": DOCUMENTS} if asked is None else asked
    return call(running.url, path, {**body, **more}, {"authorization": f"Bearer {secret}"})


@pytest.mark.parametrize("host", HOSTS, ids=[host.provider for host in HOSTS])
def test_every_host_orders_documents_and_is_paid_exactly(
    running: RunningGateway, admin: Administrator, hosts: Upstream, account: tuple[Key, str], host: Host
) -> None:
    key, secret = account
    hosts.script(said(host))
    reply = rerank(running, secret, model=host.asked, top_n=2, return_documents=True, user="customer 7")
    assert reply.status == 200, reply.body
    expected = {
        "id": reply.headers["x-request-id"],
        "model": host.model,
        "results": [
            {"index": index, "relevance_score": SCORES[index], "document": {"text": DOCUMENTS[index]}}
            for index in ORDER[:2]
        ],
        "usage": {"prompt_tokens": host.tokens, "total_tokens": host.tokens},
    }
    if host.searches is not None:
        expected["meta"] = {"billed_units": {"search_units": host.searches}}
    assert reply.json == expected
    assert float(reply.headers["x-embedgate-cost-usd"]) * 1e12 == host.cost_picodollars
    assert reply.headers["x-embedgate-provider"] == host.provider
    assert reply.headers.get("x-embedgate-usage") == ("estimated" if host.is_estimated else None)

    (seen,) = hosts.requests
    assert seen.path == host.path
    assert b"null" not in seen.body
    assert not {"top_n", "top_k"} & seen.json.keys()
    assert secret not in str(seen.headers) + seen.body.decode()

    (entry,) = admin.entries(key)
    assert (entry.action, entry.model, entry.provider, entry.items) == ("rerank", host.model, host.provider, 3)
    assert (entry.tokens, entry.tokens_estimated, entry.cost_picodollars) == (
        host.tokens,
        host.is_estimated,
        host.cost_picodollars,
    )
    assert (entry.end_user, entry.outcome, entry.dialect) == ("customer 7", "ok", "openai")
    assert [(event.action, event.outcome) for event in admin.decisions(key)] == [("rerank", "permit")]


def test_scores_of_another_model_by_its_name_are_a_wrong_answer(
    running: RunningGateway, hosts: Upstream, account: tuple[Key, str]
) -> None:
    answer = json.dumps({**VOYAGE.answer, "model": f"{VOYAGE.model.rpartition('/')[2]}-lite"}).encode()
    hosts.script(Answer(200, answer))
    assert rerank(running, account[1], model=VOYAGE.model).status == 502
    hosts.script(said(VOYAGE))
    assert rerank(running, account[1], model=VOYAGE.model).status == 200


@pytest.mark.parametrize("path", ["/v1/rerank", "/api/v1/rerank", "/v2/rerank"])
@pytest.mark.parametrize(
    "asked",
    [
        {"query": QUERY, "documents": DOCUMENTS},
        {"query": QUERY, "documents": [{"text": DOCUMENTS[0]}, *DOCUMENTS[1:]], "top_n": None},
        {"input": {"query": QUERY, "documents": DOCUMENTS}, "parameters": {"return_documents": False}},
    ],
    ids=["texts", "objects", "nested"],
)
def test_the_known_forms_of_a_request_are_understood_at_the_known_paths(
    running: RunningGateway, hosts: Upstream, account: tuple[Key, str], path: str, asked: Mapping[str, Any]
) -> None:
    hosts.script(said(VOYAGE))
    reply = rerank(running, account[1], asked, path, model=VOYAGE.model)
    assert reply.status == 200, reply.body
    assert [result["index"] for result in reply.json["results"]] == ORDER
    assert all(result.keys() == {"index", "relevance_score"} for result in reply.json["results"])
    assert hosts.requests[-1].json["documents"] == DOCUMENTS


@pytest.mark.parametrize(
    ("changes", "status", "code", "param", "told"),
    [
        ({"query": None}, 400, "missing_fields", "query", "query and documents are required"),
        ({"documents": None}, 400, "missing_fields", "documents", "query and documents are required"),
        ({"model": None}, 400, "missing_fields", "model", "model is required"),
        ({"query": ""}, 400, "invalid_input", "query", "query is empty"),
        ({"documents": []}, 400, "invalid_input", "documents", "1 to 1000 are allowed"),
        ({"documents": ["x"] * 1001}, 400, "invalid_input", "documents", "documents has 1001 items"),
        ({"documents": ["x", ""]}, 400, "invalid_input", "documents", "documents[1] is empty"),
        ({"documents": ["x", {"title": "t"}]}, 400, "invalid_request", "documents", "field `text`"),
        ({"top_n": 1, "top_k": 2}, 400, "invalid_request", "top_k", "mean the same"),
        ({"max_tokens_per_doc": 0}, 400, "invalid_input", "max_tokens_per_doc", "at least 1"),
        ({"max_tokens_per_doc": 5}, 400, "invalid_input", "max_tokens_per_doc", "cuts no document"),
        ({"documents": "x"}, 400, "invalid_request", "documents", "a list of texts"),
        ({"top_n": 0}, 400, "invalid_input", "top_n", "top_n is 0"),
        ({"top_n": "2"}, 400, "invalid_request", "top_n", "a whole number"),
        ({"yy": 2, "zz": 1}, 400, "unsupported_option", "yy", "yy, zz"),
        ({"input": {"query": "x", "documents": ["y"]}}, 400, "invalid_request", "input", "there twice"),
        ({"parameters": {"instruct": "x"}}, 400, "invalid_request", "parameters", "unknown field"),
        ({"model": "openai/text-embedding-3-small"}, 400, "model_wrong_action", "model", "rerank action"),
        ({"model": "no/such"}, 404, "model_not_found", "model", "does not exist"),
        ({"provider": {"fallback": "openai/gpt-4o"}}, 404, "model_not_found", "provider.fallback", "fallback"),
    ],
)
def test_what_cannot_be_is_refused_by_name_and_nobody_is_asked(
    running: RunningGateway,
    hosts: Upstream,
    account: tuple[Key, str],
    changes: dict[str, Any],
    status: int,
    code: str,
    param: str,
    told: str,
) -> None:
    asked = {"model": VOYAGE.model, "query": QUERY, "documents": DOCUMENTS, **changes}
    reply = rerank(running, account[1], asked)
    fault = reply.json["error"]
    assert (reply.status, fault["code"], fault["param"]) == (status, code, param), fault
    assert told in fault["message"]
    assert hosts.requests == []


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"documents": []}, 400, "invalid_input"),
        ({"model": None}, 400, "missing_fields"),
        ({"model": "no/such"}, 404, "model_not_found"),
        ({"yy": 2}, 400, "unsupported_option"),
    ],
)
def test_coheres_path_refuses_as_cohere_does(
    running: RunningGateway, account: tuple[Key, str], changes: dict[str, Any], status: int, code: str
) -> None:
    asked = {"model": COHERE.model, "query": QUERY, "documents": DOCUMENTS, **changes}
    here, there = (rerank(running, account[1], asked, path) for path in ("/v2/rerank", "/v1/rerank"))
    message = there.json["error"]["message"]
    assert here.json == {"id": here.headers["x-request-id"], "message": message, "code": code}
    assert here.status == there.status == status


def test_coheres_path_refuses_a_stranger_and_a_wrong_method_as_cohere_does(
    running: RunningGateway, account: tuple[Key, str]
) -> None:
    stranger = call(running.url, "/v2/rerank", {"model": COHERE.model})
    wrong = call(running.url, "/v2/rerank", headers={"x-api-key": account[1]})
    assert (stranger.status, stranger.json["code"]) == (401, "invalid_api_key")
    assert (wrong.status, wrong.json["code"], wrong.headers["allow"]) == (405, "method_not_allowed", "POST")
    assert {"id", "message"} <= stranger.json.keys() & wrong.json.keys()


def test_the_ledger_names_coheres_dialect(
    running: RunningGateway, admin: Administrator, hosts: Upstream, account: tuple[Key, str]
) -> None:
    key, secret = account
    hosts.script(said(COHERE))
    assert rerank(running, secret, path="/v2/rerank", model=COHERE.model).status == 200
    assert [entry.dialect for entry in admin.entries(key)] == ["cohere"]


def test_tei_ranks_texts_with_scores_from_0_to_1(
    running: RunningGateway, admin: Administrator, hosts: Upstream, account: tuple[Key, str]
) -> None:
    key, secret = account
    asked = {"query": QUERY, "texts": DOCUMENTS, "truncate": True, "raw_scores": False}
    for name, more in ((VOYAGE.model, {}), (VOYAGE.model, {"return_text": True})):
        hosts.script(said(VOYAGE))
        reply = rerank(running, secret, {**asked, **more}, f"/tei/{name}/rerank")
        texts = {"text"} if more else set()
        assert reply.status == 200, reply.body
        assert [ranked["index"] for ranked in json.loads(reply.body)] == ORDER
        assert [ranked["score"] for ranked in json.loads(reply.body)] == [SCORES[index] for index in ORDER]
        assert all(ranked.keys() == {"index", "score"} | texts for ranked in json.loads(reply.body))
        assert all(ranked["text"] == DOCUMENTS[ranked["index"]] for ranked in json.loads(reply.body) if more)
        assert hosts.requests[-1].json["documents"] == DOCUMENTS
    assert {entry.dialect for entry in admin.entries(key)} == {"tei"}


@pytest.mark.parametrize(
    ("changes", "status", "code", "told"),
    [
        ({"query": None}, 400, "missing_fields", "query and texts are required"),
        ({"texts": []}, 400, "invalid_input", "texts has 0 items; 1 to 1000 are allowed"),
        ({"texts": ["x", ""]}, 400, "invalid_input", "texts[1] is empty"),
        ({"texts": [1]}, 400, "invalid_request", "a list of texts"),
        ({"truncate": False}, 400, "unsupported_option", "leave truncate out"),
        ({"truncation_direction": "Left"}, 400, "unsupported_option", "Right"),
        ({"yy": 1}, 400, "unsupported_option", "yy"),
    ],
)
def test_tei_refuses_in_its_own_form(
    running: RunningGateway,
    hosts: Upstream,
    account: tuple[Key, str],
    changes: dict[str, Any],
    status: int,
    code: str,
    told: str,
) -> None:
    asked = {"query": QUERY, "texts": DOCUMENTS, **changes}
    reply = rerank(running, account[1], asked, f"/tei/{VOYAGE.model}/rerank")
    assert (reply.status, reply.json["code"], reply.json["error_type"]) == (status, code, "Validation")
    assert told in reply.json["error"]
    assert hosts.requests == []


def test_tei_tells_of_a_rerank_model(running: RunningGateway, account: tuple[Key, str]) -> None:
    told = call(running.url, f"/tei/{VOYAGE.model}/info", headers={"x-api-key": account[1]}).json
    assert (told["model_id"], told["model_type"], told["max_client_batch_size"]) == (
        VOYAGE.model,
        {"reranker": {}},
        1000,
    )


def test_a_query_that_cohere_would_cut_is_refused_and_is_no_call_on_any_account(
    running: RunningGateway, admin: Administrator, hosts: Upstream, account: tuple[Key, str]
) -> None:
    key, secret = account
    reply = rerank(running, secret, model=COHERE.model, query="q" * 2_049)
    assert (reply.status, reply.json["error"]["param"]) == (400, "query")
    assert hosts.requests == []
    assert admin.entries(key) == ()
    assert metric(running, "embedgate_provider_calls_total", provider="cohere", outcome="invalid_input") == 0


def test_what_a_host_cannot_have_used_is_estimated(
    running: RunningGateway, admin: Administrator, hosts: Upstream, account: tuple[Key, str]
) -> None:
    key, secret = account
    hosts.script(Answer(200, json.dumps({"data": results(), "usage": {"total_tokens": 2**63}}).encode()))
    reply = rerank(running, secret, model=VOYAGE.model)
    assert (reply.status, reply.headers["x-embedgate-usage"]) == (200, "estimated")
    (entry,) = admin.entries(key)
    assert (entry.tokens, entry.tokens_estimated, entry.cost_picodollars) == (BYTES, True, BYTES * 50_000)


def test_the_next_route_serves_what_the_first_cannot(
    running: RunningGateway, admin: Administrator, hosts: Upstream, account: tuple[Key, str]
) -> None:
    key, secret = account
    garbled = {"results": results()[:2], "usage": {"total_tokens": 5}}
    hosts.script(error(422, "no"), said(VLLM))
    reply = rerank(running, secret, model=TEI.model)
    assert reply.headers["x-embedgate-provider"] == "vllm"
    assert [seen.path for seen in hosts.requests] == [TEI.path, VLLM.path]

    hosts.script(Answer(200, json.dumps(garbled).encode()), said(COHERE))
    reply = rerank(running, secret, model=VOYAGE.model, provider={"fallback": COHERE.model})
    assert (reply.status, reply.json["model"]) == (200, COHERE.model)
    entry = next(entry for entry in admin.entries(key) if entry.provider == "cohere")
    assert entry.cost_picodollars == 5 * 50_000 + COHERE.cost_picodollars

    hosts.script(Answer(200, json.dumps(garbled).encode()))
    reply = rerank(running, secret, model=VOYAGE.model)
    assert (reply.status, reply.json["error"]["code"]) == (502, "upstream_error")
    assert "2 scores came back for 3 documents" in reply.json["error"]["message"]


def test_a_server_that_takes_few_documents_gets_them_in_parts(
    running: RunningGateway, hosts: Upstream, account: tuple[Key, str]
) -> None:
    parts = [32, 32, 6]
    tops = iter(range(70))
    hosts.script(
        *[
            Answer(200, json.dumps([{"index": n, "score": next(tops) / 70} for n in range(size)]).encode())
            for size in parts
        ]
    )
    documents = [f"document {n}" for n in range(70)]
    asked = {"query": QUERY, "documents": documents}
    reply = rerank(running, account[1], asked, model=TEI.asked, return_documents=True)
    sent = [seen.json["texts"] for seen in hosts.requests]
    assert sorted(map(len, sent)) == sorted(parts)
    assert sorted(text for texts in sent for text in texts) == sorted(documents)
    for result in reply.json["results"]:
        assert result["document"]["text"] == documents[result["index"]]
    scores = [result["relevance_score"] for result in reply.json["results"]]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 70


def test_a_budget_is_never_overspent_and_a_policy_can_forbid(
    running: RunningGateway, admin: Administrator, hosts: Upstream, account: tuple[Key, str]
) -> None:
    key, secret = account
    held = (MOST_TOKENS + 3 * PAIR_TOKENS) * 50_000
    admin.set_budget(Subject("key", key.id), "total", held)
    admin.wait_until_in_force(running)
    hosts.usually(said(VOYAGE))
    assert rerank(running, secret, model=VOYAGE.model).status == 200
    refused = rerank(running, secret, model=VOYAGE.model)
    assert (refused.status, refused.json["error"]["code"]) == (402, "insufficient_quota")
    assert admin.spent(key) == VOYAGE.cost_picodollars

    text = (
        '@id("no-ranking") forbid (principal, action == Action::"rerank", resource) when { context.input_count > 2 };'
    )
    admin.add_policy(text)
    admin.wait_until_in_force(running)
    other, other_secret = admin.new_key()
    try:
        reply = rerank(running, other_secret, model=VOYAGE.model)
        assert (reply.status, reply.json["error"]["code"]) == (403, "permission_denied")
        assert "ranking with voyage/rerank-2.5 is forbidden by policy no-ranking" in reply.json["error"]["message"]
        wait_until("the refusal is on record", lambda: [e.outcome for e in admin.decisions(other)] == ["forbid"])
        few = {"query": QUERY, "documents": DOCUMENTS[:2]}
        hosts.usually(Answer(200, json.dumps({"data": results()[:2], "usage": {"total_tokens": 5}}).encode()))
        assert rerank(running, other_secret, few, model=VOYAGE.model).status == 200
    finally:
        admin.delete_policy("no-ranking")
        admin.wait_until_in_force(running)


def test_of_fifty_callers_at_once_only_those_are_served_whom_the_budget_pays_for(
    running: RunningGateway, admin: Administrator, hosts: Upstream, account: tuple[Key, str]
) -> None:
    key, secret = account
    paid = 7
    admin.set_budget(Subject("key", key.id), "total", paid * COHERE.cost_picodollars + 1)
    admin.wait_until_in_force(running)
    hosts.usually(replace(said(COHERE), delay_s=0.05))
    with ThreadPoolExecutor(50) as callers:
        asking = [callers.submit(rerank, running, secret, model=COHERE.model) for _ in range(50)]
        statuses = Counter(asked.result().status for asked in asking)
    assert statuses == {200: paid, 402: 50 - paid}
    assert len(hosts.requests) == len(admin.entries(key)) == paid
    assert admin.spent(key) == paid * COHERE.cost_picodollars


def test_neither_query_nor_documents_are_in_the_log(
    running: RunningGateway, hosts: Upstream, account: tuple[Key, str]
) -> None:
    hosts.script(error(400, f"cannot read '{DOCUMENTS[1]}' for '{QUERY}' with {KEYS['VOYAGE_API_KEY']}"))
    reply = rerank(running, account[1], model=VOYAGE.model)
    assert (reply.status, reply.json["error"]["code"]) == (400, "upstream_rejected")
    for secret in (*KEYS.values(), *DOCUMENTS, QUERY, account[1]):
        assert secret not in running.log.read_text()
        assert secret not in reply.body.decode()


def test_documents_with_more_fields_and_the_other_name_of_top_n(
    running: RunningGateway, hosts: Upstream, account: tuple[Key, str]
) -> None:
    documents = [{"text": text, "title": "of no concern", "tags": [1]} for text in DOCUMENTS]
    for options in ({"top_k": 2}, {"top_k": 2, "top_n": 2}, {"parameters": {"top_k": 2}}):
        hosts.script(said(VOYAGE))
        reply = rerank(running, account[1], model=VOYAGE.model, documents=documents, **options)
        assert [result["index"] for result in reply.json["results"]] == ORDER[:2]
        assert hosts.requests[-1].json["documents"] == DOCUMENTS


@pytest.mark.parametrize(
    ("host", "given", "wanted"),
    [
        (VOYAGE, [0.25, 1.0, 0.5], {0: 0.25, 1: 1.0, 2: 0.5}),
        (HOSTS[2], [-0.5, 1.0, 0.0], {0: 0.25, 1: 1.0, 2: 0.5}),  # cosines
        (VLLM, [-1000.0, 1000.0, 0.0], {0: 0.0, 1: 1.0, 2: 0.5}),  # logits, as one sees
    ],
)
def test_scores_are_from_0_to_1_if_that_is_wanted(
    running: RunningGateway,
    hosts: Upstream,
    account: tuple[Key, str],
    host: Host,
    given: list[float],
    wanted: dict[int, float],
) -> None:
    scored = [{"index": index, "relevance_score": score} for index, score in enumerate(given)]
    answer = Answer(200, json.dumps({"results": scored, "usage": {"total_tokens": 9}}).encode())
    for normalize, scores in ((True, wanted), (False, dict(enumerate(given)))):
        hosts.script(answer)
        reply = rerank(running, account[1], model=host.asked, normalize=normalize)
        found = [(result["index"], result["relevance_score"]) for result in reply.json["results"]]
        assert dict(found) == pytest.approx(scores)
        assert [index for index, _ in found] == ORDER


def test_how_much_is_read_of_a_document_is_passed_on_or_needless(
    running: RunningGateway, hosts: Upstream, account: tuple[Key, str]
) -> None:
    hosts.script(said(COHERE), said(VOYAGE))
    assert rerank(running, account[1], model=COHERE.model, max_tokens_per_doc=5).status == 200
    assert hosts.requests[-1].json["max_tokens_per_doc"] == 5
    longest = max(len(text.encode()) for text in DOCUMENTS)
    assert rerank(running, account[1], model=VOYAGE.model, max_tokens_per_doc=longest).status == 200
    assert "max_tokens_per_doc" not in hosts.requests[-1].json


def test_the_list_of_models_says_what_scores_are(running: RunningGateway, account: tuple[Key, str]) -> None:
    listed = call(running.url, "/v1/models", None, {"x-api-key": account[1]}).json["data"]
    scales = {model["id"]: model.get("scores") for model in listed}
    assert (scales[VOYAGE.model], scales[HOSTS[2].model]) == ("unit", "cosine")
