"""The twenty-four ways in which embedding providers have tripped up gateways, one test or more for each."""

from collections import defaultdict
from dataclasses import replace

import numpy as np
import orjson
import pytest

from embedgate.catalog import Catalog
from embedgate.core import errors
from embedgate.core.errors import (
    InputTooLong,
    InvalidInput,
    UnsupportedOption,
    UpstreamDenied,
    UpstreamError,
    UpstreamGarbled,
    UpstreamRejected,
)
from embedgate.core.models import DimRange, Model, Route, Truncate
from embedgate.core.types import Batch, EmbedRequest, ProviderReply
from embedgate.core.vectors import Vectors, norms, shorten
from embedgate.engine.embedding.ask import checked
from embedgate.engine.routing.resolve import refusal
from embedgate.providers import hosts
from embedgate.server.dialects import openai as dialect
from embedgate.transport import HttpReply, retry_after_s
from recorded_replies import DIM, TABLE, TEXTS, VECTORS, Recorded, filled, load

CATALOG = Catalog.builtin()
CASES = load()
FORMAT = {name: host for name, host in TABLE.items() if host.module == "openai" and host.embeds}


def routes(provider: str | None = None) -> list[tuple[Model, Route]]:
    """Every route of the catalogue, at one provider or at all, as the provider's row changes it."""
    return [
        (model, TABLE[route.provider].adapt(route))
        for model in CATALOG.embedding_models()
        for route in model.routes
        if route.provider in TABLE and provider in (None, route.provider)
    ]


def route_of(model_id: str, provider: str) -> Route:
    (route,) = [route for model, route in routes(provider) if model.id == model_id]
    return route


def sent(route: Route, batch: Batch | None = None) -> dict[str, object]:
    call = hosts.vendor(TABLE[route.provider]).build(batch or Batch(TEXTS[:1], DIM), route)
    body: dict[str, object] = orjson.loads(call.body)
    return body


def read(case: Recorded, body: object, inputs: int | None = None) -> ProviderReply:
    batch = case.batch({}) if inputs is None else Batch(TEXTS[:inputs], DIM)
    return hosts.vendor(case.host).parse(HttpReply(case.provider, 200, {}, orjson.dumps(body)), batch, case.route)


def fault_of(case: Recorded, recorded: dict[str, object]) -> Exception:
    body = orjson.dumps(filled(recorded["body"]))
    status = recorded["status"]
    assert isinstance(status, int)
    return hosts.vendor(case.host).fault(HttpReply(case.provider, status, {}, body))


def case_of(provider: str) -> Recorded:
    return next(case for case in CASES if case.provider == provider)


def ours(dims: DimRange | None = None) -> tuple[Model, Route]:
    """A model of one route, compared at unit length."""
    dims = dims or DimRange(256, 64, 256)
    route = Route("acme", "m", dims, 512, "unknown", accepts_dim=True)
    return Model("acme/m", "embedding", (route,), "acme/m", dims, True, True, 512), route


def check(vectors: Vectors, batch: Batch, name: str | None = None) -> Vectors:
    model, route = ours()
    spaces = {"m": "acme/m", "m-2": "acme/m-2"}
    return checked(ProviderReply(vectors, 1, name), batch, model, route, lambda _, name: spaces.get(name))


def test_01_base64_is_asked_for_only_where_the_maker_confirms_it() -> None:
    confirmed = {"openai", "azure", "azure-classic", "nvidia", "mixedbread", "mistral", "digitalocean"}
    confirmed |= {"voyage", "jina", "cohere", "vllm", "infinity", "llamacpp"}
    asked = set()
    for case in CASES:
        if case.provider != "perplexity" and "base64" in orjson.dumps(sent(case.route)).decode():
            asked.add(case.provider)
    assert asked == confirmed | {"openrouter"}  # by model: Google's there give floats only
    assert "encoding_format" not in sent(route_of("google/gemini-embedding-001", "openrouter"))


def test_02_a_list_is_read_where_base64_was_asked_for_and_the_other_way_round() -> None:
    for name in FORMAT:
        for kind in ("float", "base64"):
            data = [{"index": index, "embedding": f"{kind}[{index}]"} for index in range(3)]
            reply = read(case_of(name), filled({"data": data}))
            np.testing.assert_allclose(reply.vectors, VECTORS, atol=1e-6)
    for kind in ("float", "base64"):
        reply = read(case_of("cohere"), filled({"embeddings": {kind: [f"{kind}[{index}]" for index in range(3)]}}))
        np.testing.assert_allclose(reply.vectors, VECTORS, atol=1e-6)


def test_03_null_is_never_sent() -> None:
    for _, route in routes():
        for truncate in ("none", "start", "end"):
            assert b"null" not in orjson.dumps(sent(route, Batch(TEXTS[:1], DIM, truncate=truncate)))


def test_04_token_numbers_go_only_where_they_are_the_same_words() -> None:
    readers = {route.provider for _, route in routes() if route.accepts_token_ids}
    assert readers == {"openai", "azure", "openrouter"}
    assert all(route.tokenizer == "tiktoken:cl100k_base" for _, route in routes() if route.accepts_token_ids)
    vllm = replace(route_of("BAAI/bge-m3", "vllm"), accepts_token_ids=True)
    assert not TABLE["vllm"].adapt(vllm).accepts_token_ids


def test_05_usage_that_is_absent_or_not_to_be_believed_is_no_usage() -> None:
    without = {case.provider for case in CASES for answer in case.answers if answer["tokens"] is None}
    assert without >= {"gemini", "together", "cloudflare", "huggingface", "lmstudio", "bedrock", "infinity"}
    total_only = {"data": [{"embedding": [1.0]}], "usage": {"total_tokens": 7}}
    assert read(case_of("voyage"), total_only, 1).tokens == 7
    cached = {"data": [{"embedding": [1.0]}], "usage": {"prompt_tokens": 0, "total_tokens": 0}}
    assert read(case_of("openrouter"), cached, 1).tokens == 0
    assert read(case_of("infinity"), total_only, 1).tokens is None


def test_06_vectors_are_ordered_by_index_and_by_position_without_one() -> None:
    data = filled([{"embedding": f"float[{index}]", "index": index} for index in (2, 0, 1)])
    np.testing.assert_allclose(read(case_of("openai"), {"data": data}).vectors, VECTORS, atol=1e-6)
    plain = filled([{"embedding": f"float[{index}]"} for index in range(3)])
    np.testing.assert_allclose(read(case_of("openrouter"), {"data": plain}).vectors, VECTORS, atol=1e-6)
    native = filled([{"embedding": f"float[{index}]", "text_index": index} for index in (1, 2, 0)])
    reply = read(case_of("dashscope"), {"output": {"embeddings": native}})
    np.testing.assert_allclose(reply.vectors, VECTORS, atol=1e-6)


def test_07_fewer_vectors_than_inputs_are_a_failure() -> None:
    fused = {"embeddings": [{"values": [0.6, 0.8]}]}
    with pytest.raises(UpstreamGarbled, match="1 vectors for 3 inputs"):
        read(case_of("gemini"), fused)
    with pytest.raises(UpstreamGarbled, match="0 vectors for 1 inputs"):
        read(case_of("ollama"), {"model": "m", "embeddings": []}, 1)
    contents = sent(route_of("google/gemini-embedding-2", "gemini"), Batch(TEXTS, DIM))["requests"]
    assert isinstance(contents, list)
    assert [len(content["content"]["parts"]) for content in contents] == [1, 1, 1]


@pytest.mark.parametrize("empty", ['""', '["fine", ""]', "[]", "[[]]"])
def test_08_an_empty_text_is_refused_at_the_door(empty: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        dialect.read(b'{"model": "m", "input": %b}' % empty.encode(), lambda name: (name, None))
    assert caught.value.status == 400


def test_09_the_one_bad_input_is_named_where_the_provider_names_it() -> None:
    message = "Invalid 'input[2]': maximum input length is 8192 tokens."
    fault = fault_of(case_of("openai"), {"status": 400, "body": {"error": {"message": message}}})
    assert isinstance(fault, InputTooLong)
    assert fault.index == 2
    assert "8192" in fault.message
    nameless = {"error": {"message": "This model's maximum context length is 8192 tokens."}}
    assert type(fault_of(case_of("openai"), {"status": 400, "body": nameless})) is UpstreamRejected


def test_10_a_route_has_the_length_limit_of_its_host() -> None:
    assert route_of("Qwen/Qwen3-Embedding-0.6B", "digitalocean").max_input_tokens == 8000
    assert route_of("Qwen/Qwen3-Embedding-0.6B", "cloudflare").max_input_tokens == 8192
    assert route_of("Qwen/Qwen3-Embedding-0.6B", "vllm").max_input_tokens == 32_768
    assert route_of("nomic-ai/nomic-embed-text-v1.5", "ollama").max_input_tokens == 2048
    assert route_of("nomic-ai/nomic-embed-text-v1.5", "nomic").max_input_tokens == 8192
    assert route_of("BAAI/bge-m3", "cloudflare").limits.max_tokens == 60_000


def test_11_truncation_is_switched_off_by_name_wherever_there_is_a_switch() -> None:
    switched = {name for name, host in TABLE.items() if "none" in host.truncate}
    assert switched == {"cohere", "voyage", "vertex", "ollama", "tei", "huggingface", "jina", "nvidia"}
    for _, route in routes():
        host = TABLE[route.provider]
        if route.provider not in switched:
            continue
        assert not route.truncates_silently
        body = orjson.dumps(sent(route))
        for name, value in host.truncate["none"].items():
            assert orjson.dumps({name: value})[1:-1] in body
    assert {route.provider for _, route in routes() if route.truncates_silently} == {"nomic"}


@pytest.mark.parametrize(
    ("provider", "model", "refused"),
    [
        ("cohere", "cohere/embed-v4.0", set()),
        ("nvidia", "nvidia/nv-embed-v1", set()),
        ("tei", "BAAI/bge-m3", set()),
        ("voyage", "voyage/voyage-4", {"start"}),
        ("jina", "jina/jina-embeddings-v3", {"start"}),
        ("ollama", "BAAI/bge-m3", {"start"}),
        ("nomic", "nomic-ai/nomic-embed-text-v1.5", {"start"}),
        ("openai", "openai/text-embedding-3-small", {"start", "end"}),
        ("gemini", "google/gemini-embedding-001", {"start", "end"}),
        ("bedrock", "cohere/embed-v4.0", {"start", "end"}),
    ],
)
def test_11_a_cut_that_the_host_cannot_make_is_refused_by_name(provider: str, model: str, refused: set[str]) -> None:
    found = CATALOG.find(model)
    assert found is not None
    sides: tuple[Truncate, ...] = ("none", "start", "end")
    refusals = {
        side: refusal(found, route_of(model, provider), EmbedRequest(model, ("x",), truncate=side)) for side in sides
    }
    assert {side for side, error in refusals.items() if isinstance(error, UnsupportedOption)} == refused
    assert all(error.param == "truncate" for error in refusals.values() if error is not None)


def test_12_a_shortened_vector_is_scaled_to_unit_length() -> None:
    whole = np.random.default_rng(12).standard_normal((2, 256)).astype(np.float32)
    whole /= np.linalg.norm(whole, axis=1, keepdims=True)
    vectors = check(np.ascontiguousarray(whole[:, :64]), Batch(TEXTS[:2], 64, dim=64))
    np.testing.assert_allclose(norms(vectors), 1, atol=1e-6)
    np.testing.assert_allclose(vectors, shorten(whole, 64), atol=1e-6)


def test_13_a_vector_that_was_filled_up_is_a_failure() -> None:
    padded = np.zeros((1, 512), dtype=np.float32)
    padded[0, :256] = 1 / 16
    with pytest.raises(UpstreamGarbled, match="vectors of 512 came back, expected 256"):
        check(padded, Batch(TEXTS[:1], 256))
    model, route = ours()
    request = EmbedRequest("acme/m", ("x",), dim=512)
    assert isinstance(refusal(replace(model, is_matryoshka=False), route, request), UnsupportedOption)


def test_14_a_size_that_the_host_ignored_is_a_failure_whatever_the_status() -> None:
    with pytest.raises(UpstreamGarbled, match="vectors of 256 came back, expected 64"):
        check(np.full((1, 256), 1 / 16, dtype=np.float32), Batch(TEXTS[:1], 64, dim=64))
    for name in ("llamacpp", "lmstudio"):
        assert not TABLE[name].accepts_dim
        assert not TABLE[name].sends_usage or name == "llamacpp"


def test_15_a_field_that_the_host_refuses_is_not_sent() -> None:
    everything = Batch(TEXTS, DIM, input_type="query", truncate="none", user="u-1", options={"new": b"1"})
    for name in ("mistral", "fireworks", "digitalocean", "together"):
        for _, route in routes(name):
            assert sent(route, everything).keys() <= {"model", "input", "encoding_format", "normalize"}
    for name in ("together", "digitalocean", "vllm"):
        assert not any(route.accepts_dim for _, route in routes(name))
    assert sent(route_of("mistral/codestral-embed", "mistral"), Batch(TEXTS, DIM, dim=DIM)).keys() == {
        *("model", "input", "output_dimension", "encoding_format")
    }
    for _, route in routes("vertex"):
        assert "encoding_format" not in sent(route)


def test_16_the_task_is_said_in_a_field_or_in_the_text_and_never_in_both() -> None:
    said_by = defaultdict(set)
    for model, route in routes():
        in_text = bool(route.query_prefix or route.document_prefix)
        assert not (in_text and route.input_types), (model.id, route.provider)
        query = sent(route, Batch(TEXTS[:1], DIM, input_type="query"))
        if route.input_types:
            assert query != sent(route, Batch(TEXTS[:1], DIM, input_type="document")), (model.id, route.provider)
        else:
            assert query == sent(route), (model.id, route.provider)
        said_by[model.id].add("field" if route.input_types else "text" if in_text else "nobody")
    for model_id in ("nomic-ai/nomic-embed-text-v1.5", "mixedbread-ai/mxbai-embed-large-v1"):
        assert said_by[model_id] == {"field", "text"}
    assert said_by["Qwen/Qwen3-Embedding-0.6B"] == {"field", "text"}


def test_17_cloudflare_pools_bge_as_its_makers_do() -> None:
    for model, route in routes("cloudflare"):
        is_english_bge = model.id.startswith("BAAI/bge-") and model.id.endswith("-en-v1.5")
        assert sent(route).get("pooling") == ("cls" if is_english_bge else None)


def test_18_wrong_numbers_of_public_tables_are_not_ours() -> None:
    for name in ("cohere/embed-english-v3.0", "cohere/embed-multilingual-v3.0"):
        assert route_of(name, "cohere").max_input_tokens == 512
    price = route_of("cohere/embed-multilingual-light-v3.0", "cohere").price
    assert price is not None
    assert price.picodollars_per_token == 100_000
    model = CATALOG.find("cohere/embed-v4.0")
    assert model is not None
    assert {route.dims.default for route in model.routes} == {1536}


@pytest.mark.parametrize(
    ("provider", "body"),
    [
        ("openai", {"error": {"message": "the reason", "type": "t", "param": None, "code": None}}),
        ("openrouter", {"error": {"code": 400, "message": "the reason"}, "user_id": "u"}),
        ("mistral", {"object": "error", "message": "the reason", "type": "t", "param": None, "code": "1"}),
        ("voyage", {"detail": "the reason"}),
        ("mixedbread", {"detail": [{"loc": ["body"], "msg": "the reason", "type": "t"}]}),
        ("cohere", {"id": "i", "message": "the reason"}),
        ("bedrock", {"message": "the reason"}),
        ("ollama", {"error": "the reason"}),
        ("tei", {"error": "the reason", "error_type": "Validation"}),
        ("jina", {"code": "INPUT", "detail": "the reason", "request_id": "r"}),
        ("dashscope", {"code": "InvalidParameter", "message": "the reason", "request_id": "r"}),
        ("cloudflare", {"success": False, "errors": [{"code": 5006, "message": "the reason"}]}),
        ("gemini", {"error": {"code": 400, "message": "the reason", "status": "INVALID_ARGUMENT"}}),
    ],
)
def test_19_what_a_provider_says_is_found_in_its_shape(provider: str, body: object) -> None:
    fault = fault_of(case_of(provider), {"status": 400, "body": body})
    assert type(fault) is UpstreamRejected
    assert "the reason" in fault.message


@pytest.mark.parametrize(
    ("cause", "wanted", "statuses"),
    [
        ("found an input too long", "UpstreamRejected", {400, 422, 500}),
        ("takes less in one call", "UpstreamTooLarge", {400, 413, 422}),
        ("is busy or limits us", "UpstreamBusy", {424, 429, 498, 503, 529}),
    ],
)
def test_20_one_cause_is_one_error_whatever_its_status(cause: str, wanted: str, statuses: set[int]) -> None:
    seen = set()
    for case in CASES:
        for recorded in case.faults:
            fault = fault_of(case, recorded)
            if isinstance(fault, UpstreamError) and cause in fault.message:
                assert type(fault) is getattr(errors, wanted)
                seen.add(recorded["status"])
    assert seen == statuses


def test_20_an_account_without_money_is_never_tried_again() -> None:
    unpaid = [
        ("openai", 429, {"error": {"message": "no", "code": "insufficient_quota"}}),
        ("jina", 403, {"code": "AUTHZ_INSUFFICIENT_BALANCE", "detail": "no"}),
        ("dashscope", 400, {"code": "Arrearage", "message": "no"}),
        ("openrouter", 402, {"error": {"code": 402, "message": "no"}}),
    ]
    for provider, status, body in unpaid:
        assert type(fault_of(case_of(provider), {"status": status, "body": body})) is UpstreamDenied


def test_21_hints_to_wait_are_taken_in_order_and_negative_ones_are_none() -> None:
    assert retry_after_s({"retry-after-ms": "1500", "retry-after": "9"}) == 1.5
    assert retry_after_s({"retry-after": "9", "x-ratelimit-reset-requests": "6m0s"}) == 9
    assert retry_after_s({"x-ratelimit-reset-requests": "6m0s"}) is None
    assert retry_after_s({"retry-after": "-1"}) is None
    body = {"error": {"code": 429, "message": "no", "details": [{"retryDelay": "17.5s"}]}}
    fault = fault_of(case_of("gemini"), {"status": 429, "body": body})
    assert isinstance(fault, UpstreamError)
    assert fault.retry_after_s == 17.5


def test_22_a_key_of_voyage_goes_to_the_host_that_it_belongs_to() -> None:
    voyage = TABLE["voyage"]
    assert voyage.address("pa-123") == "https://api.voyageai.com/v1"
    assert voyage.address("al-123") == "https://ai.mongodb.com/v1"
    assert voyage.address(None) == "https://api.voyageai.com/v1"


def test_23_close_names_are_of_other_spaces_unless_their_maker_says_otherwise() -> None:
    space = {model.id: model.space for model in CATALOG.embedding_models()}
    strangers = [
        ("google/gemini-embedding-001", "google/gemini-embedding-2"),
        ("voyage/voyage-3.5", "voyage/voyage-4"),
        ("cohere/embed-english-v3.0", "cohere/embed-v4.0", "cohere/embed-v5.0-pro"),
        ("alibaba/text-embedding-v3", "alibaba/text-embedding-v4", "alibaba/qwen3.7-text-embedding"),
        ("alibaba/text-embedding-v4", "Qwen/Qwen3-Embedding-0.6B"),
    ]
    for names in strangers:
        assert len({space[name] for name in names}) == len(names)
    assert space["voyage/voyage-4-large"] == space["voyage/voyage-4-lite"] == space["voyage/voyage-4-nano"]
    assert space["cohere/embed-v5.0-pro"] == space["cohere/embed-v5.0-fast"]


def test_23_an_answer_of_a_model_of_another_space_is_a_failure() -> None:
    vectors = np.full((1, 256), 1 / 16, dtype=np.float32)
    check(vectors, Batch(TEXTS[:1], 256), "m")
    check(vectors, Batch(TEXTS[:1], 256), "a name that nobody knows")
    with pytest.raises(UpstreamGarbled, match="another model"):
        check(vectors, Batch(TEXTS[:1], 256), "m-2")


def test_24_vectors_of_quantised_weights_have_a_precision_of_their_own() -> None:
    quantised = {name for name, host in TABLE.items() if host.precision != "f32"}
    assert quantised == {"ollama", "lmstudio", "llamacpp"}
    assert route_of("BAAI/bge-m3", "ollama").precision != route_of("BAAI/bge-m3", "tei").precision
