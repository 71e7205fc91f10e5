"""Chroma: a collection in memory, and one on disk that is closed, opened again and searched."""

import os
import tempfile
from collections.abc import Sequence

import chromadb
from chromadb.utils.embedding_functions import OpenAIEmbeddingFunction

Rows = Sequence[Sequence[float]]


def added(base_url: str, key: str, model: str, texts: list[str]) -> Rows:
    """Documents as a collection stores them."""
    os.environ["CHROMA_OPENAI_API_KEY"] = key
    client = chromadb.EphemeralClient()
    collection = client.create_collection(
        "notes", embedding_function=OpenAIEmbeddingFunction(api_base=base_url, model_name=model)
    )
    try:
        add(collection, texts)
        stored = collection.get(ids=[str(position) for position in range(len(texts))], include=["embeddings"])
    finally:
        client.delete_collection("notes")  # all clients in memory share one
    in_order = sorted(zip(stored["ids"], stored["embeddings"], strict=True), key=lambda pair: int(pair[0]))
    return [vector for _, vector in in_order]


def found(base_url: str, key: str, model: str, texts: list[str]) -> Rows:
    """What a search for each text finds first, which is itself, in a collection that knows how it was embedded."""
    questions = texts
    os.environ["CHROMA_OPENAI_API_KEY"] = key
    with tempfile.TemporaryDirectory() as folder:
        client = chromadb.PersistentClient(folder)
        collection = client.create_collection(
            "notes", embedding_function=OpenAIEmbeddingFunction(api_base=base_url, model_name=model)
        )
        add(collection, texts)
        client.close()

        client = chromadb.PersistentClient(folder)
        collection = client.get_collection("notes")
        nearest = collection.query(query_texts=questions, n_results=1, include=["documents", "embeddings"])
        client.close()
    return [vectors[0] for vectors in nearest["embeddings"]]


def add(collection: chromadb.Collection, texts: list[str]) -> None:
    """Put the texts into a collection under the numbers of their places."""
    ids = [str(position) for position in range(len(texts))]

    size = 32  # Chroma asks for the vectors of one `add` in one call, whatever its size
    for start in range(0, len(texts), size):
        collection.add(ids=ids[start : start + size], documents=texts[start : start + size])


WAYS = {"added": added, "found": found}
