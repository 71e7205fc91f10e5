"""Ollama's client."""

import ollama

Rows = list[list[float]]


def embed(base_url: str, key: str, model: str, texts: list[str]) -> Rows:
    """Texts by the call; the models that are listed are those of the gateway."""
    client = ollama.Client(base_url.removesuffix("/v1"), headers={"Authorization": f"Bearer {key}"})
    if model.startswith("local/") and model not in [listed.model for listed in client.list().models]:
        raise AssertionError(f"{model} is not listed")
    return [list(row) for row in client.embed(model, texts).embeddings]


WAYS = {"embed": embed}
