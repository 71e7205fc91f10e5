"""Every refusal of a text that is too long, or of a cut, says what to send instead; sent so, the next call succeeds."""

import re
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

pytest.importorskip("rs_bpe", reason="the extra embedgate[tokens] is not installed")

from rs_bpe.bpe import openai as bpe

from running import UPSTREAM_KEY, RunningGateway, gateway
from upstream import Answer, Seen, Upstream, error
from wire import Reply, call

LOCAL, CUT_HERE, END_ONLY, NO_TOKENIZER = (
    "local/all-minilm-l6-v2",
    "openai/text-embedding-3-small",
    "jina/jina-embeddings-v3",
    "fake/deterministic",
)
MODELS = {LOCAL: 256, CUT_HERE: 8192, END_ONLY: 8192, NO_TOKENIZER: 8192}
SIDES: dict[str, dict[str, Any]] = {
    "/v1/embeddings": {"truncate": "start"},
    "/api/embeddings": {"truncate": "start"},
    "/openai/deployments/{}/embeddings": {"truncate": "start"},
    "/v1/engines/{}/embeddings": {"truncate": "start"},
    "/v2/embed": {"truncate": "START"},
    "/v1/embed": {"truncate": "START"},
    "/api/embed": {"truncate": True},
    "/tei/{}/embed": {"truncate": True, "truncation_direction": "Left"},
}
"""The paths of the dialects, and how each asks for a cut at the start; Ollama's API knows the end alone."""
tokenizer = bpe.cl100k_base()


def tokens_of(item: Any) -> int:
    return int(tokenizer.count(item)) if isinstance(item, str) else len(item)


def strictly(seen: Seen) -> Answer:
    """Refuse what has more tokens than the model takes, unless told to cut it, as Jina is."""
    if not seen.json.get("truncate") and any(tokens_of(item) > 8192 for item in seen.json["input"]):
        return error(400, "This model's maximum context length is 8192 tokens.")
    return Answer()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, far_side: Upstream) -> Iterator[RunningGateway]:
    config = f"""
        [providers.fake]
        enabled = true
        [providers.openai]
        base_url = "{far_side.base_url}"
        [providers.jina]
        base_url = "{far_side.base_url}"
    """
    keys = {"OPENAI_API_KEY": UPSTREAM_KEY, "JINA_API_KEY": UPSTREAM_KEY}
    with gateway(tmp_path_factory.mktemp("truncation"), config, keys) as found:
        yield found


@pytest.fixture(autouse=True)
def strict(far_side: Upstream) -> None:
    far_side.reset()
    far_side.dim = 1024
    far_side.usually(strictly)


def ask(running: RunningGateway, path: str, model: str, texts: list[Any], **more: Any) -> Reply:
    field = "texts" if path in ("/v2/embed", "/v1/embed") else "inputs" if path.startswith("/tei") else "input"
    body: dict[str, Any] = {"model": model, field: texts, **more}
    if path == "/api/embeddings":
        body["provider"] = {LOCAL: "local", NO_TOKENIZER: "fake"}.get(model, model.partition("/")[0])
    credential = {"x-api-key": running.key} if path == "/api/embeddings" else {"authorization": f"Bearer {running.key}"}
    return call(running.url, path.format(model), body, credential)


def followed(running: RunningGateway, refusal: Reply, path: str, model: str, texts: list[str], sent: Any) -> Reply:
    """The call that a refusal advises."""
    said = refusal.body.decode().replace("\\", "")
    if advised := re.search(r'[sS]end ("\w+": (?:"\w+"|true))', said):
        return ask(running, path, model, texts, **(sent | orjson.loads(f"{{{advised[1]}}}")))
    assert re.search(r"[sS]horten (?:it|or)|found an input too long", said), said
    kept = {} if "Leave truncate out" in said else sent
    return ask(running, path, model, [" ".join(text.split()[:100]) for text in texts], **kept)


@pytest.mark.parametrize("path", SIDES)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("is_cut", [False, True])
def test_what_is_advised_succeeds(running: RunningGateway, path: str, model: str, is_cut: bool) -> None:
    sent = SIDES[path] if is_cut else {}
    texts = [f"short {path}", " ".join(f"w{n}" for n in range(MODELS[model] + 1_000))]
    first = ask(running, path, model, texts, **sent)
    if first.status == 200:
        assert first.headers.get("x-embedgate-truncated") == "1" or model == END_ONLY  # whose host says nothing of it
        assert is_cut
        return
    assert first.status == 400, first.body
    second = followed(running, first, path, model, texts, sent)
    assert second.status == 200, (first.body, second.body)


@pytest.mark.parametrize("path", SIDES)
@pytest.mark.parametrize("model", [LOCAL, CUT_HERE])
def test_each_dialect_cuts_in_its_own_words(running: RunningGateway, path: str, model: str) -> None:
    long = " ".join(f"🙂 word{n}" for n in range(MODELS[model]))
    first = ask(running, path, model, ["one", long, "two"], **SIDES[path])
    assert first.status == 200, first.body
    assert first.headers["x-embedgate-truncated"] == "1"
    again = ask(running, path, model, [long], **SIDES[path])  # from the cache
    assert (again.status, again.headers["x-embedgate-truncated"]) == (200, "0")


def test_what_is_sent_is_the_most_that_fits_and_is_billed_alone(running: RunningGateway, far_side: Upstream) -> None:
    far_side.count_tokens = tokens_of
    for side in ("end", "start"):
        long = " ".join(f"{side}{n} 👩‍👩‍👧" for n in range(9_000))
        reply = ask(running, "/v1/embeddings", CUT_HERE, [long], truncate=side)
        (text,) = far_side.requests[-1].json["input"]
        assert "truncate" not in far_side.requests[-1].json
        assert long.startswith(text) if side == "end" else long.endswith(text)
        assert 8192 - 40 <= tokens_of(text) <= 8192
        assert reply.json["usage"]["prompt_tokens"] == far_side.billed[-1] == tokens_of(text)


def test_token_ids_are_cut_too(running: RunningGateway, far_side: Upstream) -> None:
    ids = tokenizer.encode(" ".join(f"id{n}" for n in range(9_000)))
    reply = ask(running, "/v1/embeddings", CUT_HERE, [ids, [1, 2]], truncate="start")
    assert (reply.status, reply.headers["x-embedgate-truncated"]) == (200, "0")
    assert far_side.requests[-1].json["input"] == [ids[-8192:], [1, 2]]


def test_a_refusal_without_a_tokenizer_says_so(running: RunningGateway) -> None:
    reply = ask(running, "/v1/embeddings", NO_TOKENIZER, ["x"], truncate="end")
    assert (reply.status, reply.json["error"]["code"]) == (400, "unsupported_option")
    assert "no tokenizer of that model" in reply.json["error"]["message"]


def test_the_list_of_models_says_where_each_can_be_cut(running: RunningGateway) -> None:
    listed = call(running.url, "/v1/models", headers={"authorization": f"Bearer {running.key}"}).json["data"]
    sides = {model["id"]: model["capabilities"]["truncate"] for model in listed if model["id"] in MODELS}
    every = ["none", "start", "end"]
    assert sides == {LOCAL: every, CUT_HERE: every, END_ONLY: ["none", "end"], NO_TOKENIZER: ["none"]}
