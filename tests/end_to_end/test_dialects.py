"""Clients of Azure, Cohere, Ollama and TEI get the vectors of the OpenAI dialect, and errors in their own form."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import openai
import pytest

from chat_upstream import running_chat_upstream
from embedgate.providers.listing import read_list
from embedgate.transport import HttpReply
from program import FAKE_ONLY
from running import UPSTREAM_KEY, RunningGateway, gateway
from wire import Reply, call

MODEL = "fake/deterministic"
CHAT = "openai/gpt-4o-mini"
TEXTS = ["a cat", "zwei Hunde", "🙂"]
MANY = [f"text number {n}" for n in range(2_000)]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with running_chat_upstream() as host:
        config = f'{FAKE_ONLY}\n[providers.openai]\nbase_url = "{host.base_url}"\n'
        with gateway(tmp_path_factory.mktemp("dialects"), config, {"OPENAI_API_KEY": UPSTREAM_KEY}) as found:
            yield found


def ask(running: RunningGateway, path: str, body: dict[str, Any], **headers: str) -> Reply:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return call(running.url, path, body, sent or {"authorization": f"Bearer {running.key}"})


def vectors(running: RunningGateway, texts: list[str], **more: Any) -> list[Any]:
    """What the OpenAI dialect gives."""
    reply = ask(running, "/v1/embeddings", {"model": MODEL, "input": texts, **more})
    assert reply.status == 200, reply.body
    return [item["embedding"] for item in reply.json["data"]]


NAMED = ["/v1/engines/{}/embeddings", "/openai/deployments/{}/embeddings?api-version=2024-10-21", "/tei/{}/embed"]


@pytest.mark.parametrize("path", NAMED)
@pytest.mark.parametrize("name", [MODEL, quote(MODEL, safe=""), "deterministic", f"{MODEL}:fake"])
def test_the_path_names_the_model_whatever_the_body_says(running: RunningGateway, path: str, name: str) -> None:
    body = {"inputs" if "tei" in path else "input": TEXTS, "model": "gpt-35-turbo"}
    reply = ask(running, path.format(name), body)
    assert reply.status == 200, reply.body
    found = reply.json if "tei" in path else [item["embedding"] for item in reply.json["data"]]
    assert found == vectors(running, TEXTS)


@pytest.mark.parametrize("path", NAMED)
def test_a_path_without_a_model_is_none(running: RunningGateway, path: str) -> None:
    assert ask(running, path.format("").partition("?")[0], {"input": "a"}).status == 404
    reply = ask(running, path.format("no/such"), {"input": "a", "inputs": "a"})
    assert (reply.status, reply.headers["x-request-id"][:4]) == (404, "req_")
    wrong = call(running.url, path.format(MODEL), headers={"x-api-key": running.key})
    assert (wrong.status, wrong.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("path", NAMED)
@pytest.mark.parametrize("spoilt", ["{}/", "//{}"])
def test_a_path_with_a_slash_too_many_is_told_the_right_one(running: RunningGateway, path: str, spoilt: str) -> None:
    right = path.format(MODEL).partition("?")[0]
    reply = ask(running, spoilt.format(right[1:] if spoilt.startswith("//") else right), {"input": "a"})
    message = reply.json["error"]["message"]
    assert reply.status == 404
    assert message.endswith(f"Did you mean {right}?")


def test_azures_client_embeds_and_chats(running: RunningGateway) -> None:
    client = openai.AzureOpenAI(
        azure_endpoint=running.url, api_key=running.key, api_version="2024-10-21", max_retries=0
    )
    with client:
        made = client.embeddings.create(model=MODEL, input=TEXTS)  # base64, as the SDK asks of itself
        assert [len(item.embedding) for item in made.data] == [len(row) for row in vectors(running, TEXTS)]
        messages: Any = [{"role": "user", "content": "Hello"}]
        whole = client.chat.completions.create(model=CHAT, messages=messages)
        stream = client.chat.completions.create(model=CHAT, messages=messages, stream=True)
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
        assert streamed.split() == (whole.choices[0].message.content or "").split() != []
        with pytest.raises(openai.NotFoundError) as missing:
            client.embeddings.create(model="no/such", input="a")
        assert missing.value.code == "DeploymentNotFound"
        with pytest.raises(openai.BadRequestError) as empty:
            client.embeddings.create(model=MODEL, input=[])
        assert empty.value.code == "invalid_input"
    with (
        openai.AzureOpenAI(azure_endpoint=running.url, api_key="wrong", api_version="1", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError) as unknown,
    ):
        stranger.embeddings.create(model=MODEL, input="a")
    assert unknown.value.code == "401"


@pytest.mark.parametrize("path", ["/openai/v1/embeddings", "/openai/v1/embeddings?api-version=preview"])
def test_below_openai_v1_is_the_openai_api(running: RunningGateway, path: str) -> None:
    reply = ask(running, path, {"model": MODEL, "input": TEXTS}, api_key=running.key)
    assert [item["embedding"] for item in reply.json["data"]] == vectors(running, TEXTS)
    listed = call(running.url, "/openai/v1/models", headers={"api-key": running.key})
    assert MODEL in [model["id"] for model in listed.json["data"]]


@pytest.mark.parametrize("texts", [TEXTS, MANY])
def test_cohere_gets_each_type_that_it_names(running: RunningGateway, texts: list[str]) -> None:
    kinds = ["float", "int8", "ubinary", "base64", "float"]
    body = {"model": MODEL, "texts": texts, "input_type": "search_document", "embedding_types": kinds}
    for path, version in (("/v2/embed", "2"), ("/v1/embed", "1")):
        found = ask(running, path, body).json
        assert list(found["embeddings"]) == ["float", "int8", "ubinary", "base64"]
        for kind, rows in found["embeddings"].items():
            assert rows == vectors(running, texts, encoding_format=kind, input_type="document"), kind
        assert found["meta"]["api_version"] == {"version": version}
        assert found["meta"]["billed_units"]["input_tokens"] > 0
        assert found["response_type"] == "embeddings_by_type"


def test_cohere_without_types_gets_floats(running: RunningGateway) -> None:
    body = {"model": MODEL, "texts": TEXTS, "truncate": "NONE", "output_dimension": 16.0}
    expected = vectors(running, TEXTS, dimensions=16)
    second, first = ask(running, "/v2/embed", body).json, ask(running, "/v1/embed", body).json
    assert second["embeddings"] == {"float": expected}
    assert (first["embeddings"], first["response_type"]) == (expected, "embeddings_floats")


def test_ollama_gets_a_list_and_counts(running: RunningGateway) -> None:
    body = {"model": f"{MODEL}:latest", "input": TEXTS, "options": {"num_ctx": 512}, "keep_alive": "5m"}
    found = ask(running, "/api/embed", body).json
    assert found["embeddings"] == vectors(running, TEXTS)
    assert (found["model"], found["load_duration"]) == (MODEL, 0)
    assert found["total_duration"] > 0
    assert found["prompt_eval_count"] > 0
    assert ask(running, "/api/embed", {**body, "input": "a cat", "keep_alive": -1}).json["embeddings"] == vectors(
        running, ["a cat"]
    )
    tags = call(running.url, "/api/tags", headers={"x-api-key": running.key}).json["models"]
    assert MODEL in [model["name"] for model in tags]
    assert CHAT not in [model["name"] for model in tags]


def test_tei_takes_the_prompts_of_models_and_one_text(running: RunningGateway) -> None:
    body = {"inputs": "a cat", "prompt_name": "query", "normalize": True, "truncation_direction": "right"}
    expected = vectors(running, ["a cat"], input_type="query")
    assert json.loads(ask(running, f"/tei/{MODEL}/embed", body).body) == expected
    assert json.loads(ask(running, "/embed", {**body, "model": MODEL}).body) == expected


def test_tei_tells_what_the_model_is_so_that_another_gateway_can_discover_it(running: RunningGateway) -> None:
    key = {"x-api-key": running.key}
    told = call(running.url, f"/tei/{quote(MODEL, safe='')}/info", headers=key)
    assert told.json["model_type"] == {"embedding": {}}
    (found,) = read_list("tei", HttpReply("tei", told.status, {}, told.body))
    assert (found.name, found.action, found.max_tokens) == (MODEL, "embedding", told.json["max_input_length"])
    for path, status, code in (
        ("/tei/no/such/info", 404, "model_not_found"),
        (f"/tei/{CHAT}/info", 404, "model_not_found"),
    ):
        refused = call(running.url, path, headers=key)
        assert (refused.status, refused.json["code"], refused.json["error_type"]) == (status, code, "Validation")
    assert call(running.url, f"/tei/{MODEL}/info").status == 401


REFUSED: list[tuple[str, dict[str, Any], int, str, str]] = [
    ("/v2/embed", {"texts": TEXTS}, 400, "missing_fields", "model"),
    ("/v2/embed", {"model": MODEL}, 400, "missing_fields", "texts"),
    ("/v2/embed", {"model": MODEL, "texts": []}, 400, "invalid_input", "empty"),
    ("/v2/embed", {"model": MODEL, "texts": ["a", ""]}, 400, "invalid_input", "input[1]"),
    ("/v2/embed", {"model": MODEL, "texts": TEXTS, "input_type": "image"}, 400, "unsupported_option", "search_query"),
    ("/v2/embed", {"model": MODEL, "texts": TEXTS, "embedding_types": ["hex"]}, 400, "unsupported_option", "ubinary"),
    ("/v2/embed", {"model": MODEL, "texts": TEXTS, "embedding_types": []}, 400, "missing_fields", "leave it out"),
    ("/v2/embed", {"model": MODEL, "texts": TEXTS, "images": ["data:"]}, 400, "unsupported_option", "images"),
    ("/v1/embed", {"model": "no/such", "texts": TEXTS}, 404, "model_not_found", "no/such"),
    ("/api/embed", {"input": "a"}, 400, "missing_fields", "GET /api/tags"),
    ("/api/embed", {"model": MODEL, "input": [1, 2]}, 400, "invalid_request", "list of texts"),
    ("/api/embed", {"model": MODEL, "input": "a", "keep_alive": []}, 400, "invalid_request", "keep_alive"),
    ("/api/embed", {"model": "no-such:latest", "input": "a"}, 404, "model_not_found", "no-such"),
    ("/embed", {"inputs": "a"}, 400, "missing_fields", "/tei/local/all-minilm-l6-v2"),
    ("/tei/fake/deterministic/embed", {}, 400, "missing_fields", "inputs"),
    ("/tei/fake/deterministic/embed", {"inputs": "a", "normalize": False}, 400, "unsupported_option", "unit length"),
    ("/tei/fake/deterministic/embed", {"inputs": "a", "prompt_name": "sts"}, 400, "unsupported_option", "passage"),
]


@pytest.mark.parametrize(("path", "body", "status", "code", "said"), REFUSED)
def test_each_refuses_in_its_own_form(
    running: RunningGateway, path: str, body: dict[str, Any], status: int, code: str, said: str
) -> None:
    reply = ask(running, path, body)
    message = reply.json["message" if path in ("/v1/embed", "/v2/embed") else "error"]
    assert (reply.status, reply.json["code"]) == (status, code)
    assert said in message
    if path in ("/v1/embed", "/v2/embed"):
        assert reply.json["id"] == reply.headers["x-request-id"]
    if "/api/" not in path and path.endswith("/embed") and "error" in reply.json:
        assert reply.json["error_type"] == "Validation"


def test_a_refusal_names_the_fields_of_its_api(running: RunningGateway) -> None:
    size = ask(running, "/v2/embed", {"model": MODEL, "texts": TEXTS, "output_dimension": 0}).json["message"]
    assert size.startswith("output_dimension is 0; ")
    assert size.endswith("Leave output_dimension out for its own size.")
    nameless = ask(running, "/api/embed", {"model": "", "input": "a"}).json["error"]
    assert nameless.endswith("see GET /api/tags.")


@pytest.mark.parametrize("path", ["/v1/embed", "/v2/embed", "/api/embed", "/embed", "/tei/fake/deterministic/embed"])
def test_who_sends_no_key_or_a_wrong_one_is_refused(running: RunningGateway, path: str) -> None:
    for headers in ({"x-other": "a"}, {"authorization": "Bearer wrong"}):
        reply = call(running.url, path, {"model": MODEL}, headers)
        assert (reply.status, reply.json["code"]) == (401, "invalid_api_key")
    assert call(running.url, "/api/tags").status == 401


def test_the_ledger_names_the_dialect(running: RunningGateway) -> None:
    key = {"x-api-key": running.key}
    for path, body, dialect in (
        ("/v2/embed", {"model": MODEL, "texts": TEXTS}, "cohere"),
        ("/api/embed", {"model": MODEL, "input": TEXTS}, "ollama"),
        (f"/tei/{MODEL}/embed", {"inputs": TEXTS}, "tei"),
        (f"/openai/deployments/{MODEL}/embeddings", {"input": TEXTS}, "azure"),
    ):
        made = ask(running, path, body)
        entries = call(running.url, "/api/me/usage/entries?limit=1", headers=key).json["items"]
        assert (entries[0]["request_id"], entries[0]["dialect"]) == (made.headers["x-request-id"], dialect)


def test_an_idempotency_key_belongs_to_the_model_of_the_path(running: RunningGateway) -> None:
    headers = {"x-api-key": running.key, "idempotency-key": "deployments"}
    path = "/openai/deployments/{}/embeddings"
    first = call(running.url, path.format(MODEL), {"input": "a"}, headers)
    again = call(running.url, path.format(MODEL), {"input": "a"}, headers)
    other = call(running.url, path.format("deterministic"), {"input": "a"}, headers)
    assert (again.body, again.headers["idempotent-replayed"]) == (first.body, "true")
    assert (other.status, other.json["error"]["code"]) == (422, "idempotency_key_reused")
