"""LangChain with its defaults: it sends token ids, which local models cannot read and OpenAI can."""

from pathlib import Path

import numpy as np
import openai
import pytest
import tiktoken
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr

from rank_file import write_rank_file
from running import RunningGateway
from upstream import Upstream

MODEL = "local/all-minilm-l6-v2"
TEXTS = [
    "The library lends books for four weeks.",
    "Ein Satz mit Umlauten: süß, größer, Ärger.",
    "数字と漢字を含む文 123456",
    "🙂 emoji, <|endoftext|> and  two spaces",
    "line\nbreaks\r\n\tand tabs",
]


@pytest.fixture(autouse=True)
def tokens_without_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in write_rank_file(tmp_path).items():
        monkeypatch.setenv(name, value)


def embeddings(served: RunningGateway, model: str) -> OpenAIEmbeddings:
    return OpenAIEmbeddings(
        model=model, openai_api_base=f"{served.url}/v1", openai_api_key=SecretStr(served.key), max_retries=0
    )


def test_langchain_gets_the_vectors_of_the_text(served: RunningGateway, sdk: openai.OpenAI) -> None:
    found = embeddings(served, MODEL)
    answer = sdk.embeddings.create(model=MODEL, input=TEXTS)
    expected = np.array([item.embedding for item in answer.data])
    np.testing.assert_allclose(found.embed_documents(TEXTS), expected, atol=1e-5)
    np.testing.assert_allclose(found.embed_query(TEXTS[0]), expected[0], atol=1e-5)


def test_token_ids_reach_a_host_that_reads_them_as_they_are(served: RunningGateway, openai_host: Upstream) -> None:
    embeddings(served, "openai/text-embedding-3-small").embed_documents(TEXTS)
    ids = tiktoken.get_encoding("cl100k_base").encode_ordinary_batch(TEXTS)
    assert openai_host.requests[-1].json["input"] == ids
