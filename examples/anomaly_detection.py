"""Anomaly detection: the text that lies farthest from the centre of all others does not belong to them."""

import numpy as np

from connection import from_command_line

TEXTS = [
    "Where is my parcel? It should have come on Monday.",
    "The delivery is three days late.",
    "Tracking says that my order has left the warehouse.",
    "Can you send the package to another address?",
    "The courier left the parcel with my neighbour.",
    "My order has not been shipped yet.",
    "The package arrived, but the box was damaged.",
    "Please tell me when my delivery will arrive.",
    "Nobody rang, and the parcel went back to the depot.",
    "How do I change the delivery date of my order?",
    "Photosynthesis turns sunlight into chemical energy.",
    "I still wait for the second parcel of my order.",
]

gateway = from_command_line(__doc__)
answer = gateway.client().embeddings.create(model=gateway.model, input=TEXTS)
vectors = np.array([item.embedding for item in answer.data])

centre = vectors.mean(axis=0)
distances = np.linalg.norm(vectors - centre, axis=1)
threshold = np.percentile(distances, 95)

print(f"95 % of the texts are within {threshold:.3f} of the centre.")
for text, distance in zip(TEXTS, distances, strict=True):
    mark = "anomaly" if distance > threshold else ""
    print(f"{distance:.3f}  {mark:7}  {text}")
