"""Haystack: the embedder of documents, by the batch, and the embedder of one text."""

import asyncio

from haystack import Document
from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
from haystack.utils import Secret

Rows = list[list[float]]


def documents(base_url: str, key: str, model: str, texts: list[str]) -> Rows:
    """Documents, 32 in a call."""
    embedder = OpenAIDocumentEmbedder(
        api_base_url=base_url,
        api_key=Secret.from_token(key),
        model=model,
        batch_size=32,
        progress_bar=False,
        raise_on_failure=True,
    )
    embedded = embedder.run([Document(content=text) for text in texts])["documents"]
    return [document.embedding for document in embedded]


def texts_alone(base_url: str, key: str, model: str, texts: list[str]) -> Rows:
    """Each text as the question of a search."""
    embedder = OpenAITextEmbedder(api_base_url=base_url, api_key=Secret.from_token(key), model=model)
    return [embedder.run(text)["embedding"] for text in texts]


def asynchronous(base_url: str, key: str, model: str, texts: list[str]) -> Rows:
    """Documents, on an event loop."""
    embedder = OpenAIDocumentEmbedder(
        api_base_url=base_url,
        api_key=Secret.from_token(key),
        model=model,
        progress_bar=False,
        raise_on_failure=True,
    )

    async def embed() -> Rows:
        embedded = await embedder.run_async([Document(content=text) for text in texts])
        await embedder.close_async()
        return [document.embedding for document in embedded["documents"]]

    return asyncio.run(embed())


WAYS = {"documents": documents, "texts alone": texts_alone, "asynchronous": asynchronous}
