"""The description of the API is complete, and what it says is what the gateway does."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from typing import Any

import pytest
import pytest_asyncio

from chat_upstream import ChatUpstream, running_chat_upstream
from embedgate.config import Loaded, Secrets
from embedgate.core import errors
from embedgate.core.access import Rate
from embedgate.core.errors import AccessError, GatewayError, RequestError, UpstreamError
from embedgate.govern.operations import OPERATIONS
from embedgate.providers import fake
from embedgate.server.app import Application
from embedgate.server.describe.document import document
from embedgate.server.describe.errors import error_samples
from embedgate.server.describe.page import page
from embedgate.server.dialects import openai as openai_dialect
from embedgate.server.dialects import ziri as ziri_dialect
from embedgate.settings import LocalSettings, ProviderSettings, Settings, StorageSettings
from embedgate.wiring import Gateway, open_gateway
from upstream import Answer, Upstream, running_upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

FAMILIES = {RequestError, AccessError, UpstreamError}
MODEL = fake.models()[0]


@dataclass(frozen=True)
class Reply:
    """One answer of the application."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@pytest.fixture(scope="module")
def chat_host() -> Iterator[ChatUpstream]:
    with running_chat_upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def rerank_host() -> Iterator[Upstream]:
    """One that orders the two documents of the example."""
    scores = [{"index": 0, "relevance_score": 0.1}, {"index": 1, "relevance_score": 0.9}]
    body = {"results": scores, "meta": {"billed_units": {"search_units": 1}}}
    with running_upstream() as upstream:
        upstream.usually(Answer(200, json.dumps(body).encode()))
        yield upstream


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    tmp_path_factory: pytest.TempPathFactory, chat_host: ChatUpstream, rerank_host: Upstream
) -> AsyncIterator[Gateway]:
    """A whole gateway with the provider that needs no model, one that chats, and one that orders documents."""
    settings = Settings(
        storage=StorageSettings(data_dir=tmp_path_factory.mktemp("data")),
        local=LocalSettings(default_model=MODEL.id),
        providers={
            "fake": ProviderSettings(enabled=True),
            "local": ProviderSettings(enabled=False),
            "openai": ProviderSettings(base_url=chat_host.base_url),
            "cohere": ProviderSettings(base_url=rerank_host.base_url.removesuffix("/v1")),
        },
    )
    opened = await open_gateway(
        Loaded(settings, None, Secrets({"OPENAI_API_KEY": "sk-upstream", "COHERE_API_KEY": "co-upstream"}))
    )
    yield opened
    await opened.aclose()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def application(gateway: Gateway) -> Application:
    return Application(gateway)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def described(application: Application) -> dict[str, Any]:
    """The document as it is served."""
    reply = await ask(application, "GET", "/openapi.json")
    content: dict[str, Any] = json.loads(reply.body)
    return content


async def ask(
    application: Application, method: str, path: str, body: object = None, header: tuple[bytes, bytes] | None = None
) -> Reply:
    """One request. header: the one with the key."""
    sent: list[dict[str, Any]] = []

    requests = [{"type": "http.request", "body": b"" if body is None else json.dumps(body).encode()}]

    async def receive() -> dict[str, Any]:
        if not requests:
            await asyncio.Event().wait()  # the caller stays
        return requests.pop()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [header] if header else []
    path, _, query = path.partition("?")
    scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": headers}
    await application(scope, receive, send)
    start, *rest = sent
    found = {name.decode(): value.decode() for name, value in start["headers"]}
    return Reply(start["status"], found, b"".join(message["body"] for message in rest))


def operations(described: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in described["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in a JSON value."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from nodes(item)


def resolve(described: dict[str, Any], reference: str) -> Any:
    found: Any = described
    for name in reference.removeprefix("#/").split("/"):
        found = found[name]
    return found


async def test_every_route_is_described_and_nothing_else(application: Application, described: dict[str, Any]) -> None:
    routed = {(method, path) for path, (_, methods) in application.routes.items() for method in methods}
    routed |= {("GET", "/v1/models/{id}"), ("GET", "/api/v1/models/{id}")}
    routed |= {(route.method, route.path) for route in OPERATIONS}
    assert {(method, path) for method, path, _ in operations(described)} == routed


async def test_every_reference_resolves_and_every_part_is_used(described: dict[str, Any]) -> None:
    used = {node["$ref"] for node in nodes(described) if "$ref" in node}
    for reference in used:
        assert resolve(described, reference)
    offered = {
        f"#/components/{kind}/{name}" for kind in ("schemas", "headers") for name in described["components"][kind]
    }
    # `allow` comes with 405, which no operation has: it is the answer to a method that is none.
    assert offered - used == {"#/components/headers/allow"}
    names = [operation["operationId"] for _, _, operation in operations(described)]
    assert len(names) == len(set(names))


async def test_the_error_tables_hold_every_error(described: dict[str, Any]) -> None:
    known = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, GatewayError)}
    samples = {type(sample) for sample in error_samples(Settings(), MODEL)}
    # GatewayRefused is what the client makes of an answer, and CallerLeft is for the ledger: nobody is answered so.
    assert samples == known - FAMILIES - {GatewayError, errors.GatewayRefused, errors.CallerLeft}
    openai, ziri = (tag["x-embedgate-errors"] for tag in described["tags"][:2])
    assert {(row["status"], row["code"]) for row in ziri} == {(status, code) for _, status, code in ziri_dialect.TABLE}
    assert {(row["status"], row["code"]) for row in openai} == {(kind.status, kind.code) for kind in samples}


async def test_the_document_is_valid_and_its_examples_are_what_it_says(described: dict[str, Any]) -> None:
    validate = pytest.importorskip("openapi_spec_validator").validate
    validate(described)
    schemas = strict_schemas(described)
    checked = 0
    for _, _, operation in operations(described):
        bodies = [operation["requestBody"]] if "requestBody" in operation else []
        for body in (*bodies, *operation["responses"].values()):
            for media in body.get("content", {}).values():
                for example in examples(described, media):
                    check(schemas, media["schema"], example)
                    checked += 1
    assert checked > 100


def examples(described: dict[str, Any], media: dict[str, Any]) -> Iterator[Any]:
    schema = media["schema"]
    yield from (example["value"] for example in media.get("examples", {}).values())
    yield from [media["example"]] if "example" in media else []
    yield from resolve(described, schema["$ref"]).get("examples", []) if "$ref" in schema else []


def strict_schemas(described: dict[str, Any]) -> dict[str, Any]:
    """The schemas of the document, under which a field that they do not name is a mistake."""
    strict: dict[str, Any] = json.loads(json.dumps(described["components"]["schemas"]))
    for node in nodes(strict):
        if "properties" in node and node.get("type") == "object":
            node.setdefault("additionalProperties", False)
    strict["Document"] = {"type": "object"}
    return strict


def check(strict: dict[str, Any], schema: dict[str, Any], value: Any) -> None:
    """Raises if the value is not of the schema. strict: the schemas that it refers to."""
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator({**schema, "components": {"schemas": strict}}).validate(value)


async def test_where_a_caller_stands_is_told_as_described(described: dict[str, Any]) -> None:
    rate = Rate(60, 59, 0.9874, 100_000, 0, 59.99951)
    for dialect in (openai_dialect, ziri_dialect):
        told = {name.decode(): value.decode() for name, value in dialect.headers(f"req_{0:032x}", rate)}
        del told["content-type"]
        for name, value in told.items():
            assert re.search(described["components"]["headers"][name]["schema"]["pattern"], value), (name, value)


async def test_real_answers_are_as_described(
    application: Application, gateway: Gateway, described: dict[str, Any]
) -> None:
    assert gateway.first_keys
    key = (b"x-api-key", gateway.first_keys.user_key.encode())
    made = await ask(application, "POST", "/v1/embeddings", {"model": MODEL.id, "input": "a"}, key)
    served: dict[str, set[int]] = {}
    bodies = []
    for method, path, operation in operations(described):
        if operation["tags"] == ["Administration"]:  # in test_admin_description
            continue
        target = f"{path}?id={made.headers['x-request-id']}" if path.endswith("/generation") else path
        for body, header in attempts(described, operation, gateway.first_keys.user_key):
            reply = await ask(application, method, target.replace("{id}", example_id(operation)), body, header)
            bodies += compare(described, operation, reply)
            served.setdefault(path, set()).add(reply.status)
    # No provider that is on here orders documents.
    assert all(200 in statuses for path, statuses in served.items() if not path.endswith("/rerank"))
    schemas = strict_schemas(described)
    for schema, answer in bodies:
        check(schemas, schema, answer)


def example_id(operation: dict[str, Any]) -> str:
    """The model of the example, where the path names one."""
    named = [parameter["example"] for parameter in operation.get("parameters", []) if parameter["in"] == "path"]
    return str(*named)


def attempts(described: dict[str, Any], operation: dict[str, Any], key: str) -> Iterator[tuple[Any, Any]]:
    """Bodies and key headers: the example of the document, what is nearly right, and keys that are not."""
    right = None
    if "requestBody" in operation:
        right = next(examples(described, operation["requestBody"]["content"]["application/json"]))
    headers = [key_header(operation, text) for text in (key, "no key", f"eg_{'0' * 12}4{'0' * 3}8{'0' * 15}")]
    yield right, headers[0]
    if operation["security"]:
        yield from [(right, None), (right, headers[1]), (right, headers[2])]
    changes: list[dict[str, Any]] = [
        {"encoding_format": "base64"},
        {"dimensions": "8"},
        {"input": []},
        {"stream": True},
        {"messages": []},
        {"model": "no"},
        {"model": None},
    ]
    yield from [({**right, **change}, headers[0]) for change in changes] if right else []


def key_header(operation: dict[str, Any], key: str) -> tuple[bytes, bytes]:
    is_bearer = any("bearer" in way for way in operation["security"])
    return (b"authorization", f"Bearer {key}".encode()) if is_bearer else (b"x-api-key", key.encode())


def compare(described: dict[str, Any], operation: dict[str, Any], reply: Reply) -> list[tuple[Any, Any]]:
    """The status and the headers are described, and what must be there is. Returns schema and body, if it is JSON."""
    response = operation["responses"][str(reply.status)]
    kind = reply.headers["content-type"].partition(";")[0]
    headers = {name: resolve(described, header["$ref"]) for name, header in response["headers"].items()}
    assert set(reply.headers) - {"content-type", "content-length"} <= set(headers)
    assert {name for name, header in headers.items() if header["required"]} <= set(reply.headers)
    for name in headers.keys() & reply.headers.keys():
        assert re.search(headers[name]["schema"]["pattern"], reply.headers[name]), name
    schema = response["content"][kind]["schema"]
    if kind != "application/json":
        return []
    answer = json.loads(reply.body)
    assert all(name in answer for name in resolve(described, schema["$ref"]).get("required", ()))
    return [(schema, answer)]


FACTORS = ("latency", "price", "throughput", "weight")
ACCEPTED: list[dict[str, Any]] = [
    {"input": "a"},
    {"input": ["a", "b"]},
    {"input": [1, 2]},
    {"input": [[1], [2, 3]]},
    {"input": ["a"] * 2048},
    {"dimensions": 8, "encoding_format": "base64", "user": "u"},
    *({"encoding_format": name} for name in ("int8", "uint8", "binary", "ubinary")),
    {"dimensions": None, "encoding_format": None, "input_type": None, "truncate": None, "user": None},
    {"input_type": "query", "truncate": "none", "allow_space_change": True},
    {"cache": "no-store"},
    {"cache": None},
    {"provider": {"routing": {"type": "order", "providers": ["fake"]}, "fallback": None}},
    *({"provider": {"routing": {"type": "priority", "primary_factor": name}}} for name in FACTORS),
    {"provider": {"routing": {"type": "priority"}}},
]
REFUSED: list[dict[str, Any]] = [
    {"model": None},
    {"model": 5},
    {"input": None},
    {"input": []},
    {"input": ""},
    {"input": ["a", ""]},
    {"input": [[1], []]},
    {"input": ["a", 1]},
    {"input": [-1]},
    {"input": ["a"] * 2049},
    {"dimensions": 0},
    {"dimensions": "8"},
    {"encoding_format": "hex"},
    {"input_type": "title"},
    {"truncate": "middle"},
    {"cache": "no-cache"},
    {"user": 5},
    {"allow_space_change": "yes"},
    {"provider": "fake"},
    {"provider": {"only": ["fake"]}},
    {"provider": {"routing": {"type": "order"}}},
    {"provider": {"routing": {"type": "order", "providers": []}}},
    {"provider": {"routing": {"type": "priority", "primary_factor": "list"}}},
    {"provider": {"routing": {"providers": ["fake"]}}},
]


CHATS_ACCEPTED: list[dict[str, Any]] = [
    {},
    {"stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}},
    {"stream": None, "stream_options": None, "n": None, "user": None, "cache": None, "provider": None},
    {"max_tokens": 5, "max_completion_tokens": 10_000_000, "n": 128, "user": "u", "temperature": 0.5, "tools": []},
    {"cache": "no-store", "allow_space_change": False},
    {"provider": {"routing": {"type": "order", "providers": ["openai"]}, "fallback": "openai/gpt-5"}},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}], "name": "n"}, {"role": "tool"}]},
]
CHATS_REFUSED: list[dict[str, Any]] = [
    {"model": None},
    {"model": ""},
    {"messages": None},
    {"messages": []},
    {"messages": "Hello"},
    {"messages": [{"content": "x"}]},
    {"messages": [{"role": 1}]},
    {"stream": "yes"},
    {"stream_options": True},
    {"stream_options": {"include_usage": 1}},
    {"max_tokens": 0},
    {"max_completion_tokens": 10_000_001},
    {"n": 129},
    {"user": 5},
    {"cache": "no-cache"},
    {"allow_space_change": "yes"},
    {"provider": "openai"},
]
TWO = ["a", "b"]
RANKINGS_ACCEPTED: list[dict[str, Any]] = [
    {},
    {"top_n": 1, "return_documents": True, "user": "u"},
    {"top_n": 3, "parameters": {"top_n": 2, "return_documents": None}},
    {"top_n": None, "return_documents": None, "user": None, "provider": None, "parameters": None, "input": None},
    {"documents": ["a", {"text": "b"}]},
    {"documents": ["a", {"text": "b", "title": "c"}]},
    {"parameters": {"top_k": 1}, "normalize": True},
    {"top_k": 2, "max_tokens_per_doc": 100},
    {"query": None, "documents": None, "input": {"query": "q", "documents": TWO}},
    {"provider": {"routing": {"type": "order", "providers": ["cohere"]}, "fallback": "cohere/rerank-v3.5"}},
]
RANKINGS_REFUSED: list[dict[str, Any]] = [
    {"model": None},
    {"query": None},
    {"query": ""},
    {"query": ["q"]},
    {"documents": None},
    {"documents": []},
    {"documents": "a"},
    {"documents": ["a", ""]},
    {"documents": ["a", None]},
    {"documents": ["a", {"text": ""}]},
    {"documents": ["a", {"title": "b"}]},
    {"documents": ["a"] * 1001},
    {"input": {"query": "q", "documents": TWO}},
    {"query": None, "documents": None, "input": {"query": "q"}},
    {"query": None, "documents": None, "input": "q"},
    {"query": None, "documents": None, "input": {"query": "q", "documents": TWO, "top_n": 1}},
    {"top_n": 0},
    {"top_n": "1"},
    {"parameters": {"yy": 1}},
    {"top_k": 0},
    {"normalize": 1},
    {"max_tokens_per_doc": 0},
    {"return_documents": 1},
    {"user": 5},
    {"max_chunks_per_doc": 1},
]
RANKING = {"model": "cohere/rerank-v4.0-fast", "query": "q", "documents": TWO}
CHAT = {"model": "openai/gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.mark.parametrize(
    ("path", "name", "right", "accepted", "refused"),
    [
        ("/v1/embeddings", "EmbeddingsRequest", {"model": MODEL.id, "input": "a"}, ACCEPTED, REFUSED),
        ("/v1/chat/completions", "ChatRequest", CHAT, CHATS_ACCEPTED, CHATS_REFUSED),
        ("/v1/rerank", "RerankRequest", RANKING, RANKINGS_ACCEPTED, RANKINGS_REFUSED),
    ],
)
async def test_the_gateway_and_the_schema_of_requests_agree(
    application: Application,
    gateway: Gateway,
    described: dict[str, Any],
    path: str,
    name: str,
    right: dict[str, Any],
    accepted: list[dict[str, Any]],
    refused: list[dict[str, Any]],
) -> None:
    assert gateway.first_keys
    header = (b"x-api-key", gateway.first_keys.user_key.encode())
    bodies = [(right | change, True) for change in accepted] + [(right | change, False) for change in refused]
    for body, is_right in bodies:
        status = (await ask(application, "POST", path, body, header)).status
        assert status == 200 if is_right else status in (400, 404), str(body)[:200]
    jsonschema = pytest.importorskip("jsonschema")
    schema = {"$ref": f"#/components/schemas/{name}", "components": described["components"]}
    validator = jsonschema.Draft202012Validator(schema)
    for body, is_right in bodies:
        assert validator.is_valid(body) == is_right, str(body)[:200]


class Outline(HTMLParser):
    """What a reader's software makes of a page."""

    VOID = frozenset({"meta", "wbr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.headings: list[int] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.add(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.targets += [value for name, value in attrs if name in ("href", "src", "action") and value]
        self.targets += [f"#{value}" for name, value in attrs if name == "aria-labelledby" and value]
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        assert not [name for name in found if name.startswith("on")]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


async def test_the_page_needs_nothing_but_itself(application: Application, described: dict[str, Any]) -> None:
    reply = await ask(application, "GET", "/docs")
    assert reply.headers["content-security-policy"] == "default-src 'none'; style-src 'unsafe-inline'"
    outline = Outline(reply.body.decode())
    assert outline.tags.isdisjoint({"script", "img", "link", "iframe", "object", "form"})
    assert len(outline.ids) == len(set(outline.ids))
    assert set(outline.targets) - {f"#{name}" for name in outline.ids} == {"openapi.json"}
    assert {"header", "nav", "main"} <= outline.tags
    assert outline.headings[0] == 1
    assert all(after - before <= 1 for before, after in zip(outline.headings, outline.headings[1:], strict=False))
    shown = {operation["operationId"] for _, _, operation in operations(described) if not is_alias(operation)}
    assert shown <= set(outline.ids)
    assert (await ask(application, "GET", "/")).body == reply.body


def is_alias(operation: dict[str, Any]) -> bool:
    return "x-embedgate-alias-of" in operation


async def test_nothing_that_the_document_says_becomes_markup() -> None:
    hostile = "x/<img/src=\"x\"onerror='y'>&amp;`<b>`"
    text = page(json.dumps(document(Settings(), replace(MODEL, id=hostile))).encode(), 3100).decode()
    outline = Outline(text)
    assert outline.tags.isdisjoint({"img", "b"})
    assert "&amp;amp;" in text
