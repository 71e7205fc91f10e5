"""LlamaIndex, Haystack and Chroma, unchanged but for base URL, key and model, with a model here and a remote one."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openai
import pytest

from embedgate.core.vectors import Vectors
from running import RunningGateway
from sdk_programs import PYTHON_FOLDER, Answer, ask_with_python, python_with_sdks, vectors_expected
from upstream import Upstream

pytestmark = pytest.mark.timeout(1800)  # the first run downloads the SDKs

PROGRAMS = ("llama_index_embeddings", "haystack_embedders", "chroma_collection")
CALL_SIZE = 32
TEXTS = ["Ein Satz, der länger ist als der erste.", "短い文", "🙂 emoji", " spaces  kept "]
TEXTS += [f"The library lends book {number} for four weeks." for number in range(66)]

# Chroma brings what it stores to unit length once more, which may change the last bit.
TOLERANCE = {"added": 1e-6, "found": 1e-6}


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter that has the SDKs."""
    return python_with_sdks()


@pytest.fixture(scope="module", params=PROGRAMS)
def program(request: pytest.FixtureRequest) -> str:
    """One program after the other."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def texts(program: str) -> list[str]:
    """Texts that the gateway has not seen from another program, so that each program's calls reach the far side."""
    return [f"{text} ({program})" for text in TEXTS]


@pytest.fixture(scope="module")
def answer(
    program: str, texts: list[str], python: Path, served: RunningGateway, tmp_path_factory: pytest.TempPathFactory
) -> Answer:
    """What the program got."""
    return ask_with_python(python, program, texts, served, tmp_path_factory.mktemp(program))


@pytest.fixture
def expected(texts: list[str], sdk: openai.OpenAI) -> Mapping[str, Vectors]:
    """The vectors of each model."""
    return vectors_expected(texts, sdk)


def test_every_way_gives_the_vectors_of_the_model(answer: Answer, expected: Mapping[str, Vectors]) -> None:
    for way, of_models in answer.vectors.items():
        assert of_models.keys() == expected.keys()
        for model, found in of_models.items():
            np.testing.assert_allclose(found, expected[model], rtol=0, atol=TOLERANCE.get(way, 0), err_msg=way)


def test_many_texts_come_in_several_calls(answer: Answer, texts: list[str], openai_host: Upstream) -> None:
    wanted = set(texts)
    calls = [seen.json["input"] for seen in openai_host.requests if wanted.intersection(seen.json["input"])]
    assert [len(call) for call in calls] == [CALL_SIZE, CALL_SIZE, 6]
    assert [text for call in calls for text in call] == texts


def test_mistakes_raise_the_error_of_the_sdk(answer: Answer) -> None:
    for way, failures in answer.failures.items():
        assert failures == {
            "unknown model": "openai.NotFoundError model_not_found",
            "wrong key": "openai.AuthenticationError invalid_api_key",
        }, way


def test_nothing_but_this_machine_is_asked_for(answer: Answer) -> None:
    assert answer.strangers == []


def test_another_machine_would_be_noticed() -> None:
    attempts = """
import socket
from loopback_only import stay_on_loopback, strangers
stay_on_loopback()
for reach in (lambda: socket.create_connection(("192.0.2.1", 9)), lambda: socket.getaddrinfo("example.org", 80)):
    try:
        reach()
    except PermissionError as error:
        print(error)
print(strangers)
"""
    done = subprocess.run(
        [sys.executable, "-c", attempts], cwd=PYTHON_FOLDER, capture_output=True, check=True, text=True, timeout=300
    )
    assert done.stdout.splitlines()[-1] == "['192.0.2.1', 'example.org']"
