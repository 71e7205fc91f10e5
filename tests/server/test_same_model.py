"""What the cache takes for the same model: a change of what makes its vectors leaves all that was kept behind."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from admin_calls import Api
from embedgate.config import Loaded, Secrets
from embedgate.core.vectors import Vectors
from embedgate.providers import fake
from embedgate.server.app import Application
from embedgate.settings import CatalogSettings, ProviderSettings, Settings, StorageSettings
from embedgate.wiring import open_gateway
from empty_database import write_empty_database
from upstream import Answer, AnswerTo, Seen, Upstream, running_upstream
from waiting import until

MODEL = "openai/text-embedding-3-small"
DIM = 1536
TEXTS = ["one", "two", "three", "four"]


def other(item: str | tuple[int, ...], dim: int) -> Vectors:
    """The vector of a text in another space."""
    return fake.vector(f"{item} elsewhere", dim)


@pytest.fixture(scope="module")
def old_host() -> Iterator[Upstream]:
    with running_upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def new_host() -> Iterator[Upstream]:
    with running_upstream() as upstream:
        yield upstream


@pytest.fixture(autouse=True)
def reset(old_host: Upstream, new_host: Upstream) -> None:
    old_host.reset()
    new_host.reset()
    new_host.vector_of = other


async def put(api: Api, name: str, host: Upstream, **fields: object) -> None:
    body = {"base_url": host.base_url, "key": "sk-far-side-0123456789", "allow_private": True, **fields}
    await api("PUT", f"/api/providers/{name}", body)


async def embed(api: Api, texts: list[str], model: str = MODEL) -> Vectors:
    answer = await api("POST", "/v1/embeddings", {"model": model, "input": texts, "encoding_format": "float"})
    return np.array([item["embedding"] for item in answer["data"]], np.float32)


def is_of(vectors: Vectors, texts: list[str], of: Any) -> bool:
    return bool(np.allclose(vectors, np.stack([of(text, vectors.shape[1]) for text in texts]), atol=1e-5))


async def test_a_provider_that_moved_is_asked_for_every_text_anew(
    api: Api, user_api: Api, old_host: Upstream, new_host: Upstream
) -> None:
    await put(api, "openai", old_host)
    assert is_of(await embed(user_api, TEXTS[:2]), TEXTS[:2], fake.vector)
    await put(api, "openai", new_host)
    assert is_of(await embed(user_api, TEXTS), TEXTS, other)
    assert new_host.requests[0].json["input"] == TEXTS


async def test_a_request_in_flight_across_the_change_leaves_nothing_behind(
    api: Api, user_api: Api, old_host: Upstream, new_host: Upstream
) -> None:
    gate = threading.Event()
    await put(api, "openai", old_host, batching=True)
    old_host.usually(Answer(gate=gate))
    try:
        begun = asyncio.create_task(embed(user_api, TEXTS[:2]))
        await until(lambda: bool(old_host.requests))
        await put(api, "openai", new_host, batching=True)
        assert is_of(await embed(user_api, TEXTS), TEXTS, other)  # joins no flight, and no batch
    finally:
        gate.set()
    assert is_of(await begun, TEXTS[:2], fake.vector)  # all of it of the space that it began with
    assert is_of(await embed(user_api, TEXTS), TEXTS, other)
    assert len(new_host.requests) == 1


async def test_servers_that_are_declared_to_have_one_model_share_its_vectors(
    api: Api, user_api: Api, old_host: Upstream, new_host: Upstream
) -> None:
    await put(api, "openai", old_host)
    await put(api, "azure", new_host)
    await embed(user_api, TEXTS)
    await api("POST", "/api/providers/openai/disable")
    assert is_of(await embed(user_api, TEXTS), TEXTS, fake.vector)
    assert not new_host.requests


async def test_switching_off_and_on_and_new_prices_keep_what_is_cached(
    api: Api, user_api: Api, old_host: Upstream
) -> None:
    await put(api, "openai", old_host)
    await embed(user_api, TEXTS)
    await api("POST", "/api/providers/openai/disable")
    await api("POST", "/api/providers/openai/enable")
    await put(api, "openai", old_host, max_parallel=3)
    await api("POST", "/api/prices", {"model": MODEL, "provider": "openai", "usd_per_million_tokens": "1"})
    await embed(user_api, TEXTS)
    assert len(old_host.requests) == 1


async def test_the_vectors_of_one_model_are_cleared_and_no_others(api: Api, user_api: Api, old_host: Upstream) -> None:
    await put(api, "openai", old_host)
    for model in (MODEL, "openai/text-embedding-3-large"):
        await embed(user_api, TEXTS, model)
    assert await api("DELETE", "/api/cache?model=text-embedding-3-small", status=204) is None
    for model in (MODEL, "openai/text-embedding-3-large"):
        await embed(user_api, TEXTS, model)
    asked = [request.json["model"] for request in old_host.requests]
    assert asked == ["text-embedding-3-small", "text-embedding-3-large", "text-embedding-3-small"]
    event = (await api("GET", "/api/audit?kind=change&limit=1&sort=-seq"))["items"][0]
    assert (event["action"], event["target"]) == ("cache.clear", MODEL)
    refused = await api("DELETE", "/api/cache?model=no-such", status=400)
    assert refused["code"] == "MODEL_NOT_SUPPORTED"


async def test_an_answer_that_names_another_model_is_paid_for_and_neither_returned_nor_cached(
    api: Api, user_api: Api, old_host: Upstream
) -> None:
    await put(api, "openai", old_host)
    body = {"model": MODEL, "input": TEXTS}
    for name in ("bge-m3", "text-embedding-3-small-v2", "text-embedding-3-large"):
        old_host.usually(named(old_host, name))
        refused = await user_api("POST", "/v1/embeddings", body, status=502)
        assert refused["error"]["code"] == "upstream_error"
    entries = (await api("GET", "/api/usage/entries"))["items"]
    assert len(entries) == 3
    assert all(entry["tokens"] > 0 and entry["cost_usd"] != "0" for entry in entries)
    old_host.usually(named(old_host, "text-embedding-3-small-2024-01-25"))
    n_asked = len(old_host.requests)
    assert is_of(await embed(user_api, TEXTS), TEXTS, fake.vector)
    assert len(old_host.requests) == n_asked + 1


ENCODER = {
    "model": "acme/encoder", "provider": "acme", "dim": 64, "max_tokens": 512, "usd_per_million_tokens": "1"
}  # fmt: skip
NEW_SPACE: list[dict[str, object]] = [
    {"upstream_model": "encoder-2"},
    {"document_prefix": "passage: "},
    {"query_prefix": "query: "},
    {"is_normalised": False},
    {"space": "acme/another"},
]
SAME_SPACE: list[dict[str, object]] = [{"max_tokens": 256}, {"usd_per_million_tokens": "2"}]


@pytest.mark.parametrize("change", [*NEW_SPACE, *SAME_SPACE], ids=lambda change: next(iter(change)))
async def test_a_model_that_is_added_again_otherwise_begins_a_new_revision(
    api: Api, user_api: Api, old_host: Upstream, change: dict[str, object]
) -> None:
    old_host.dim = 64
    await put(api, "acme", old_host)
    await api("POST", "/api/models", ENCODER)
    await embed(user_api, TEXTS, "acme/encoder")
    await api("POST", "/api/models", {**ENCODER, **change})
    await embed(user_api, TEXTS, "acme/encoder")
    assert len(old_host.requests) == 1 + (change in NEW_SPACE)


@pytest.mark.parametrize("change", [{"precision": "f16"}, {"host": "vllm"}], ids=lambda change: next(iter(change)))
async def test_a_provider_that_is_set_otherwise_begins_a_new_revision(
    api: Api, user_api: Api, old_host: Upstream, change: dict[str, object]
) -> None:
    old_host.dim = 64
    body = {"base_url": old_host.base_url, "key": "sk-far-side-0123456789", "allow_private": True}
    await api("PUT", "/api/providers/acme", body)
    await api("POST", "/api/models", ENCODER)
    await embed(user_api, TEXTS, "acme/encoder")
    await api("PUT", "/api/providers/acme", {**body, **change})
    await embed(user_api, TEXTS, "acme/encoder")
    assert len(old_host.requests) == 2


@pytest.mark.parametrize("change", ["moved", "renamed", "prefixed", "removed", "off", "priced"])
async def test_a_request_of_several_calls_keeps_model_and_price_whatever_is_changed_between_them(
    api: Api, user_api: Api, old_host: Upstream, new_host: Upstream, change: str
) -> None:
    old_host.dim = new_host.dim = 64
    gate = threading.Event()
    texts = [f"text {number}" for number in range(100)]
    body = {"base_url": old_host.base_url, "key": "sk-far-side-0123456789", "allow_private": True}
    body |= {"host": "nvidia", "max_parallel": 1}  # fifty texts a call
    await api("PUT", "/api/providers/acme", body)
    await api("POST", "/api/models", ENCODER)
    old_host.usually(Answer(gate=gate))
    try:
        begun = asyncio.create_task(embed(user_api, texts, "acme/encoder"))
        await until(lambda: bool(old_host.requests))
        match change:
            case "moved":
                await api("PUT", "/api/providers/acme", {**body, "base_url": new_host.base_url})
            case "renamed":
                await api("POST", "/api/models", {**ENCODER, "upstream_model": "encoder-2"})
            case "prefixed":
                await api("POST", "/api/models", {**ENCODER, "document_prefix": "passage: "})
            case "removed":
                await api("DELETE", "/api/models/acme%2Fencoder", status=204)
                await api("DELETE", "/api/providers/acme", status=204)
            case "off":
                await api("POST", "/api/providers/acme/disable")
            case _:
                await api("POST", "/api/models", {**ENCODER, "usd_per_million_tokens": "50"})
    finally:
        gate.set()
    assert is_of(await begun, texts, fake.vector)
    assert [len(request.json["input"]) for request in old_host.requests] == [50, 50]
    assert {request.json["model"] for request in old_host.requests} == {"acme/encoder"}
    assert not new_host.requests
    (entry,) = (await api("GET", "/api/usage/entries"))["items"]
    assert (entry["provider"], entry["model"]) == ("acme", "acme/encoder")
    assert float(entry["cost_usd"]) == pytest.approx(entry["tokens"] / 1_000_000)  # the price when it was let in


def named(host: Upstream, name: str) -> AnswerTo:
    """Honest answers, but for the name of the model."""

    def answer(seen: Seen) -> Answer:
        _, body = host._response(seen, Answer())
        return Answer(body=msgspec.json.encode({**msgspec.json.decode(body), "model": name}))

    return answer


CUSTOM = """
[[model]]
id = "acme/m"
dims = {{ default = 64 }}
normalised = true
max_input_tokens = 512
[[model.route]]
provider = "{provider}"
upstream_model = "{upstream_model}"
{more}
"""


@pytest.mark.parametrize(
    "change",
    [
        {"upstream_model": "m-2"},
        {"more": 'document_prefix = "passage: "'},
        {"more": "required_params = { normalize = true }"},
        {"base_url": "http://127.0.0.1:{port}/other"},
        {"precision": "fp8"},
        {"revision": "2026-11"},
    ],
    ids=lambda change: next(iter(change.items()))[0] + " " + next(iter(change.values()))[:12],
)
async def test_whatever_makes_the_vectors_begins_a_new_revision_at_the_next_start(
    tmp_path: Path, old_host: Upstream, change: dict[str, str]
) -> None:
    """And what is changed back finds again what was kept."""
    old_host.dim = 64
    write_empty_database(tmp_path)
    for n, changed in enumerate(({}, change, {})):
        facts = {"provider": "acme", "upstream_model": "m-1", "more": ""} | changed
        (tmp_path / "catalog.toml").write_text(CUSTOM.format(**facts), encoding="utf-8")
        entry = ProviderSettings(
            base_url=facts.get("base_url", old_host.base_url).format(port=old_host.port),
            api_key_env="ACME_KEY",
            precision=facts.get("precision"),
            revision=facts.get("revision"),
        )
        settings = Settings(
            storage=StorageSettings(data_dir=tmp_path),
            catalog=CatalogSettings(file=tmp_path / "catalog.toml"),
            providers={"acme": entry, "local": ProviderSettings(enabled=False)},
        )
        gateway = await open_gateway(Loaded(settings, None, Secrets({"ACME_KEY": "k"})), is_server=True)
        try:
            user_api = Api(Application(gateway), (tmp_path / "user.key").read_text().strip())
            await embed(user_api, TEXTS, "acme/m")
        finally:
            await gateway.aclose()
        assert len(old_host.requests) == min(n, 1) + 1
