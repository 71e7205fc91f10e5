"""The OpenAI SDK: Azure's classes, both ways to wait, and Azure's address for its newer API."""

import asyncio

from openai import AsyncAzureOpenAI, AzureOpenAI, OpenAI

Rows = list[list[float]]


def azure(base_url: str, key: str, model: str, texts: list[str]) -> Rows:
    """As a deployment."""
    address = base_url.removesuffix("/v1")
    client = AzureOpenAI(azure_endpoint=address, api_key=key, api_version="2024-10-21", max_retries=0)
    return [item.embedding for item in client.embeddings.create(model=model, input=texts).data]


def named_deployment(base_url: str, key: str, model: str, texts: list[str]) -> Rows:
    """With the deployment in the address of the client."""
    address = base_url.removesuffix("/v1")
    client = AzureOpenAI(
        azure_endpoint=address, azure_deployment=model, api_key=key, api_version="2024-10-21", max_retries=0
    )
    return [item.embedding for item in client.embeddings.create(model="any", input=texts).data]


def asynchronous(base_url: str, key: str, model: str, texts: list[str]) -> Rows:
    """On an event loop."""

    async def ask() -> Rows:
        address = base_url.removesuffix("/v1")
        async with AsyncAzureOpenAI(
            azure_endpoint=address, api_key=key, api_version="2024-10-21", max_retries=0
        ) as client:
            return [item.embedding for item in (await client.embeddings.create(model=model, input=texts)).data]

    return asyncio.run(ask())


def newer(base_url: str, key: str, model: str, texts: list[str]) -> Rows:
    """Below /openai/v1."""
    client = OpenAI(base_url=f"{base_url.removesuffix('/v1')}/openai/v1", api_key=key, max_retries=0)
    return [item.embedding for item in client.embeddings.create(model=model, input=texts).data]


WAYS = {"azure": azure, "named deployment": named_deployment, "asynchronous": asynchronous, "newer": newer}
