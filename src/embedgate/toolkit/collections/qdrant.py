"""Store in Qdrant: exact search by default, its HNSW on demand, words by sparse vectors that it weights by rarity.

Each generation is a collection of Qdrant, `embedgate.NAME.N`; the collection `embedgate` has the facts of all. Qdrant
has no transactions: one call of it is done as a whole or not at all, and whoever switches must be the only writer.
"""

import errno
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit
from uuid import UUID, uuid5

import numpy as np
import orjson

from embedgate.core.errors import Conflict
from embedgate.core.vectors import Vectors
from embedgate.toolkit.collections import filters
from embedgate.toolkit.collections.filters import Filter
from embedgate.toolkit.collections.qdrant_filters import FIELD, condition_of, fields_of
from embedgate.toolkit.collections.store import Entry, Facts, Generation, Hit, Item, Shelf, Store, metadata_json
from embedgate.toolkit.collections.words import folded_words
from embedgate.toolkit.embedding import Progress
from embedgate.toolkit.libraries import library

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

_FACTS = "embedgate"
_NAMES = UUID("b3b1a0d0-6f0c-4a57-9d43-5a8f3f5c7b11")
_TEXT, _WORDS = "text", "words"
"""Names of the two vectors of a point."""
_TIMEOUT_S = 60
_PAGE = 1_000
_MAX_CALL_BYTES = 16_000_000
"""A server takes bodies of 32 MB, unless it is told otherwise."""
_BYTES_PER_NUMBER = 13
"""Of a vector as JSON, about."""
_SATURATION, _LENGTH_SHARE, _USUAL_WORDS = 1.2, 0.75, 256
"""Of BM25, with a fixed length of the usual text, since that of all texts changes with each."""


class Qdrant(Shelf):
    """The collections of one server, or of a folder without a server."""

    def __init__(self, shown: str, connect: "Callable[[], QdrantClient]", folder: Path | None = None) -> None:
        """shown: the address in messages. Use `at` or `of_folder`."""
        self._connection = _Connection(shown, connect, folder)

    @classmethod
    def at(cls, address: str) -> "Qdrant":
        """Those of a server: `https://host:6333`, `https://:API_KEY@host:6333`. Raises DependencyMissing."""
        client = library("qdrant_client").QdrantClient
        parts = urlsplit(address)
        key = unquote(parts.password or parts.username or "") or None
        shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        # Asking for its version would warn on standard output.
        more = {"api_key": key, "timeout": _TIMEOUT_S, "check_compatibility": False}
        return cls(shown, lambda: client(url=shown, **more))

    @classmethod
    def of_folder(cls, folder: Path) -> "Qdrant":
        """Those of a folder, which one process at a time holds in memory: for trials. Raises DependencyMissing."""
        client = library("qdrant_client").QdrantClient
        return cls(str(folder), lambda: client(path=str(folder)), folder)

    def create(self, facts: Facts) -> "QdrantStore":
        """Make a collection of Qdrant, then its facts."""
        with self._connection as client:
            if not client.collection_exists(_FACTS):
                client.create_collection(_FACTS, vectors_config={})
            if _facts(client, facts.name) is not None:
                raise Conflict(f"There is a collection {facts.name!r} already.")
            _make_points(self._connection, client, _points(facts.name, 1), facts.generation().dim)
            _save(client, facts)
        return QdrantStore(self._connection, facts.name)

    def find(self, name: str) -> "QdrantStore | None":
        """Looked up among the facts."""
        with self._connection as client:
            is_there = client.collection_exists(_FACTS) and _facts(client, name) is not None
        return QdrantStore(self._connection, name) if is_there else None

    def names(self) -> list[str]:
        """From the facts."""
        with self._connection as client:
            if not client.collection_exists(_FACTS):
                return []
            return sorted(Facts.from_json(each["facts"]).name for _, each, _ in _scrolled(client, _FACTS, ["facts"]))


class QdrantStore(Store):
    """Store in Qdrant. Thread-safe. Texts of more than 16 MB together are put in several calls."""

    has_keywords = True

    def __init__(self, connection: "_Connection", name: str) -> None:
        """The connection is kept until the store is closed."""
        self._connection = connection
        self._name = name
        self._is_open = True
        self._last_row = 0
        connection.acquire()

    @property
    def is_exact(self) -> bool:
        """Without its index, Qdrant compares all vectors."""
        return not self.facts().is_approximate

    def facts(self) -> Facts:
        """From its point among the facts."""
        with self._connection as client:
            return self._facts(client)

    def begin(self, model: str, space: str, dim: int, wanted_dim: int | None) -> Generation:
        """Make a collection of Qdrant, then let the facts know it."""
        with self._connection as client:
            facts = self._facts(client)
            generation = Generation(facts.n_made + 1, model, space, dim, wanted_dim)
            _make_points(self._connection, client, self._points(generation.number), dim)
            _save(client, facts.with_generation(generation))
        return generation

    def discard(self, number: int) -> None:
        """Let the facts forget it, then delete it."""
        with self._connection as client:
            _save(client, self._facts(client).without_generation(number))
            client.delete_collection(self._points(number))

    def switch(self, number: int) -> bool:
        """Compared here; the switch is one call. Texts that others put between the two are not seen."""
        with self._connection as client:
            facts = self._facts(client)
            one, other = ({each[:3] for each in self.entries(each)} for each in (facts.serving, number))
            if one != other:
                return False
            _save(client, facts.with_switch(number))
        return True

    def entries(self, number: int) -> Iterator[Entry]:
        """All are read, then put in order."""
        wanted = ["row", "id", "digest", "details", "source"]
        with self._connection as client:
            found = [
                (payload["row"], Entry(*(payload[name] for name in wanted[1:])))
                for _, payload, _ in _scrolled(client, self._points(number), wanted)
            ]
        yield from (entry for _, entry in sorted(found))

    def get(self, number: int, ids: Sequence[str]) -> list[Item]:
        """By the ids of points, which are made of those of items."""
        found = {}
        with self._connection as client:
            for start in range(0, len(ids), _PAGE):
                points = [_point_id(item_id) for item_id in ids[start : start + _PAGE]]
                for each in client.retrieve(self._points(number), ids=points):
                    payload = each.payload or {}
                    metadata = orjson.loads(payload["metadata"])
                    found[payload["id"]] = Item(payload["id"], payload["text"], payload["source"], metadata)
        return [found[item_id] for item_id in ids if item_id in found]

    def vectors_of(self, number: int, digests: Sequence[str]) -> dict[str, Vectors]:
        """By digest, which has an index on a server."""
        models = library("qdrant_client.models")
        found = {}
        with self._connection as client:
            for start in range(0, len(digests), _PAGE):
                wanted = models.MatchAny(any=list(digests[start : start + _PAGE]))
                condition = models.Filter(must=[models.FieldCondition(key="digest", match=wanted)])
                for _, payload, vector in _scrolled(client, self._points(number), ["digest"], condition, vectors=True):
                    found[payload["digest"]] = np.asarray(vector, dtype=np.float32)
        return found

    def put(self, number: int, items: Sequence[Item], vectors: Vectors) -> None:
        """A point takes the place of one with the same id."""
        models = library("qdrant_client.models")
        self._last_row = max(self._last_row, int(datetime.now(UTC).timestamp() * 1e6))
        part: list[Any] = []
        size_bytes = 0
        with self._connection as client:
            for item, vector in zip(items, vectors.tolist(), strict=True):
                self._last_row += 1
                metadata = metadata_json(item)
                payload = {
                    "row": self._last_row,
                    "id": item.id,
                    "digest": item.digest,
                    "details": item.details,
                    "source": item.source,
                    "text": item.text,
                    "metadata": metadata.decode(),
                    FIELD: fields_of(orjson.loads(metadata)),
                }
                both = {_TEXT: vector, **_word_vector(item.text, models)}
                point_bytes = len(vector) * _BYTES_PER_NUMBER + 4 * len(item.text) + 3 * len(metadata)
                if part and size_bytes + point_bytes > _MAX_CALL_BYTES:
                    client.upsert(self._points(number), points=part, wait=True)
                    part, size_bytes = [], 0
                part.append(models.PointStruct(id=_point_id(item.id), vector=both, payload=payload))
                size_bytes += point_bytes
            if part:
                client.upsert(self._points(number), points=part, wait=True)

    def remove(self, number: int, ids: Sequence[str]) -> int:
        """One call."""
        models = library("qdrant_client.models")
        with self._connection as client:
            there = [_point_id(item.id) for item in self.get(number, list(dict.fromkeys(ids)))]
            if there:
                chosen = models.PointIdsList(points=there)
                client.delete(self._points(number), points_selector=chosen, wait=True)
        return len(there)

    def count(self, number: int) -> int:
        """Counted, not estimated."""
        with self._connection as client:
            return int(client.count(self._points(number), exact=True).count)

    def nearest(self, number: int, query: Vectors, k: int, where: Filter | None = None) -> list[Hit]:
        """Every vector is compared, or those that HNSW proposes. Ties are in the order in which they were put."""
        return self._query(number, query.tolist(), _TEXT, k, where)

    def with_words(self, number: int, words: Sequence[str], k: int, where: Filter | None = None) -> list[Hit]:
        """By a product of sparse vectors that comes near to BM25."""
        models = library("qdrant_client.models")
        numbers = {_word_number(folded): 1.0 for word in words for folded in folded_words(word)}
        if not numbers:
            return []
        query = models.SparseVector(indices=list(numbers), values=list(numbers.values()))
        return self._query(number, query, _WORDS, k, where)

    def optimize(self, number: int, on_progress: Progress | None = None) -> None:
        """Nothing to do: Qdrant does it by itself."""

    def unindexed(self, number: int) -> int:  # noqa: ARG002 - of the port
        """None: Qdrant keeps its index up to date."""
        return 0

    def size_bytes(self) -> int:
        """The files of a folder. A server does not tell; of one, the bytes of the vectors."""
        folder = self._connection.folder
        with self._connection as client:
            facts = self._facts(client)
            if folder is None:
                return sum(self.count(each.number) * each.dim * 4 for each in facts.generations)
        places = [folder / "collection" / self._points(each.number) for each in facts.generations]
        return sum(file.stat().st_size for place in places for file in place.rglob("*") if file.is_file())

    def close(self) -> None:
        """Let go of the connection."""
        if self._is_open:
            self._is_open = False
            self._connection.release()

    def destroy(self) -> None:
        """Delete the facts, then everything else."""
        models = library("qdrant_client.models")
        with self._connection as client:
            facts = self._facts(client)
            client.delete(_FACTS, points_selector=models.PointIdsList(points=[_point_id(self._name)]), wait=True)
            for each in facts.generations:
                client.delete_collection(self._points(each.number))
        self.close()

    def _points(self, number: int) -> str:
        return _points(self._name, number)

    def _facts(self, client: "QdrantClient") -> Facts:
        found = _facts(client, self._name)
        if found is None:
            raise Conflict(f"The collection {self._name!r} was dropped meanwhile.")
        return found

    def _query(self, number: int, query: Any, vector: str, k: int, where: Filter | None) -> list[Hit]:
        models = library("qdrant_client.models")
        with self._connection as client:
            condition = None
            if where is not None:
                condition = condition_of(where, models)
                condition = condition or models.HasIdCondition(has_id=self._matching(client, number, where))
                condition = models.Filter(must=[condition])
            exact = vector == _TEXT and not self._facts(client).is_approximate
            params = models.SearchParams(exact=True) if exact and self._connection.folder is None else None
            found = client.query_points(
                self._points(number),
                query=query,
                using=vector,
                limit=k,
                query_filter=condition,
                search_params=params,
                with_payload=["id", "row"],
            ).points
        hits = [(each.score, each.payload or {}) for each in found]
        hits.sort(key=lambda hit: (-hit[0], hit[1]["row"]))
        return [Hit(payload["id"], float(score)) for score, payload in hits]

    def _matching(self, client: "QdrantClient", number: int, where: Filter) -> list[str]:
        """Points whose metadata pass a filter that Qdrant has no condition for."""
        found = _scrolled(client, self._points(number), ["metadata"])
        return [point for point, payload, _ in found if filters.matches(where, orjson.loads(payload["metadata"]))]


class _Connection:
    """A client that all stores of a shelf share, since a folder takes one only. Turns its errors into ours.

    A context that gives the client, to one thread at a time if there is no server. It is made for the first user, and
    closed after the last.
    """

    def __init__(self, shown: str, connect: "Callable[[], QdrantClient]", folder: Path | None) -> None:
        self.folder = folder
        self._shown = shown
        self._connect = connect
        self._lock = threading.RLock()
        self._n_users = 0
        self._client: QdrantClient | None = None

    def acquire(self) -> "QdrantClient":
        """Be a user until `release`."""
        with self._lock:
            if self._client is None:
                try:
                    self._client = self._connect()
                except RuntimeError as error:  # a folder that another process has open
                    raise Conflict(f"{self._shown}: {error}") from error
            self._n_users += 1
            return self._client

    def release(self) -> None:
        """Close the client after its last user."""
        with self._lock:
            self._n_users -= 1
            if self._n_users == 0 and self._client is not None:
                self._client.close()
                self._client = None

    def __enter__(self) -> "QdrantClient":
        if self.folder is not None:
            self._lock.acquire()
        try:
            return self.acquire()
        except BaseException:
            if self.folder is not None:
                self._lock.release()
            raise

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.release()
        if self.folder is not None:
            self._lock.release()
        if error is not None:
            self._raise(error)

    def _raise(self, error: BaseException) -> None:
        exceptions = library("qdrant_client.http.exceptions")
        if isinstance(error, exceptions.UnexpectedResponse):
            said = f"the server answered {error.status_code}: {error.content.decode(errors='replace')[:300]}"
            if error.status_code == 404:
                raise Conflict(f"{self._shown}: what is asked for was deleted meanwhile; {said}") from error
            if error.status_code in {401, 403}:
                said += " (an API key stands in the address: https://:API_KEY@host:6333)"
            raise OSError(errno.EIO, said, self._shown) from error
        if isinstance(error, exceptions.ResponseHandlingException | sqlite3.Error):
            number = errno.ENOSPC if "full" in str(error) else errno.EIO
            raise OSError(number, str(error) or "the server does not answer", self._shown) from error


def _points(name: str, number: int) -> str:
    return f"{_FACTS}.{name}.{number:d}"


def _point_id(item_id: str) -> str:
    return str(uuid5(_NAMES, item_id))


def _make_points(connection: _Connection, client: "QdrantClient", name: str, dim: int) -> None:
    """A collection of Qdrant, in the place of one that a killed process may have left before its facts were there."""
    models = library("qdrant_client.models")
    client.delete_collection(name)
    client.create_collection(
        name,
        # Vectors have unit length already: the cosine of Qdrant would divide once more.
        vectors_config={_TEXT: models.VectorParams(size=dim, distance=models.Distance.DOT)},
        sparse_vectors_config={_WORDS: models.SparseVectorParams(modifier=models.Modifier.IDF)},
    )
    if connection.folder is None:
        client.create_payload_index(name, "digest", field_schema=models.PayloadSchemaType.KEYWORD, wait=True)


def _facts(client: "QdrantClient", name: str) -> Facts | None:
    found = client.retrieve(_FACTS, ids=[_point_id(name)])
    return Facts.from_json((found[0].payload or {})["facts"]) if found else None


def _save(client: "QdrantClient", facts: Facts) -> None:
    models = library("qdrant_client.models")
    point = models.PointStruct(id=_point_id(facts.name), vector={}, payload={"facts": facts.to_json()})
    client.upsert(_FACTS, points=[point], wait=True)


def _scrolled(
    client: "QdrantClient", name: str, wanted: list[str], condition: Any = None, *, vectors: bool = False
) -> Iterator[tuple[str, Mapping[str, Any], Any]]:
    """Ids of points, the wanted parts of their payloads, and perhaps their vectors, a page at a time."""
    offset: Any = None
    while True:
        points, offset = client.scroll(
            name,
            scroll_filter=condition,
            limit=_PAGE,
            offset=offset,
            with_payload=wanted,
            with_vectors=[_TEXT] if vectors else False,
        )
        for each in points:
            vector: Any = each.vector
            yield str(each.id), each.payload or {}, vector[_TEXT] if vectors else None
        if offset is None:
            return


def _word_vector(text: str, models: Any) -> dict[str, Any]:
    """How often a text has each word, by BM25, to be multiplied with how rare the word is; none for no words."""
    words = folded_words(text)
    if not words:
        return {}
    length = 1 - _LENGTH_SHARE + _LENGTH_SHARE * len(words) / _USUAL_WORDS
    weights: dict[int, float] = {}
    for word, n in Counter(words).items():
        weights[_word_number(word)] = n * (_SATURATION + 1) / (n + _SATURATION * length)
    return {_WORDS: models.SparseVector(indices=list(weights), values=list(weights.values()))}


def _word_number(word: str) -> int:
    return int.from_bytes(blake2b(word.encode(), digest_size=4).digest())
