"""LlamaIndex: the class for hosts that speak as OpenAI does, OpenAI's own class, and both ways to wait."""

import asyncio

from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.embeddings.openai_like import OpenAILikeEmbedding

Rows = list[list[float]]


def batches(base_url: str, key: str, model: str, texts: list[str]) -> Rows:
    """Texts by the batch, as an index embeds its nodes."""
    embedding = OpenAILikeEmbedding(api_base=base_url, api_key=key, model_name=model, embed_batch_size=32)
    vectors = embedding.get_text_embedding_batch(texts)
    return list(vectors)


def queries(base_url: str, key: str, model: str, texts: list[str]) -> Rows:
    """Each text as the question of a search."""
    embedding = OpenAILikeEmbedding(api_base=base_url, api_key=key, model_name=model)
    return [embedding.get_query_embedding(text) for text in texts]


def asynchronous(base_url: str, key: str, model: str, texts: list[str]) -> Rows:
    """Batches on an event loop, several at a time."""
    embedding = OpenAILikeEmbedding(api_base=base_url, api_key=key, model_name=model, num_workers=2)
    vectors = asyncio.run(embedding.aget_text_embedding_batch(texts))
    return list(vectors)


def class_of_openai(base_url: str, key: str, model: str, texts: list[str]) -> Rows:
    """`model` takes OpenAI's names alone; `model_name` takes any."""
    embedding = OpenAIEmbedding(api_base=base_url, api_key=key, model_name=model)
    vectors = embedding.get_text_embedding_batch(texts)
    return list(vectors)


WAYS = {
    "batches": batches,
    "queries": queries,
    "asynchronous": asynchronous,
    "class of OpenAI": class_of_openai,
}
