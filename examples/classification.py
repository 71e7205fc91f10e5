"""Classification without training: a text belongs to the label whose vector is nearest to its own.

A bare label says little about what it means. A sentence that describes it makes a better target.
"""

import numpy as np

from connection import from_command_line

TEXT = "My API calls keep returning 429 errors"
LABELS = {
    "Technical Issue": "Something is broken: requests to the API fail, time out or come back with an error code.",
    "Billing Issue": "A question about money: an invoice, a payment, a refund or the price of a plan.",
    "Feature Request": "An idea for the product: please add something that it cannot do yet.",
}

gateway = from_command_line(__doc__)
client = gateway.client()


def embed(texts: list[str]) -> np.ndarray:
    """One vector per text, shape (n, d), in the order of the texts."""
    answer = client.embeddings.create(model=gateway.model, input=texts)
    return np.array([item.embedding for item in answer.data])


def rank(targets: list[str]) -> None:
    """Print the labels, that of the nearest target first. targets: one text per label, in the same order."""
    scores = embed(targets) @ text
    names = list(LABELS)
    for position in np.argsort(-scores):
        print(f"  {scores[position]:.3f}  {names[position]}")


text = embed([TEXT])[0]

print(TEXT)
print("Bare labels:")
rank(list(LABELS))
print("Described labels:")
rank(list(LABELS.values()))
