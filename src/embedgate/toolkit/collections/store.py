"""The port of a store: where one collection keeps its texts and vectors. All pass one conformance suite.

A generation is a whole set of texts with the vectors of one model. One of them serves; others are being made, or were
replaced and are kept to roll back to.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from hashlib import blake2b
from typing import NamedTuple, Protocol

import orjson

from embedgate.core.errors import Conflict, InvalidInput
from embedgate.core.vectors import Vectors
from embedgate.toolkit.collections.filters import Filter
from embedgate.toolkit.embedding import Progress
from embedgate.toolkit.records import Scalar

_DIGEST_BYTES = 16
"""128 bits: two of a billion texts have the same digest with a chance of 1e-21."""


@dataclass(frozen=True, slots=True)
class Generation:
    """Which model made a set of vectors. wanted_dim: the size that was asked for; None for the model's own."""

    number: int
    model: str
    space: str
    dim: int
    wanted_dim: int | None = None

    def __str__(self) -> str:
        """For messages: model, space and dim."""
        named = self.model if self.space == self.model else f"{self.model}, space {self.space}"
        return f"{named}, dim {self.dim}"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a store knows of its collection. serving: number of the generation that is searched.

    n_made: of all generations that there ever were, so that no two of them have the same number. previous: number of
    the generation that served before; it may be gone. is_approximate: whether an approximate index is wanted.
    """

    name: str
    created_at: datetime
    serving: int
    generations: tuple[Generation, ...]
    n_made: int
    previous: int | None = None
    is_approximate: bool = False

    @classmethod
    def of_new(
        cls, name: str, model: str, space: str, dim: int, wanted_dim: int | None, *, is_approximate: bool = False
    ) -> "Facts":
        """Those of an empty collection with one generation, which serves."""
        first = Generation(1, model, space, dim, wanted_dim)
        return cls(name, datetime.now(UTC), 1, (first,), 1, is_approximate=is_approximate)

    @classmethod
    def from_json(cls, content: str | bytes) -> "Facts":
        """Those that `to_json` wrote, now or in an earlier version."""
        found = orjson.loads(content)
        found["created_at"] = datetime.fromisoformat(found["created_at"])
        found["generations"] = tuple(Generation(**each) for each in found["generations"])
        return cls(**found)

    def to_json(self) -> str:
        """As stores keep them."""
        return orjson.dumps(asdict(self)).decode()

    def generation(self, number: int | None = None) -> Generation:
        """One generation, the serving one if no number is given. Raises KeyError."""
        wanted = self.serving if number is None else number
        for each in self.generations:
            if each.number == wanted:
                return each
        raise KeyError(wanted)

    def with_generation(self, generation: Generation) -> "Facts":
        """These, and a new generation."""
        return replace(self, generations=(*self.generations, generation), n_made=generation.number)

    def without_generation(self, number: int) -> "Facts":
        """These, without a generation. Raises Conflict if it serves."""
        if number == self.serving:
            raise Conflict(f"The vectors of {self.generation(number)} serve; they cannot be discarded.")
        return replace(self, generations=tuple(each for each in self.generations if each.number != number))

    def with_switch(self, number: int) -> "Facts":
        """These, with another generation serving."""
        return replace(self, serving=number, previous=self.serving)


@dataclass(frozen=True, slots=True)
class Item:
    """One text of a collection. source: the file that it was read from. metadata: what filters see."""

    id: str
    text: str
    source: str = ""
    metadata: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Digest of the text: texts with the same one have the same vector."""
        return _digest(self.text.encode())

    @property
    def details(self) -> str:
        """Digest of all else."""
        return _digest(orjson.dumps([self.source, dict(self.metadata)], option=orjson.OPT_SORT_KEYS))


class Entry(NamedTuple):
    """What tells whether an item has changed: its id, both digests, and its source."""

    id: str
    digest: str
    details: str
    source: str


class Hit(NamedTuple):
    """A result of a search, by id. score: higher is better."""

    id: str
    score: float


class Store(Protocol):
    """Store of one collection. Every call is atomic: after a crash it has happened as a whole, or not at all.

    Vectors are (n, dim) float32 with rows of unit length, or of zeros. Methods raise OSError if the store cannot be
    read or written, and Conflict if another process keeps it locked.
    """

    @property
    def has_keywords(self) -> bool:
        """Whether `with_words` is supported."""
        ...

    @property
    def is_exact(self) -> bool:
        """Whether `nearest` finds exactly the nearest vectors."""
        ...

    def facts(self) -> Facts:
        """What the collection is now: other processes may have changed it."""
        ...

    def begin(self, model: str, space: str, dim: int, wanted_dim: int | None) -> Generation:
        """Start an empty generation, with a number that none had before."""
        ...

    def discard(self, number: int) -> None:
        """Delete a generation that does not serve. Raises Conflict if it serves."""
        ...

    def switch(self, number: int) -> bool:
        """Let a generation serve if it has the same texts and metadata as the one that does; else False, unchanged."""
        ...

    def entries(self, number: int) -> Iterator[Entry]:
        """All items of a generation, without their texts, in the order in which they were put."""
        ...

    def get(self, number: int, ids: Sequence[str]) -> list[Item]:
        """The items that there are, in the order of `ids`."""
        ...

    def vectors_of(self, number: int, digests: Sequence[str]) -> dict[str, Vectors]:
        """The vectors, (dim,) each, of texts that some item of the generation has, by the digest of the text."""
        ...

    def put(self, number: int, items: Sequence[Item], vectors: Vectors) -> None:
        """Add items, or replace those with the same ids. Ids in one call differ."""
        ...

    def remove(self, number: int, ids: Sequence[str]) -> int:
        """Delete items. Returns how many there were."""
        ...

    def count(self, number: int) -> int:
        """How many items a generation has."""
        ...

    def nearest(self, number: int, query: Vectors, k: int, where: Filter | None = None) -> list[Hit]:
        """The k items with the largest dot product with `query`, (dim,), that pass the filter; best first."""
        ...

    def best_scores(self, number: int, queries: Vectors) -> list[float]:
        """The largest dot product that each of the queries, (n, dim), has with an item; -inf without items."""
        hits = [self.nearest(number, query, 1) for query in queries]
        return [found[0].score if found else -math.inf for found in hits]

    def with_words(self, number: int, words: Sequence[str], k: int, where: Filter | None = None) -> list[Hit]:
        """The k items that fit the words best, by the store's own ranking, that pass the filter; best first."""
        ...

    def optimize(self, number: int, on_progress: Progress | None = None) -> None:
        """Make searches of a generation fast: bring its index up to date, join small files.

        on_progress: with the number of texts that are indexed, and that of all that must be.
        """
        ...

    def unindexed(self, number: int) -> int:
        """How many items of a generation an approximate index does not have yet; they are compared one by one."""
        ...

    def size_bytes(self) -> int:
        """What the collection takes on disk."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...

    def destroy(self) -> None:
        """Close, and delete everything."""
        ...


class Shelf(Protocol):
    """A place of collections: a folder, a database, a server. Methods raise what `Store` raises."""

    def create(self, facts: Facts) -> Store:
        """Make an empty collection. Raises Conflict if its name is taken, UnsupportedOption for what it cannot be."""
        ...

    def find(self, name: str) -> Store | None:
        """The store of the collection of that name, if there is one."""
        ...

    def names(self) -> list[str]:
        """The names of all collections, in order."""
        ...


def metadata_json(item: Item) -> bytes:
    """Metadata as JSON, as stores keep them. Raises InvalidInput for values that JSON does not have."""
    try:
        return orjson.dumps(dict(item.metadata))
    except orjson.JSONEncodeError as error:
        raise InvalidInput(f"the metadata of {item.id!r} cannot be stored: {error}.", param="metadata") from error


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=_DIGEST_BYTES).hexdigest()
