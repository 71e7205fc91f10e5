"""The OpenAI Node SDK gets the same vectors and the right error classes. Needs node and the packages of `make test`."""

import base64
import json
import subprocess
from typing import Any

import numpy as np
import openai
import pytest
from rs_bpe.bpe import openai as bpe

from running import RunningGateway
from sdk_programs import NODE_FOLDER, RUN_TIMEOUT_S, node_with

TEXTS = ["The cat sat on the mat.", "Ein Satz, der länger ist.", "短い文"]


@pytest.fixture(scope="module")
def answers(served: RunningGateway) -> dict[str, Any]:
    """What the SDK got."""
    tokens = json.dumps(bpe.cl100k_base().encode(TEXTS[0]))
    command = [
        node_with("openai"),
        "check.mjs",
        f"{served.url}/v1",
        served.key,
        "local/all-minilm-l6-v2",
        "local/wordllama-256",
        tokens,
    ]
    done = subprocess.run(command, cwd=NODE_FOLDER, capture_output=True, text=True, timeout=RUN_TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_every_shape_gives_the_vectors_that_python_gets(answers: dict[str, Any], sdk: openai.OpenAI) -> None:
    plain = sdk.embeddings.create(model="local/all-minilm-l6-v2", input=TEXTS, encoding_format="float")
    expected = np.array([item.embedding for item in plain.data])
    packed = [np.frombuffer(base64.b64decode(text), dtype="<f4") for text in answers["base64"]]
    for found in (answers["plain"], answers["float"], packed):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    for found in (answers["one"], answers["tokens"], *answers["tokenLists"]):
        np.testing.assert_allclose(found, expected[0], atol=1e-5)
    assert np.shape(answers["small"]) == (3, 64)
    np.testing.assert_allclose(np.linalg.norm(answers["small"], axis=1), 1, atol=1e-5)
    assert answers["many"] == list(range(2048))


def test_mistakes_raise_the_class_that_the_sdk_promises(answers: dict[str, Any]) -> None:
    assert answers["failures"] == {
        "key": "AuthenticationError invalid_api_key",
        "model": "NotFoundError model_not_found",
        "chat": "BadRequestError model_not_embedding",
        "empty": "BadRequestError invalid_input",
        "count": "BadRequestError invalid_input",
        "long": "BadRequestError context_length_exceeded",
        "total": "BadRequestError max_tokens_per_request",
        "dimensions": "BadRequestError invalid_dimensions",
    }
