"""The catalogue: the facts that come with the package, how names are found, and files of the operator."""

from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from embedgate.catalog import Catalog
from embedgate.core.errors import ConfigError
from embedgate.core.models import Model, Route

HOSTED_EMBEDDING_ENTRIES = 155
"""Pairs of host and embedding model that were compiled; servers of one's own count once, TEI and vLLM together."""


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.builtin()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "models.toml"


def route_of(model: Model | None, provider: str) -> Route:
    assert model is not None
    (route,) = [route for route in model.routes if route.provider == provider]
    return route


def found(catalog: Catalog, name: str) -> Model:
    model = catalog.find(name)
    assert model is not None
    return model


def test_every_compiled_entry_is_a_route(catalog: Catalog) -> None:
    embedding_routes = [route.provider for model in catalog.embedding_models() for route in model.routes]
    assert embedding_routes.count("vllm") == embedding_routes.count("tei") == 27
    assert len(embedding_routes) - embedding_routes.count("vllm") == HOSTED_EMBEDDING_ENTRIES
    assert len(catalog.embedding_models()) == 77
    assert Counter(model.action for model in catalog.models()) == {"embedding": 77, "chat": 31, "rerank": 18}
    assert len(catalog.providers()) == 34


def test_every_route_is_found_by_each_of_its_names(catalog: Catalog) -> None:
    for model in catalog.models():
        assert catalog.find(model.id) is model
        assert catalog.find(model.name) is model
        assert ":" not in model.id
        for route in model.routes:
            for name in (route.upstream_model, model.id, model.name):
                assert catalog.at_provider(route.provider, name) is model


@pytest.mark.parametrize(
    ("provider", "upstream_model", "model_id", "max_input_tokens", "per_token", "per_search"),
    [
        ("cohere", "rerank-v4.0-pro", "cohere/rerank-v4.0-pro", 32_768, 0, 2_500_000_000),
        ("cohere", "rerank-v3.5", "cohere/rerank-v3.5", 4096, 0, 2_000_000_000),
        ("voyage", "rerank-2.5-lite", "voyage/rerank-2.5-lite", 32_000, 20_000, None),
        ("tei", "BAAI/bge-reranker-v2-m3", "BAAI/bge-reranker-v2-m3", 8192, 0, None),
    ],
)
def test_models_that_order_documents_are_priced_by_the_token_or_by_the_search(
    catalog: Catalog,
    provider: str,
    upstream_model: str,
    model_id: str,
    max_input_tokens: int,
    per_token: int,
    per_search: int | None,
) -> None:
    model = catalog.at_provider(provider, upstream_model)
    assert model is catalog.find(model_id)
    assert model is not None
    assert (model.action, model.space, model.dims, model.max_input_tokens) == ("rerank", None, None, max_input_tokens)
    price = route_of(model, provider).price
    assert price is not None
    assert (price.picodollars_per_token, price.picodollars_per_search) == (per_token, per_search)


def test_a_price_by_the_search_can_be_put_over_ours(file: Path) -> None:
    file.write_text(
        """
        [[model]]
        id = "cohere/rerank-v3.5"
        [[model.route]]
        provider = "cohere"
        usd_per_thousand_searches = "1.5"
        """
    )
    price = route_of(Catalog.load(file).find("cohere/rerank-v3.5"), "cohere").price
    assert price is not None
    assert price.picodollars_per_search == 1_500_000_000
    file.write_text(file.read_text().replace("1.5", "0.0000000001"))
    with pytest.raises(ConfigError, match="dollars per thousand searches is finer than 0.000000001"):
        Catalog.load(file)


@pytest.mark.parametrize(
    ("provider", "upstream_model", "model_id", "dim", "max_input_tokens", "picodollars"),
    [
        ("openai", "text-embedding-3-small", "openai/text-embedding-3-small", 1536, 8192, 20_000),
        ("azure", "text-embedding-3-large", "openai/text-embedding-3-large", 3072, 8192, 130_000),
        ("openrouter", "openai/text-embedding-ada-002", "openai/text-embedding-ada-002", 1536, 8192, 100_000),
        ("vertex", "gemini-embedding-001", "google/gemini-embedding-001", 3072, 2048, 150_000),
        ("bedrock", "cohere.embed-v4:0", "cohere/embed-v4.0", 1536, 128_000, 120_000),
        ("openrouter", "cohere/embed-5-fast", "cohere/embed-v5.0-fast", 2048, 128_000, 80_000),
        ("bedrock", "amazon.titan-embed-text-v2:0", "amazon/titan-embed-text-v2", 1024, 8192, 20_000),
        ("mistral", "mistral-embed", "mistral/mistral-embed", 1024, 8192, 100_000),
        ("voyage", "voyage-4-large", "voyage/voyage-4-large", 1024, 32_000, 120_000),
        ("cloudflare", "@cf/baai/bge-m3", "BAAI/bge-m3", 1024, 8192, 11_800),
        ("deepinfra", "Qwen/Qwen3-Embedding-0.6B", "Qwen/Qwen3-Embedding-0.6B", 1024, 8192, 2_000),
        ("openrouter", "perplexity/pplx-embed-v1-0.6b", "perplexity/pplx-embed-v1-0.6b", 1024, 32_000, 4_000),
        ("ollama", "nomic-embed-text", "nomic-ai/nomic-embed-text-v1.5", 768, 2048, 0),
        ("tei", "intfloat/multilingual-e5-large", "intfloat/multilingual-e5-large", 1024, 512, 0),
    ],
)
def test_well_known_facts(
    catalog: Catalog,
    provider: str,
    upstream_model: str,
    model_id: str,
    dim: int,
    max_input_tokens: int,
    picodollars: int,
) -> None:
    model = catalog.at_provider(provider, upstream_model)
    route = route_of(model, provider)
    assert model is catalog.find(model_id)
    assert (route.dims.default, route.max_input_tokens) == (dim, max_input_tokens)
    assert route.price is not None
    assert route.price.picodollars_per_token == picodollars


def test_a_price_that_nobody_has_seen_is_absent_and_not_zero(catalog: Catalog) -> None:
    assert route_of(catalog.find("voyage/voyage-code-4"), "voyage").price is None
    assert route_of(catalog.find("BAAI/bge-m3"), "huggingface").price is None


def test_wire_names_are_those_of_the_host(catalog: Catalog) -> None:
    gemini = route_of(catalog.find("google/gemini-embedding-001"), "gemini")
    assert (gemini.dim_field, gemini.input_type_field) == ("outputDimensionality", "taskType")
    assert (gemini.query_input_type, gemini.document_input_type) == ("RETRIEVAL_QUERY", "RETRIEVAL_DOCUMENT")
    e5 = route_of(catalog.find("intfloat/multilingual-e5-large"), "deepinfra")
    assert (e5.query_prefix, e5.document_prefix, e5.input_types) == ("query: ", "passage: ", ())
    assert route_of(catalog.find("BAAI/bge-small-en-v1.5"), "cloudflare").required_params == (("pooling", "cls"),)
    assert route_of(catalog.find("cohere/embed-v4.0"), "cohere").truncates_silently


def test_a_route_that_takes_no_size_has_its_native_one_only(catalog: Catalog) -> None:
    qwen = found(catalog, "Qwen/Qwen3-Embedding-8B")
    assert qwen.dims is not None
    assert 64 in qwen.dims
    assert 64 in route_of(qwen, "deepinfra").dims
    assert route_of(qwen, "vllm").dims.describe() == "4096"


def test_routes_of_one_model_agree_on_the_native_size(catalog: Catalog) -> None:
    for model in catalog.embedding_models():
        assert model.dims is not None
        assert {route.dims.default for route in model.routes} == {model.dims.default}, model.id
        assert len({route.provider for route in model.routes}) == len(model.routes), model.id


def test_models_of_one_space_have_a_size_in_common(catalog: Catalog) -> None:
    spaces: dict[str | None, list[Model]] = defaultdict(list)
    for model in catalog.embedding_models():
        spaces[model.space].append(model)
    shared = {space: models for space, models in spaces.items() if len(models) > 1}
    assert {space: len(models) for space, models in shared.items()} == {"voyage/4": 4, "cohere/embed-v5": 2}
    for models in shared.values():
        sizes = {model.dims.default for model in models if model.dims}
        assert len(sizes) == 1 or all(model.is_matryoshka for model in models)
        assert all(model.dims and min(sizes) in model.dims for model in models)


def test_own_servers_are_tried_first_and_quantised_builds_last(catalog: Catalog) -> None:
    providers = [route.provider for route in found(catalog, "nomic-ai/nomic-embed-text-v1.5").routes]
    assert providers == ["tei", "vllm", "nomic", "fireworks", "ollama"]


def test_chat_models_are_known_and_priced(catalog: Catalog) -> None:
    model = catalog.at_provider("openai", "gpt-4o")
    assert model is catalog.find("openai/gpt-4o")
    assert model is not None
    assert (model.action, model.space, model.dims, model.max_output_tokens) == ("chat", None, None, 16_384)
    price = route_of(model, "openai").price
    assert price is not None
    assert price.picodollars_per_token == 2_500_000
    assert price.cached_input_picodollars_per_token == 1_250_000
    assert price.output_picodollars_per_token == 10_000_000
    assert model not in catalog.embedding_models()


def test_names_are_found_by_id_then_bare_then_regardless_of_case(catalog: Catalog) -> None:
    local = replace(found(catalog, "sentence-transformers/all-MiniLM-L6-v2"), id="local/all-minilm-l6-v2")
    grown = catalog.with_models([local])
    assert grown.find("all-minilm-l6-v2") is local
    assert found(grown, "all-MiniLM-L6-v2").author == "sentence-transformers"
    assert found(grown, "qwen/qwen3-embedding-8b").id == "Qwen/Qwen3-Embedding-8B"
    assert grown.find("ALL-MINILM-L6-V2") is None
    assert grown.ambiguous("ALL-MINILM-L6-V2") == ["sentence-transformers/all-MiniLM-L6-v2", "local/all-minilm-l6-v2"]
    assert grown.ambiguous("bge-m3") == grown.ambiguous("nobody/nothing") == []
    assert catalog.find("local/all-minilm-l6-v2") is None


def test_a_model_that_is_added_under_a_known_id_takes_its_place(catalog: Catalog) -> None:
    own = replace(found(catalog, "BAAI/bge-m3"), note="ours")
    assert catalog.with_models([own]).find("bge-m3") is own
    assert len(catalog.with_models([own]).models()) == len(catalog.models())


def test_a_provider_does_not_serve_what_it_has_no_route_for(catalog: Catalog) -> None:
    assert catalog.at_provider("mistral", "text-embedding-3-small") is None
    assert catalog.at_provider("nobody", "text-embedding-3-small") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("openai/text-embedding-3-small:azure", ("openai/text-embedding-3-small", "azure")),
        ("bge-m3:deepinfra", ("bge-m3", "deepinfra")),
        ("openai/text-embedding-3-small", ("openai/text-embedding-3-small", None)),
        ("qwen3-embedding:0.6b", ("qwen3-embedding:0.6b", None)),
        ("qwen3-embedding:0.6b:ollama", ("qwen3-embedding:0.6b", "ollama")),
        (":openai", (":openai", None)),
        ("openai", ("openai", None)),
        ("", ("", None)),
    ],
)
def test_a_suffix_pins_a_provider_only_if_there_is_one_of_that_name(
    catalog: Catalog, text: str, expected: tuple[str, str | None]
) -> None:
    assert catalog.parse_model_name(text) == expected


def test_a_model_that_was_shut_down_names_its_replacement(catalog: Catalog) -> None:
    assert catalog.retired("google/text-embedding-004") == "google/gemini-embedding-001"
    assert catalog.retired("embed-english-v2.0") == "cohere/embed-english-v3.0"
    assert catalog.retired("openai/text-embedding-3-small") is None
    assert catalog.find("google/text-embedding-004") is None


def test_a_misspelt_name_has_close_matches(catalog: Catalog) -> None:
    assert catalog.close_matches("text-embeding-3-smal")[0] == "openai/text-embedding-3-small"
    assert catalog.close_matches("baai/bge_m3") == ["BAAI/bge-m3"]
    assert catalog.close_matches("q" * 100_000) == []
    assert catalog.close_matches("rerank-v35") == catalog.close_matches("rerank-v35", "rerank")
    assert catalog.close_matches("rerank-v35")[0] == "cohere/rerank-v3.5"
    assert catalog.close_matches("rerank-v35", "embedding") == []


def test_a_file_overrides_what_it_gives_and_keeps_the_rest(catalog: Catalog, file: Path) -> None:
    file.write_text(
        """
        [[model]]
        id = "openai/text-embedding-3-small"
        max_input_tokens = 4096
        [[model.route]]
        provider = "azure"
        usd_per_million_input_tokens = "0.018"
        price_source = "our contract"
        [[model.route]]
        provider = "our-proxy"
        upstream_model = "small"
        accepts_dim = true
        """
    )
    before, model = found(catalog, "text-embedding-3-small"), found(Catalog.load(file), "text-embedding-3-small")
    assert [route.provider for route in model.routes] == ["our-proxy", "openai", "azure", "openrouter"]
    azure = route_of(model, "azure")
    assert azure.price is not None
    assert (azure.price.picodollars_per_token, azure.price.source) == (18_000, "our contract")
    assert replace(azure, price=None, max_input_tokens=8192) == replace(route_of(before, "azure"), price=None)
    assert {route.max_input_tokens for route in model.routes} == {4096}
    assert route_of(model, "our-proxy").dims == before.dims
    assert route_of(model, "our-proxy").tokenizer == "tiktoken:cl100k_base"
    assert (model.space, model.is_matryoshka) == (before.space, True)


def test_a_file_adds_models_and_retires_others(file: Path) -> None:
    file.write_text(
        """
        [[model]]
        id = "acme/legal-embed"
        dims = { default = 512, allowed = [128, 512] }
        matryoshka = true
        max_input_tokens = 1000
        [[model.route]]
        provider = "vllm"
        upstream_model = "legal"
        usd_per_million_input_tokens = 0.000001  # exact without quotes, too
        [[retired]]
        id = "acme/old-embed"
        since = "2026-01-01"
        replacement = "acme/legal-embed"
        """
    )
    catalog = Catalog.load(file)
    model = found(catalog, "legal-embed")
    price = route_of(model, "vllm").price
    assert model.space == "acme/legal-embed"
    assert model.dims is not None
    assert (model.dims.minimum, model.dims.maximum, model.dims.describe()) == (128, 512, "128, 512")
    assert price is not None
    assert price.picodollars_per_token == 1
    assert catalog.at_provider("vllm", "legal") is model
    assert catalog.retired("old-embed") == "acme/legal-embed"


def test_all_mistakes_of_a_file_are_reported_at_once(file: Path) -> None:
    file.write_text(
        """
        [[models]]
        [[model]]
        dims = { default = 8 }
        [[model]]
        id = "openai/text-embedding-3-small"
        max_tokens = 5
        max_input_tokens = 0
        [[model.route]]
        provider = "openai"
        usd_per_million_input_tokens = "0.0000001"
        usd_per_million_output_tokens = "-1"
        [[model.route]]
        provider = "azure"
        accepts_dim = "yes"
        usd_per_million_input_tokens = "cheap"
        dims = { default = 8, allowed = [16] }
        [[model]]
        id = "acme/new"
        max_input_tokens = 10
        dims = { default = 8, min = 9, max = 10 }
        [[model.route]]
        provider = "vllm"
        [[model]]
        id = "acme/bare"
        [[model]]
        id = "acme/bare"
        [[model]]
        id = "colon:ed/name"
        max_input_tokens = 10
        dims = { default = 8 }
        route = "vllm"
        [[retired]]
        id = "acme/old"
        since = "2026-01-01"
        replacement = "acme/nothing"
        """
    )
    with pytest.raises(ConfigError) as caught:
        Catalog.load(file)
    said = [mistake.removeprefix(f"{file}: ") for mistake in caught.value.mistakes]
    expected = [
        "no such table 'models'",
        "model number 1: id is missing",
        "model acme/bare: is there twice",
        "model colon:ed/name: route: is not a list of tables",
        "model openai/text-embedding-3-small: no such field 'max_tokens'",
        "model openai/text-embedding-3-small: max_input_tokens: Expected `int` >= 1",
        "model openai/text-embedding-3-small at openai: usd_per_million_input_tokens: price 1E-7 ",
        "model openai/text-embedding-3-small at openai: usd_per_million_output_tokens: price -1 ",
        "model openai/text-embedding-3-small at azure: accepts_dim: Expected `bool`",
        "model openai/text-embedding-3-small at azure: dims: default is 8, but the sizes are 16",
        "model openai/text-embedding-3-small at azure: usd_per_million_input_tokens: Invalid decimal",
        "model acme/new at vllm: upstream_model is missing",
        "model acme/new: dims: default is 8, but the sizes are 9..10",
        "model acme/bare: has no route",
        "model acme/bare: dims is missing",
        "model acme/bare: max_input_tokens is missing",
        "model colon:ed/name: has no route",
        "model colon:ed/name: id: Expected `str` matching regex",
        "retired acme/old: replacement 'acme/nothing' is not in the catalogue",
    ]
    for start in expected:
        assert sum(mistake.startswith(start) for mistake in said) == 1, (start, said)
    assert len(said) == len(expected)


@pytest.mark.parametrize("content", [None, b"[[model]", b"\xff\xfe"], ids=["absent", "not TOML", "not UTF-8"])
def test_a_file_that_cannot_be_read_is_a_mistake(file: Path, content: bytes | None) -> None:
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"models\.toml: "):
        Catalog.load(file)
