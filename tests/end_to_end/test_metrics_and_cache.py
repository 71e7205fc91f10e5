"""A text is embedded once: kept, joined and batched, in a gateway process of its own; and all of it is counted."""

import base64
import http.client
import json
import re
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from embedgate.core.vectors import Vectors
from running import RunningGateway, gateway
from upstream import Answer, Upstream
from waiting import PATIENCE_S, wait_until
from wire import Reply, call

MODEL = "openai/text-embedding-3-small"
DIM = 1536
LABELS = {
    "dialect",
    "outcome",
    "stage",
    "model",
    "source",
    "result",
    "provider",
    "tier",
    "le",
    "reason",
    "state",
    "what",
    "period",
}
CONFIG = """
    [providers.local]
    enabled = false
    [providers.openai]
    base_url = "{base_url}"
    batching = true
    max_parallel = 4
"""
ENVIRONMENT = {"OPENAI_API_KEY": "sk-upstream"}


@pytest.fixture(scope="module")
def caching(tmp_path_factory: pytest.TempPathFactory, far_side: Upstream) -> Iterator[RunningGateway]:
    config = CONFIG.format(base_url=far_side.base_url)
    with gateway(tmp_path_factory.mktemp("caching"), config, ENVIRONMENT) as running:
        yield running


@pytest.fixture
def host(far_side: Upstream) -> Upstream:
    """The provider, without memory of earlier tests. The gateway has one: every test has texts of its own."""
    far_side.reset()
    return far_side


def embed(running: RunningGateway, texts: list[str], key: str | None = None, **fields: Any) -> Reply:
    body = {"model": MODEL, "input": texts, **fields}
    reply = call(running.url, "/v1/embeddings", body, {"x-api-key": key or running.key})
    assert reply.status == 200, reply.body
    return reply


def test_operators_see_the_disk_before_it_is_full(caching: RunningGateway) -> None:
    def seen() -> dict[str, float]:
        text = call(caching.url, "/metrics").body.decode()
        return {name: float(n) for name, n in re.findall(r'embedgate_disk_bytes\{what="(\w+)"\} (\S+)', text)}

    wait_until("the watch has looked", lambda: seen().keys() == {"free", "database"})
    assert seen()["free"] > 0
    assert seen()["database"] >= (caching.data_dir / "embedgate.db").stat().st_size


def vectors_of(reply: Reply) -> Vectors:
    """(n, d), whatever the encoding."""
    rows = [item["embedding"] for item in reply.json["data"]]
    return np.array([np.frombuffer(base64.b64decode(r), "<f4") if isinstance(r, str) else r for r in rows], np.float32)


def right(texts: list[str], dim: int = DIM) -> Vectors:
    return np.stack([Upstream.vector(text, dim) for text in texts])


def cost_usd(reply: Reply) -> float:
    return float(reply.headers["x-embedgate-cost-usd"])


def ledger_line(running: RunningGateway, reply: Reply) -> sqlite3.Row:
    with sqlite3.connect(running.data_dir / "embedgate.db") as database:
        database.row_factory = sqlite3.Row
        query = "SELECT * FROM ledger WHERE request_id = ?"
        (line,) = database.execute(query, (reply.headers["x-request-id"],)).fetchall()
    found: sqlite3.Row = line
    return found


def metric(running: RunningGateway, name: str, **labels: str) -> float:
    """The value of one metric; 0 if it has not been counted yet."""
    text = call(running.url, "/metrics").body.decode()
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return next((sample.value for sample in samples if sample.name == name and sample.labels == labels), 0.0)


def test_a_repeated_text_makes_no_call_and_costs_nothing(caching: RunningGateway, host: Upstream) -> None:
    texts = ["a text that comes twice", "and its neighbour"]
    first, second = embed(caching, texts), embed(caching, texts)
    assert len(host.requests) == 1
    assert first.json["data"] == second.json["data"]
    assert first.json["usage"] == second.json["usage"]
    tokens = first.json["usage"]["total_tokens"]
    assert first.headers["x-embedgate-cached-tokens"] == "0"
    assert second.headers["x-embedgate-cached-tokens"] == str(tokens)
    assert cost_usd(first) > cost_usd(second) == 0
    paid, free = ledger_line(caching, first), ledger_line(caching, second)
    assert (paid["tokens"], paid["reused_tokens"], paid["cost_picodollars"]) == (tokens, 0, tokens * 20_000)
    assert (free["tokens"], free["reused_tokens"], free["cost_picodollars"]) == (0, tokens, 0)
    body = {"provider": "openai", "model": "text-embedding-3-small", "input": texts}
    ziri = call(caching.url, "/api/embeddings", body, {"x-api-key": caching.key})
    cost = ziri.json["_meta"]["cost"]
    assert (cost["inputTokens"], cost["cachedTokens"], cost["totalCost"]) == (tokens, tokens, 0)
    assert len(host.requests) == 1


def test_half_of_the_texts_known_asks_for_the_other_half(caching: RunningGateway, host: Upstream) -> None:
    texts = [f"half {i}" for i in range(5)]
    embed(caching, [texts[3], texts[1]])
    np.testing.assert_array_equal(vectors_of(embed(caching, texts)), right(texts))
    assert [request.json["input"] for request in host.requests] == [
        ["half 3", "half 1"],
        ["half 0", "half 2", "half 4"],
    ]


@pytest.mark.parametrize("first", [{}, {"encoding_format": "base64"}, {"dimensions": 256}], ids=str)
def test_every_form_of_a_vector_comes_from_one_entry(
    caching: RunningGateway, host: Upstream, first: dict[str, Any]
) -> None:
    texts = [f"in many forms {first}"]
    forms: list[dict[str, Any]] = [first, {}, {"encoding_format": "base64"}, {"dimensions": 256}, {"dimensions": 8}]
    for form in forms:
        vectors = vectors_of(embed(caching, texts, **form))
        np.testing.assert_allclose(vectors, right(texts, form.get("dimensions", DIM)), atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert len(host.requests) == 1


def test_floats_of_a_vector_that_is_asked_for_again_are_written_once(caching: RunningGateway, host: Upstream) -> None:
    before = metric(caching, "embedgate_cache_json_hits_total")
    replies = [embed(caching, ["asked for as floats"]) for _ in range(4)]
    assert metric(caching, "embedgate_cache_json_hits_total") == before + 2  # the first has no hit, the second writes
    assert metric(caching, "embedgate_cache_json_bytes") > 4 * DIM
    assert len({json.dumps(reply.json["data"]) for reply in replies}) == 1
    np.testing.assert_allclose(vectors_of(replies[-1]), right(["asked for as floats"]), atol=1e-6)
    embed(caching, ["asked for as floats"] * 2)  # of several, none is looked for
    assert metric(caching, "embedgate_cache_json_hits_total") == before + 2
    assert len(host.requests) == 1


def test_no_store_neither_finds_nor_keeps(caching: RunningGateway, host: Upstream) -> None:
    text = ["kept by nobody"]
    embed(caching, text, cache="no-store")
    embed(caching, text)
    reply = embed(caching, text, cache="no-store")
    assert len(host.requests) == 3
    assert reply.headers["x-embedgate-cached-tokens"] == "0"


def test_users_do_not_find_each_others_texts(caching: RunningGateway, host: Upstream) -> None:
    text = ["a text of two users"]
    embed(caching, text)
    reply = embed(caching, text, key=caching.admin_key)
    assert len(host.requests) == 2
    assert reply.headers["x-embedgate-cached-tokens"] == "0"


def test_a_restart_finds_the_texts_on_disk(tmp_path: Path, host: Upstream) -> None:
    config = CONFIG.format(base_url=host.base_url)
    texts = [f"before the restart {i}" for i in range(20)]
    with gateway(tmp_path, config, ENVIRONMENT) as running:
        embed(running, texts)
        assert running.terminate() == 0
    with gateway(tmp_path, config, ENVIRONMENT) as running:
        reply = embed(running, texts)
        assert metric(running, "embedgate_cache_hits_total", tier="disk") == 20
    np.testing.assert_array_equal(vectors_of(reply), right(texts))
    assert cost_usd(reply) == 0
    assert len(host.requests) == 1


def test_the_same_text_at_the_same_time_is_called_for_once(caching: RunningGateway, host: Upstream) -> None:
    gate = threading.Event()
    host.usually(Answer(gate=gate))
    text = ["asked by sixteen at once"]
    joined_before = metric(caching, "embedgate_joined_inputs_total")
    with ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(embed, caching, text) for _ in range(16)]
        while metric(caching, "embedgate_requests_running") < 16:
            assert not any(future.done() for future in asked)
        gate.set()
        replies = [future.result() for future in asked]
    assert len(host.requests) == 1
    assert metric(caching, "embedgate_joined_inputs_total") == joined_before + 15
    assert sorted(cost_usd(reply) > 0 for reply in replies) == [False] * 15 + [True]
    for reply in replies:
        np.testing.assert_array_equal(vectors_of(reply), right(text))


def test_many_callers_at_once_share_calls_and_get_their_own_vectors(caching: RunningGateway, host: Upstream) -> None:
    n_callers, n_each = 64, 10
    gate = threading.Event()
    ready = threading.Barrier(n_callers + 1, gate.clear)
    host.usually(Answer(gate=gate))

    def run(caller: int) -> list[tuple[str, bytes]]:
        parts = urlsplit(caching.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=PATIENCE_S)
        found = []
        for turn in range(n_each):
            ready.wait(PATIENCE_S)
            text = f"caller {caller} turn {turn}"
            body = json.dumps({"model": MODEL, "input": text, "encoding_format": "base64"})
            connection.request("POST", "/v1/embeddings", body, {"x-api-key": caching.key})
            found.append((text, connection.getresponse().read()))
        connection.close()
        return found

    with ThreadPoolExecutor(n_callers) as pool:
        asked = pool.map(run, range(n_callers))
        for _ in range(n_each):  # no answer before every caller has asked
            ready.wait(PATIENCE_S)
            wait_until("all have asked", lambda: metric(caching, "embedgate_requests_running") == n_callers)
            gate.set()
        answers = [answer for each in asked for answer in each]
    for text, body in answers:
        (item,) = json.loads(body)["data"]
        np.testing.assert_array_equal(np.frombuffer(base64.b64decode(item["embedding"]), "<f4"), right([text])[0])
    assert len(answers) == n_callers * n_each
    assert len(host.requests) * 10 <= len(answers)
    sent = [text for request in host.requests for text in request.json["input"]]
    assert sorted(sent) == sorted(text for text, _ in answers)


def test_metrics_count_requests_calls_and_hits(caching: RunningGateway, host: Upstream) -> None:
    counted = {
        "embedgate_requests_total": {"dialect": "openai", "outcome": "ok"},
        "embedgate_inputs_total": {"model": MODEL},
        "embedgate_provider_calls_total": {"provider": "openai", "outcome": "ok"},
        "embedgate_request_seconds_count": {"dialect": "openai"},
        "embedgate_cache_lookups_total": {"result": "hit"},
        "embedgate_tokens_total": {"source": "reused"},
    }
    before = {name: metric(caching, name, **labels) for name, labels in counted.items()}
    first = embed(caching, ["counted", "counted too"])
    embed(caching, ["counted", "counted too"])
    rise = {name: metric(caching, name, **labels) - before[name] for name, labels in counted.items()}
    assert list(rise.values()) == [2, 4, 1, 2, 2, first.json["usage"]["total_tokens"]]
    assert metric(caching, "embedgate_cache_entries", tier="memory") >= 2
    wait_until("no request runs", lambda: metric(caching, "embedgate_requests_running") == 0)


def test_metrics_name_no_caller_and_no_text(caching: RunningGateway, host: Upstream) -> None:
    strange = {"model": "made-up/model-name", "input": "a secret sentence", "user": "customer 7"}
    assert call(caching.url, "/v1/embeddings", strange, {"x-api-key": caching.key}).status == 404
    embed(caching, ["a secret sentence"], user="customer 7")
    reply = call(caching.url, "/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    text = reply.body.decode()
    families = list(text_string_to_metric_families(text))
    samples = [sample for family in families for sample in family.samples]
    assert {label for sample in samples for label in sample.labels} <= LABELS
    assert {sample.labels["model"] for sample in samples if "model" in sample.labels} == {MODEL}
    assert not re.search("made-up|secret|customer 7|user_|key_|req_", text)
    assert all(family.documentation and family.name.startswith("embedgate_") for family in families)


def test_the_operators_page_lists_every_metric_and_no_other(caching: RunningGateway) -> None:
    text = call(caching.url, "/metrics").body.decode()
    served = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
    page = (Path(__file__).parents[2] / "docs" / "operate.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(embedgate_\w+)`", page)) == served
