"""Semantic search: find the sentence that answers a question, whatever words it uses.

Every sentence becomes a vector once. A question becomes a vector, too, and the nearest sentences come first.
"""

import numpy as np

from connection import from_command_line

DOCUMENTS = [
    "Requests are sent to the cheapest provider that serves the chosen model.",
    "An invoice with the token usage of every team is drawn up at the end of the month.",
    "If a provider stops responding, traffic is switched to a backup automatically.",
    "Log lines hold lengths and request ids, never the text that was sent.",
    "Each application gets a key of its own, which can be revoked at any time.",
    "Long lists of texts are split into batches that the provider accepts.",
]
QUESTION = "What happens when a model goes down?"

gateway = from_command_line(__doc__)
client = gateway.client()


def embed(texts: list[str]) -> np.ndarray:
    """One vector per text, shape (n, d), in the order of the texts."""
    answer = client.embeddings.create(model=gateway.model, input=texts)
    return np.array([item.embedding for item in answer.data])


documents = embed(DOCUMENTS)
question = embed([QUESTION])[0]

# The vectors have length 1, so that the dot product is the cosine of the angle between them: 1 means the same.
scores = documents @ question

print(QUESTION)
for position in np.argsort(-scores):
    print(f"{scores[position]:.3f}  {DOCUMENTS[position]}")
