"""Azure's classes, LangChain JS, LiteLLM, DSPy, Pydantic AI, Mem0, Semantic Kernel, Cohere and Ollama, unchanged.

But for address, key and model, each of them from a locked environment.
"""

import numpy as np
import openai
import pytest

from running import RunningGateway
from sdk_programs import Answer, ask_with_node, ask_with_python, node_with, python_with_sdks, vectors_expected

pytestmark = pytest.mark.timeout(1800)  # the first run downloads the SDKs

OPENAI_ERRORS = {
    "unknown model": "openai.NotFoundError model_not_found",
    "wrong key": "openai.AuthenticationError invalid_api_key",
}
AZURE_ERRORS = {
    "unknown model": "openai.NotFoundError DeploymentNotFound",
    "wrong key": "openai.AuthenticationError 401",
}
LITELLM_ERRORS = {
    "unknown model": "litellm.NotFoundError None",
    "wrong key": "litellm.AuthenticationError None",
}
COHERE_ERRORS = {"unknown model": "cohere.NotFoundError None", "wrong key": "cohere.UnauthorizedError None"}
PROGRAMS = {
    "openai_azure": {
        **dict.fromkeys(("azure", "named deployment", "asynchronous"), AZURE_ERRORS),
        "newer": OPENAI_ERRORS,
    },
    "litellm_embeddings": dict.fromkeys(("embedding", "azure"), LITELLM_ERRORS),
    "dspy_embedder": {"embedder": LITELLM_ERRORS},
    "pydantic_ai_embedder": {
        "documents": {
            "unknown model": "pydantic_ai.ModelNotFoundError None",
            "wrong key": "pydantic_ai.ModelAuthenticationError None",
        }
    },
    "mem0_embeddings": dict.fromkeys(("batch", "each"), OPENAI_ERRORS),
    "semantic_kernel_embedding": {
        "service": dict.fromkeys(OPENAI_ERRORS, "semantic_kernel.ServiceResponseException None")
    },
    "cohere_client": dict.fromkeys(("second", "first"), COHERE_ERRORS),
    "ollama_client": {"embed": dict.fromkeys(OPENAI_ERRORS, "ollama.ResponseError None")},
}
"""The errors that each way of each program must raise."""
LOCKED = {"semantic_kernel_embedding": "semantic_kernel"}
"""The programs that have an environment of their own."""
TEXTS = ["Ein Satz, der länger ist als der erste.", "短い文", "🙂 emoji", " spaces  kept "]
TEXTS += [f"The library lends book {number} for four weeks." for number in range(36)]


def check(answer: Answer, texts: list[str], sdk: openai.OpenAI) -> None:
    expected = vectors_expected(texts, sdk)
    assert answer.vectors
    assert answer.strangers == []
    for way, of_models in answer.vectors.items():
        assert of_models.keys() == expected.keys()
        for model, found in of_models.items():
            rows = expected[model][: len(found)]
            assert len(found) == (1 if way == "query" else len(texts))
            np.testing.assert_allclose(found, rows, rtol=0, atol=1e-6, err_msg=way)


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_program_gets_the_vectors_of_the_model_and_its_own_errors(
    program: str, served: RunningGateway, sdk: openai.OpenAI, tmp_path_factory: pytest.TempPathFactory
) -> None:
    texts = [f"{text} ({program})" for text in TEXTS]
    python = python_with_sdks(LOCKED.get(program, "requirements"))
    answer = ask_with_python(python, program, texts, served, tmp_path_factory.mktemp(program))
    check(answer, texts, sdk)
    assert answer.failures == PROGRAMS[program]


def test_langchain_and_azure_for_node_get_them_too(served: RunningGateway, sdk: openai.OpenAI) -> None:
    texts = [f"{text} (node)" for text in TEXTS]
    answer = ask_with_node(node_with("@langchain/openai"), "langchain.mjs", texts, served)
    check(answer, texts, sdk)
    of_openai = {"unknown model": "404 model_not_found", "wrong key": "401 invalid_api_key"}
    assert answer.failures == {
        "documents": of_openai,
        "query": of_openai,
        "azure": {"unknown model": "404 DeploymentNotFound", "wrong key": "401 401"},
    }
