"""Collection: texts with their vectors, of one model at a time, searched by meaning, by words, or both."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Self

import numpy as np

from embedgate.core.errors import ConfigError, Conflict, InvalidInput, UnknownEntity
from embedgate.core.ports import Embedder
from embedgate.core.vectors import Vectors, normalise
from embedgate.toolkit.collections import filters
from embedgate.toolkit.collections.adding import Added, check_space, put_changed
from embedgate.toolkit.collections.filters import Filter
from embedgate.toolkit.collections.fusion import fuse
from embedgate.toolkit.collections.store import Facts, Generation, Hit, Item, Store, metadata_json
from embedgate.toolkit.embedding import OnError, Progress
from embedgate.toolkit.records import Record, Scalar

Rerank = Callable[[str, Sequence[str]], Sequence[float]]
"""Scores texts against a question, in their order; higher is better."""

MAX_K = 10_000
_CANDIDATES = 50
"""Results of each kind of search, at least, that are fused or reranked."""
_WORD = re.compile(r"\w+")
_MAX_WORDS = 64
_PAGE = 1_000
_COMPARED_AMONG, _COMPARED_CHARS = 16, 2_000
_LEAST_LIKENESS = 0.95
"""Cosine of a text's vector and that which its model gives later. Engines that compute in int8 reach down to 0.97."""


@dataclass(frozen=True, slots=True)
class Found:
    """A result of a search. rank: from 1. score: cosine similarity, the sum of fused ranks, or that of the reranker."""

    rank: int
    id: str
    score: float
    text: str
    source: str = ""
    metadata: Mapping[str, Scalar] = field(default_factory=dict)


def item_of(record: Record) -> Item:
    """A record as an item of a collection; its source is the file that it came from."""
    return Item(record.id, record.text, record.origin.file, record.metadata)


class Collection:
    """Texts with their vectors, in one store. As thread-safe as its embedder.

    `close` it, or use it as a context manager. All methods that read or write raise what `Store` raises.
    """

    def __init__(self, store: Store, embedder: Embedder | None = None) -> None:
        """embedder: for new texts and questions; they are refused without it. Its space is compared when it is used."""
        self._store = store
        self._embedder = embedder
        self._checked: Generation | None = None

    def __enter__(self) -> Self:
        """The collection itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def __len__(self) -> int:
        """How many texts it has."""
        return self._store.count(self.facts.serving)

    @property
    def store(self) -> Store:
        """Where it is kept."""
        return self._store

    @property
    def facts(self) -> Facts:
        """Its name, and the models that it has vectors of."""
        return self._store.facts()

    @property
    def name(self) -> str:
        """Its name."""
        return self.facts.name

    @property
    def serving(self) -> Generation:
        """Model, space and dim of the vectors that are searched."""
        return self.facts.generation()

    def close(self) -> None:
        """Let go of files and connections. The embedder is not closed."""
        self._store.close()

    def add(
        self,
        records: Iterable[Record | Item],
        *,
        on_error: OnError = "stop",
        on_progress: Progress | None = None,
        replaces: Callable[[str], bool] | None = None,
    ) -> Added:
        """Add records, or replace those with the same ids; what has not changed is not embedded again.

        replaces: sources of which nothing but these records is kept. Texts that were put stay if the embedder fails:
        the same call goes on from there. Raises InvalidInput for an id that comes twice, and what the embedder raises.
        """
        items = [_checked(item_of(record) if isinstance(record, Record) else record) for record in records]
        ids = {item.id for item in items}
        if len(ids) < len(items):
            raise InvalidInput("two of the texts have the same id; each needs its own", param="id")
        embedder, generation = self._checked_embedder()
        added = put_changed(self._store, generation, items, embedder, on_error=on_error, on_progress=on_progress)
        if replaces is None:
            return added
        entries = self._store.entries(generation.number)
        gone = [entry.id for entry in entries if entry.id not in ids and replaces(entry.source)]
        n_removed = self._store.remove(generation.number, gone) if gone else 0
        return Added(
            added.n_new, added.n_changed, added.n_unchanged, added.n_embedded, n_removed, left_out=added.left_out
        )

    def check_model(self) -> None:
        """Embed one text of the collection anew, and compare: a host may put other weights behind a model's name.

        The shortest of the first texts is taken; nothing is compared if there is none of less than 2,000 characters.
        Raises Conflict if its vector is another, and what the embedder raises.
        """
        embedder, generation = self._checked_embedder()
        first = [entry.id for entry in islice(self._store.entries(generation.number), _COMPARED_AMONG)]
        items = [item for item in self._store.get(generation.number, first) if len(item.text) < _COMPARED_CHARS]
        if not items:
            return
        item = min(items, key=lambda each: len(each.text))
        kept = self._store.vectors_of(generation.number, [item.digest]).get(item.digest)
        if kept is None or not kept.any():
            return
        (now,) = normalise(embedder.embed_anew([item.text], "document"))
        likeness = float(now @ kept)
        if likeness < _LEAST_LIKENESS:
            raise Conflict(
                f"The model {generation.model} does not give the vectors any more that the collection "
                f"{self.name!r} has: the text {item.id!r} has a similarity of {likeness:.3f} to itself. Its weights "
                "or settings have changed behind its name, so that searches would find the wrong texts. Make a new "
                "collection and add the texts to it, or reindex this one to another model."
            )

    def delete(self, ids: Sequence[str]) -> int:
        """Delete texts by id. Returns how many there were."""
        return self._store.remove(self.facts.serving, ids)

    def matching(self, where: str | Filter) -> list[str]:
        """The ids of all texts whose metadata pass a filter. Raises InvalidInput for one that cannot be read."""
        wanted = _parsed(where)
        return [item.id for item in self.items() if wanted is None or filters.matches(wanted, item.metadata)]

    def unknown_fields(self, where: str | Filter) -> list[str]:
        """The fields of a filter that no text has. Raises InvalidInput for one that cannot be read."""
        missing = filters.fields_of(filters.parse(where) if isinstance(where, str) else where)
        for item in self.items():
            missing -= item.metadata.keys()
            if not missing:
                break
        return sorted(missing)

    def optimize(self, *, on_progress: Progress | None = None) -> None:
        """Make searches fast after many changes. An approximate index is brought up to date, small files are joined.

        on_progress: with the number of texts that are indexed, and that of all that must be.
        """
        self._store.optimize(self.facts.serving, on_progress)

    def items(self) -> Iterator[Item]:
        """All texts, in the order in which they were put."""
        for items, _ in self._pages(with_vectors=False):
            yield from items

    def export(self) -> Iterator[tuple[Sequence[Item], Vectors]]:
        """All texts with their vectors, (n, dim) float32 of unit length, a page at a time."""
        return self._pages(with_vectors=True)

    def search(
        self,
        question: str,
        k: int = 5,
        *,
        where: str | Filter | None = None,
        hybrid: bool = False,
        rerank: Rerank | None = None,
    ) -> list[Found]:
        """The k texts that fit a question best, best first.

        where: a filter on metadata. hybrid: fuse with a search for the question's words. rerank: judges the 50 best, or
        as many as `k`. Raises InvalidInput for an empty question or a wrong filter, Conflict for an embedder of another
        space, UnsupportedOption if the store has no search for words, and what the embedder raises.
        """
        _check_questions([question])
        _check_k(k)
        wanted = _parsed(where)
        embedder, generation = self._checked_embedder()
        (vector,) = normalise(embedder.embed([question], "query"))
        n = max(k, _CANDIDATES) if hybrid or rerank else k
        hits = self._store.nearest(generation.number, vector, n, wanted)
        if hybrid:
            words = list(dict.fromkeys(_WORD.findall(question)))[:_MAX_WORDS]
            by_words = self._store.with_words(generation.number, words, n, wanted)
            hits = fuse([[hit.id for hit in hits], [hit.id for hit in by_words]], n if rerank else k)
        found = self._found(generation, hits)
        return found if rerank is None else _reranked(question, found, rerank, k)

    def question_vectors(self, questions: Sequence[str]) -> Vectors:
        """The vectors of questions, (n, dim) of unit length, to be searched with. Raises what `search` raises."""
        _check_questions(questions)
        embedder, _ = self._checked_embedder()
        return normalise(embedder.embed(questions, "query"))

    def search_vector(self, vector: Vectors, k: int = 5, *, where: str | Filter | None = None) -> list[Found]:
        """The k texts whose vectors are nearest to one of the same space, (dim,), by cosine. Raises as `search`."""
        _check_k(k)
        generation = self.serving
        if np.shape(vector) != (generation.dim,) or not np.isfinite(vector).all():
            raise InvalidInput(
                f"a vector of {generation.dim} numbers is needed, not {np.shape(vector)}", param="vector"
            )
        (unit,) = normalise(np.asarray(vector, dtype=np.float32)[np.newaxis])
        return self._found(generation, self._store.nearest(generation.number, unit, k, _parsed(where)))

    def best_scores(self, vectors: Vectors) -> list[float]:
        """How similar the nearest text is to each of several vectors of unit length, (n, dim); -inf without texts.

        An exact store reads its vectors once, whatever the number of those that are asked.
        """
        return self._store.best_scores(self.facts.serving, vectors)

    def similar(self, item_id: str, k: int = 5, *, where: str | Filter | None = None) -> list[Found]:
        """The k texts that are nearest to one of the collection, without itself. Raises UnknownEntity, InvalidInput."""
        _check_k(k)
        generation = self.serving
        found = self._store.get(generation.number, [item_id])
        if not found:
            raise UnknownEntity(f"The collection {self.name!r} has no text with the id {item_id!r}.")
        (vector,) = self._store.vectors_of(generation.number, [found[0].digest]).values()
        hits = self._store.nearest(generation.number, vector, k + 1, _parsed(where))
        return self._found(generation, [hit for hit in hits if hit.id != item_id][:k])

    def _checked_embedder(self) -> tuple[Embedder, Generation]:
        facts = self.facts
        generation = facts.generation()
        if self._embedder is None:
            raise ConfigError([f"the collection {facts.name!r} was opened without an embedder"])
        if self._checked != generation:
            check_space(self._embedder, generation, facts.name)
            self._checked = generation
        return self._embedder, generation

    def _found(self, generation: Generation, hits: Sequence[Hit]) -> list[Found]:
        items = {item.id: item for item in self._store.get(generation.number, [hit.id for hit in hits])}
        kept = [(items[hit.id], hit.score) for hit in hits if hit.id in items]
        return [
            Found(rank, item.id, score, item.text, item.source, item.metadata)
            for rank, (item, score) in enumerate(kept, start=1)
        ]

    def _pages(self, *, with_vectors: bool) -> Iterator[tuple[Sequence[Item], Vectors]]:
        number = self.facts.serving
        ids = [entry.id for entry in self._store.entries(number)]
        nothing = np.empty((0, 0), dtype=np.float32)
        for start in range(0, len(ids), _PAGE):
            items = self._store.get(number, ids[start : start + _PAGE])
            if not with_vectors:
                yield items, nothing
                continue
            digests = [item.digest for item in items]
            vectors = self._store.vectors_of(number, digests)
            kept = [(item, vectors[digest]) for item, digest in zip(items, digests, strict=True) if digest in vectors]
            if kept:
                yield [item for item, _ in kept], np.stack([vector for _, vector in kept])


def _reranked(question: str, found: Sequence[Found], rerank: Rerank, k: int) -> list[Found]:
    if not found:
        return []
    scores = rerank(question, [each.text for each in found])
    if len(scores) != len(found):
        raise Conflict(f"the reranker gave {len(scores)} scores for {len(found)} texts")
    ranked = sorted(zip(found, scores, strict=True), key=lambda pair: -pair[1])
    return [
        Found(rank, each.id, float(score), each.text, each.source, each.metadata)
        for rank, (each, score) in enumerate(ranked[:k], start=1)
    ]


def _checked(item: Item) -> Item:
    """The item itself. Raises InvalidInput for one that no store can keep."""
    for what, content in (("id", item.id), ("text", item.text), ("source", item.source)):
        try:
            content.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(f"the {what} of {item.id!r} is not valid Unicode", param=what) from error
        if "\0" in content:
            raise InvalidInput(f"the {what} of {item.id!r} has a NUL character", param=what)
    if not item.id:
        raise InvalidInput("an id is empty", param="id")
    metadata_json(item)
    return item


def _parsed(where: str | Filter | None) -> Filter | None:
    return filters.parse(where) if isinstance(where, str) else where


def _check_questions(questions: Sequence[str]) -> None:
    if not all(question.strip() for question in questions):
        raise InvalidInput("The question is empty.", param="question")


def _check_k(k: int) -> None:
    if not 1 <= k <= MAX_K:
        raise InvalidInput(f"k is {k}; from 1 to {MAX_K:,} results are possible.", param="k")
