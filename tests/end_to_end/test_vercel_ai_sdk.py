"""The Vercel AI SDK, unchanged but for base URL, key and model. Needs node and the packages of `make test`."""

import numpy as np
import openai
import pytest

from running import RunningGateway
from sdk_programs import Answer, ask_with_node, node_with, vectors_expected

# One more than the SDK sends in a call.
TEXTS = ["Ein Satz, der länger ist als der erste.", "短い文", *(f"The library lends book {n}." for n in range(2047))]


@pytest.fixture(scope="module")
def answer(served: RunningGateway) -> Answer:
    """What the SDK got."""
    return ask_with_node(node_with("ai"), "vercel_ai.mjs", TEXTS, served)


def test_every_way_gives_the_vectors_of_the_model(answer: Answer, sdk: openai.OpenAI) -> None:
    expected = vectors_expected(TEXTS, sdk)
    assert answer.vectors.keys() == {"many", "one", "provider of OpenAI"}
    for way, of_models in answer.vectors.items():
        assert of_models.keys() == expected.keys()
        for model, found in of_models.items():
            rows = expected[model][:1] if way == "one" else expected[model]
            np.testing.assert_array_equal(found, rows, err_msg=way)


def test_mistakes_raise_the_error_of_the_sdk(answer: Answer) -> None:
    for way, failures in answer.failures.items():
        assert failures == {
            "unknown model": "APICallError model_not_found",
            "wrong key": "APICallError invalid_api_key",
        }, way
