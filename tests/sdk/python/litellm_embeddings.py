"""LiteLLM: the provider for hosts that speak as OpenAI does, Azure's, and its call for chats."""

import litellm

Rows = list[list[float]]
litellm.suppress_debug_info = True


def embedding(base_url: str, key: str, model: str, texts: list[str]) -> Rows:
    """Texts by the call."""
    answer = litellm.embedding(model=f"openai/{model}", input=texts, api_base=base_url, api_key=key, max_retries=0)
    return [item["embedding"] for item in answer.data]


def azure(base_url: str, key: str, model: str, texts: list[str]) -> Rows:
    """As a deployment of Azure's."""
    address = base_url.removesuffix("/v1")
    answer = litellm.embedding(
        model=f"azure/{model}", input=texts, api_base=address, api_key=key, api_version="2024-10-21", max_retries=0
    )
    return [item["embedding"] for item in answer.data]


WAYS = {"embedding": embedding, "azure": azure}
