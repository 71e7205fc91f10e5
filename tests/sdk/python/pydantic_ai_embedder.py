"""Pydantic AI: its embedder over the provider for hosts that speak as OpenAI does."""

from pydantic_ai import Embedder
from pydantic_ai.embeddings.openai import OpenAIEmbeddingModel
from pydantic_ai.providers.openai import OpenAIProvider

Rows = list[list[float]]


def documents(base_url: str, key: str, model: str, texts: list[str]) -> Rows:
    """Texts by the call."""
    embedder = Embedder(OpenAIEmbeddingModel(model, provider=OpenAIProvider(base_url=base_url, api_key=key)))
    return [list(row) for row in embedder.embed_documents_sync(texts).embeddings]


WAYS = {"documents": documents}
