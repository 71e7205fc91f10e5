"""Names of models in answers: which are those of the model that was asked, and which are of another one."""

from dataclasses import replace

import numpy as np
import pytest

from embedgate.catalog import Catalog
from embedgate.core.errors import UpstreamGarbled
from embedgate.core.models import Model, Route
from embedgate.core.types import Batch, ProviderReply
from embedgate.engine.embedding.ask import checked
from embedgate.providers import hosts

CATALOG = Catalog.builtin()
TABLE = hosts.load()


def space_of(provider: str, name: str) -> str | None:
    found = CATALOG.at_provider(provider, name) or CATALOG.find(name)
    return found.space if found else None


def route_of(model_id: str, provider: str) -> tuple[Model, Route]:
    model = CATALOG.by_id(model_id)
    assert model is not None
    at = "vllm" if provider == "llamacpp" else provider  # which the catalogue has no route for
    route = next(route for route in model.routes if route.provider == at)
    return model, TABLE[provider].adapt(replace(route, provider=provider))


def check(model: Model, route: Route, name: str | None) -> None:
    dim = route.dims.default
    vectors = np.full((1, dim), dim**-0.5, dtype=np.float32)
    checked(ProviderReply(vectors, 1, name), Batch(("text",), dim), model, route, space_of)


@pytest.mark.parametrize(
    ("model_id", "provider", "name"),
    [
        ("openai/text-embedding-3-small", "openai", "text-embedding-3-small"),
        ("openai/text-embedding-3-small", "openai", "openai/text-embedding-3-small"),
        ("openai/text-embedding-3-small", "azure", "Text-Embedding-3-Small"),
        ("openai/text-embedding-3-small", "openai", "text-embedding-3-small-2024-01-25"),
        ("openai/text-embedding-ada-002", "openai", "text-embedding-ada-002-v2"),
        ("openai/text-embedding-ada-002", "azure", "ada"),
        ("mistral/codestral-embed", "mistral", "codestral-embed-2505"),
        ("nomic-ai/nomic-embed-text-v1.5", "fireworks", "accounts/fireworks/models/nomic-embed-text-v1.5"),
        ("nomic-ai/nomic-embed-text-v1.5", "ollama", "nomic-embed-text:latest"),
        ("BAAI/bge-large-en-v1.5", "databricks", "bge-large-en-v1.5"),
        ("BAAI/bge-m3", "vllm", "/models/bge-m3"),
        ("BAAI/bge-m3", "venice", "BAAI/bge-m3"),
        ("BAAI/bge-m3", "llamacpp", "/srv/anything.gguf"),
        ("BAAI/bge-m3", "vllm", None),
        ("BAAI/bge-m3", "vllm", ""),
    ],
)
def test_the_model_that_was_asked_is_known_by_the_names_that_hosts_have_for_it(
    model_id: str, provider: str, name: str | None
) -> None:
    check(*route_of(model_id, provider), name)


@pytest.mark.parametrize(
    ("model_id", "provider", "name"),
    [
        ("openai/text-embedding-3-small", "openai", "text-embedding-3-small-v2"),
        ("openai/text-embedding-3-small", "openai", "text-embedding-3-large"),
        ("openai/text-embedding-3-small", "openai", "bge-m3"),
        ("openai/text-embedding-3-small", "azure", "text-embedding-3"),
        ("openai/text-embedding-3-small", "openai", "text-embedding-3-small "),
        ("openai/text-embedding-3-small", "openai", "text-embedding-3-small/"),
        ("openai/text-embedding-3-small", "openai", "x" * 1_000_000),
        ("voyage/voyage-4-large", "voyage", "voyage-4-lite"),  # of one space, and yet another model
        ("nomic-ai/nomic-embed-text-v1.5", "ollama", "nomic-embed-text:v2"),
        ("BAAI/bge-m3", "vllm", "BAAI/bge-m3-retromae"),
        ("BAAI/bge-m3", "vllm", "something unheard of"),
        ("BAAI/bge-m3", "llamacpp", "text-embedding-3-small"),  # names freely, but not so freely
    ],
)
def test_any_other_name_is_a_wrong_answer(model_id: str, provider: str, name: str) -> None:
    with pytest.raises(UpstreamGarbled, match="another model") as caught:
        check(*route_of(model_id, provider), name)
    assert len(caught.value.message) < 1_000


def test_aliases_and_freedom_of_a_route_are_taken() -> None:
    model, route = route_of("BAAI/bge-m3", "vllm")
    check(model, replace(route, aliases=("Embedder",)), "served/embedder")
    check(model, replace(route, names_freely=True), "whatever")


def test_hosts_that_name_freely_are_few() -> None:
    assert {name for name, host in TABLE.items() if host.names_freely} == {"llamacpp"}
