"""Mem0: the embedder of its memories."""

from mem0.configs.embeddings.base import BaseEmbedderConfig
from mem0.embeddings.openai import OpenAIEmbedding

Rows = list[list[float]]


def batch(base_url: str, key: str, model: str, texts: list[str]) -> Rows:
    """Texts as memories are added."""
    embedder = OpenAIEmbedding(BaseEmbedderConfig(model=model, api_key=key, openai_base_url=base_url))
    vectors = embedder.embed_batch(texts)
    return list(vectors)


def each(base_url: str, key: str, model: str, texts: list[str]) -> Rows:
    """Each text as the question of a search."""
    embedder = OpenAIEmbedding(BaseEmbedderConfig(model=model, api_key=key, openai_base_url=base_url))
    return [embedder.embed(text, "search") for text in texts]


WAYS = {"batch": batch, "each": each}
