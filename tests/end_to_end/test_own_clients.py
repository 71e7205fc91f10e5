"""Clients without any library of AI: our own for TypeScript and JavaScript, and the HTTP client of a stock JDK."""

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from chat_upstream import running_chat_upstream
from program import FAKE_ONLY
from running import UPSTREAM_KEY, RunningGateway, gateway
from sdk_programs import NODE_FOLDER, RUN_TIMEOUT_S, node_with, unavailable
from upstream import Answer, running_upstream
from wire import call

JAVA_PROGRAM = Path(__file__).parents[1] / "sdk" / "java" / "Ask.java"
MODEL = "fake/deterministic"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with running_chat_upstream() as host, running_upstream() as ranker:
        scores = [{"index": 1, "relevance_score": 0.75}, {"index": 0, "relevance_score": 0.25}]
        ranker.usually(Answer(200, json.dumps({"results": scores}).encode()))
        config = f"""
            {FAKE_ONLY}
            [providers.openai]
            base_url = "{host.base_url}"
            [providers.cohere]
            base_url = "{ranker.base_url.removesuffix("/v1")}"
        """
        keys = {"OPENAI_API_KEY": UPSTREAM_KEY, "COHERE_API_KEY": UPSTREAM_KEY}
        with gateway(tmp_path_factory.mktemp("own-clients"), config, keys) as found:
            yield found


def test_our_client_for_typescript_embeds_chats_and_tells_errors(running: RunningGateway) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        silent_url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        command = [node_with("openai"), "typescript_client.mjs", f"{running.url}/v1", running.key, silent_url]
        done = subprocess.run(command, cwd=NODE_FOLDER, capture_output=True, text=True, timeout=RUN_TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    body = {"model": MODEL, "input": ["a cat", "two dogs"], "dimensions": 16}
    expected = call(running.url, "/v1/embeddings", body, {"x-api-key": running.key}).json
    np.testing.assert_allclose(found["vectors"], [item["embedding"] for item in expected["data"]], atol=1e-6)
    assert (found["isTyped"], found["one"], found["decoded"]) == (True, found["vectors"][0], [1.0, -2.0])
    assert found["tokens"] == expected["usage"]["total_tokens"]
    assert found["ranked"] == [[1, 0.75], [0, 0.25]]
    assert found["streamed"].split() == found["whole"].split() != []
    assert found["failures"] == {
        "key": "GatewayError 401 invalid_api_key",
        "empty": "GatewayError 400 invalid_input input",
        "stream": "GatewayError 404 model_not_found model",
        "rerank": "GatewayError 400 model_wrong_action model",
        "late": "TimeoutError  23",
        "left": "AbortError  20",
    }


def test_a_stock_jdk_embeds_and_streams_though_it_asks_for_http_2(running: RunningGateway) -> None:
    java = shutil.which("java")
    if java is None:
        unavailable("java is not here: install a JDK, such as default-jdk-headless")
    command = [java, str(JAVA_PROGRAM), running.url, running.key]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, env={**os.environ, "LC_ALL": "C.UTF-8"}
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["200 HTTP_1_1 2", "200 HTTP_1_1 2"]  # the second over the kept connection
    assert lines[2].startswith("200 HTTP_1_1 text/event-stream")
    assert lines[3:-1]
    assert all(line.startswith("data: {") for line in lines[3:-1])
    assert lines[-1] == "data: [DONE]"
