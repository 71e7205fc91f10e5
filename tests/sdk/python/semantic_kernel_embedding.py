"""Semantic Kernel: its embedding service for OpenAI, with a client of its own address."""

import asyncio

from openai import AsyncOpenAI
from semantic_kernel.connectors.ai.open_ai import OpenAITextEmbedding

Rows = list[list[float]]


def service(base_url: str, key: str, model: str, texts: list[str]) -> Rows:
    """Texts by the call."""

    async def ask() -> Rows:
        client = AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0)
        found = await OpenAITextEmbedding(model, async_client=client).generate_embeddings(texts)
        return [list(map(float, row)) for row in found]

    return asyncio.run(ask())


WAYS = {"service": service}
