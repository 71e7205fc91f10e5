"""Cohere's SDK: both versions of its client."""

import cohere

Rows = list[list[float]]


def second(base_url: str, key: str, model: str, texts: list[str]) -> Rows:
    """Version 2, by type."""
    client = cohere.ClientV2(key, base_url=base_url.removesuffix("/v1"), max_retries=0)
    answer = client.embed(model=model, texts=texts, input_type="search_document", embedding_types=["float"])
    return [list(row) for row in answer.embeddings.float_ or []]


def first(base_url: str, key: str, model: str, texts: list[str]) -> Rows:
    """Version 1, which cuts the texts itself."""
    client = cohere.Client(key, base_url=base_url.removesuffix("/v1"), max_retries=0)
    answer = client.embed(model=model, texts=texts, input_type="search_document")
    return [list(row) for row in answer.embeddings]


WAYS = {"second": second, "first": first}
