"""DSPy: its embedder, which asks through LiteLLM."""

import dspy

Rows = list[list[float]]


def embedder(base_url: str, key: str, model: str, texts: list[str]) -> Rows:
    """Texts by the batch."""
    embed = dspy.Embedder(f"openai/{model}", batch_size=32, caching=False, api_base=base_url, api_key=key)
    return [list(map(float, row)) for row in embed(texts)]


WAYS = {"embedder": embedder}
