"""Clustering: K-Means finds the topics of texts that nobody has labelled."""

import numpy as np
from sklearn.cluster import KMeans

from connection import from_command_line

TEXTS = [
    "Bake the bread until the crust is golden.",
    "Stir the sauce while the onions soften in butter.",
    "Season the soup with thyme and a little salt.",
    "Let the dough rise for an hour before you knead it again.",
    "The goalkeeper saved a penalty in the last minute.",
    "Their striker scored twice in the second half.",
    "The coach changed the line-up before the final.",
    "Fans sang in the stadium long after the match.",
    "The telescope found a planet around a distant star.",
    "Astronauts repaired a solar panel outside the station.",
    "The comet will pass close to the Sun in spring.",
    "A rover sent new pictures of craters on Mars.",
]

gateway = from_command_line(__doc__)
answer = gateway.client().embeddings.create(model=gateway.model, input=TEXTS)
vectors = np.array([item.embedding for item in answer.data])

clusters = KMeans(n_clusters=3, random_state=42).fit_predict(vectors)

for cluster in range(3):
    print(f"Cluster {cluster}:")
    for text, found in zip(TEXTS, clusters, strict=True):
        if found == cluster:
            print(f"  {text}")
