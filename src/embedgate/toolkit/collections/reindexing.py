"""Reindexing: moving a collection to another model while the vectors of the old one serve.

The new vectors are another generation of the store. It serves from one moment to the next, and only if it has exactly
what the old one has; the old one is kept, to roll back to.
"""

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from embedgate.core.errors import Conflict, InvalidInput
from embedgate.core.ports import Embedder
from embedgate.core.types import InputType
from embedgate.core.vectors import Vectors, normalise
from embedgate.toolkit.collections.adding import put_changed
from embedgate.toolkit.collections.collection import Collection
from embedgate.toolkit.collections.store import Generation, Item, Store
from embedgate.toolkit.embedding import Progress

_TRIAL_TEXTS = 16
"""Texts that are embedded to see how long a text takes; their vectors are kept."""
_BYTES_PER_TOKEN = 4
"""Of English; other scripts have more tokens in as many bytes."""
_PAGE = 10_000
"""Texts in memory at a time."""
_MAX_ROUNDS = 10
"""Rounds in which what others changed meanwhile is caught up with."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is still to be done. n_texts: without a vector. n_tokens: about as many. seconds: None without a trial."""

    n_texts: int
    n_tokens: int
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Change:
    """How much the results of one question changed. n_same: of the k best, in whatever order."""

    question: str
    k: int
    n_same: int
    is_first_same: bool


class Reindexing:
    """Moves a collection to the model of an embedder.

    What was embedded stays if the process dies, and is not paid again. Methods raise what the store and the
    embedder raise.
    """

    def __init__(self, collection: Collection, embedder: Embedder, *, wanted_dim: int | None = None) -> None:
        """Goes on with vectors of that model that an earlier attempt left, or that served before.

        Raises Conflict if vectors of that space serve already.
        """
        self._collection = collection
        self._store: Store = collection.store
        self._embedder = embedder
        facts = self._store.facts()
        self._old = facts.generation()
        space, dim = embedder.space, embedder.dim
        if (space, dim) == (self._old.space, self._old.dim):
            raise Conflict(f"The collection {facts.name!r} has vectors of {self._old} already.")
        same = [each for each in facts.generations if (each.space, each.dim) == (space, dim)]
        self._new = same[-1] if same else self._store.begin(embedder.model, space, dim, wanted_dim)
        self._seconds_per_text: float | None = None

    @property
    def old(self) -> Generation:
        """What serves until the switch."""
        return self._old

    @property
    def new(self) -> Generation:
        """What is made."""
        return self._new

    def estimate(self, *, with_trial: bool = True) -> Estimate:
        """What is to be done. with_trial: embed a few texts, which are kept, to see how long a text takes."""
        missing = _missing(self._store, self._old, self._new)
        if with_trial and missing:
            trial = self._store.get(self._old.number, missing[:_TRIAL_TEXTS])
            self._embedder.embed(["dimension"], "document")  # the first call may load a model, or connect
            start_s = time.monotonic()
            _put(self._store, self._new, trial, self._embedder)
            self._seconds_per_text = (time.monotonic() - start_s) / len(trial)
            missing = missing[_TRIAL_TEXTS:]
        size_bytes = n_texts = 0
        seen = {entry.digest for entry in self._store.entries(self._new.number)}
        for items in _pages(self._store, self._old, missing):
            for item in items:
                if item.digest not in seen:
                    seen.add(item.digest)
                    n_texts += 1
                    size_bytes += len(item.text.encode())
        seconds = None if self._seconds_per_text is None else self._seconds_per_text * n_texts
        return Estimate(n_texts, -(-size_bytes // _BYTES_PER_TOKEN), seconds)

    def embed(self, *, on_progress: Progress | None = None) -> int:
        """Bring the new vectors up to date with the texts. Returns how many texts were embedded."""
        return _catch_up(self._store, self._old, self._new, self._embedder, on_progress)

    def switch(self) -> None:
        """Let the new vectors serve, from one moment to the next. The old ones are kept, to roll back to.

        Texts that others added or changed since `embed` are embedded first. Raises Conflict if others change the
        collection without end, or have moved it to another model.
        """
        for _ in range(_MAX_ROUNDS):
            if self._store.facts().serving != self._old.number:
                raise Conflict(f"The collection {self._collection.name!r} was moved to another model meanwhile.")
            if self._store.switch(self._new.number):
                return
            self.embed()
        raise Conflict(f"Others keep changing the collection {self._collection.name!r}. Stop them, and try again.")

    def changes(self, questions: Sequence[str], old: Vectors, new: Vectors, k: int = 10) -> list[Change]:
        """How much the results of each question change. old, new: (n, dim) of the questions, by either model."""
        pairs = zip(questions, normalise(old), normalise(new), strict=True)
        return [self._change(question, k, (before, after), None) for question, before, after in pairs]

    def changes_of_samples(self, n: int = 50, k: int = 10, seed: int = 0) -> list[Change]:
        """How much the nearest texts of texts of the collection change, the text itself left out. Embeds nothing."""
        entries = list(self._store.entries(self._old.number))
        sample = random.Random(seed).sample(entries, min(n, len(entries)))  # noqa: S311 - a sample is no secret
        found = []
        for item in self._store.get(self._old.number, [entry.id for entry in sample]):
            old, new = (
                self._store.vectors_of(generation.number, [item.digest]).get(item.digest)
                for generation in (self._old, self._new)
            )
            if old is not None and new is not None:
                found.append(self._change(item.text, k, (old, new), item.id))
        return found

    def _change(self, question: str, k: int, vectors: tuple[Vectors, Vectors], own_id: str | None) -> Change:
        best = []
        for generation, vector in zip((self._old, self._new), vectors, strict=True):
            hits = self._store.nearest(generation.number, vector, k + (own_id is not None))
            best.append([hit.id for hit in hits if hit.id != own_id][:k])
        before, after = best
        return Change(question, max(len(before), len(after)), len({*before} & {*after}), before[:1] == after[:1])


def roll_back(collection: Collection) -> Generation:
    """Switch back to the vectors that served before; keeps the present ones. Returns what serves then. Embeds nothing.

    Raises Conflict if nothing served before, or if texts were added or changed since: reindexing to that model embeds
    just these.
    """
    store, facts = collection.store, collection.facts
    kept = {each.number: each for each in facts.generations}
    before = None if facts.previous is None else kept.get(facts.previous)
    if before is None:
        raise Conflict(f"The collection {facts.name!r} has no vectors that served before.")
    _catch_up(store, facts.generation(), before, _Absent(before))
    if not store.switch(before.number):
        raise Conflict(f"Others keep changing the collection {facts.name!r}. Stop them, and try again.")
    return before


def forget(collection: Collection) -> int:
    """Delete all vectors that do not serve. Returns of how many models."""
    facts = collection.facts
    others = [each.number for each in facts.generations if each.number != facts.serving]
    for number in others:
        collection.store.discard(number)
    return len(others)


class _Absent(Embedder):
    """Stands for a model that nobody may call."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation

    def embed(self, texts: Sequence[str], input_type: InputType | None = None) -> Vectors:  # noqa: ARG002 - refused
        raise Conflict(
            f"Texts were added since {self._generation.model} served, and have no vectors of it. Reindex to it "
            "instead: only these are embedded."
        )


def _missing(store: Store, old: Generation, new: Generation) -> list[str]:
    """Ids of what the new vectors lack, or have of another text or with other metadata."""
    has = {entry.id: (entry.digest, entry.details) for entry in store.entries(new.number)}
    entries = store.entries(old.number)
    return [entry.id for entry in entries if has.get(entry.id) != (entry.digest, entry.details)]


def _pages(store: Store, generation: Generation, ids: Sequence[str]) -> Iterator[list[Item]]:
    for start in range(0, len(ids), _PAGE):
        yield store.get(generation.number, ids[start : start + _PAGE])


def _catch_up(
    store: Store, old: Generation, new: Generation, embedder: Embedder, on_progress: Progress | None = None
) -> int:
    """Bring vectors up to date with those that serve. Returns how many texts were embedded."""
    missing = _missing(store, old, new)
    done = n_embedded = 0
    for items in _pages(store, old, missing):
        n_embedded += _put(store, new, items, embedder, _from(done, len(missing), on_progress))
        done += len(items)
        if on_progress is not None:
            on_progress(done, len(missing))
    ids = {entry.id for entry in store.entries(old.number)}
    gone = [entry.id for entry in store.entries(new.number) if entry.id not in ids]
    if gone:
        store.remove(new.number, gone)
    return n_embedded


def _put(
    store: Store, new: Generation, items: Sequence[Item], embedder: Embedder, on_progress: Progress | None = None
) -> int:
    try:
        return put_changed(store, new, items, embedder, on_progress=on_progress).n_embedded
    except InvalidInput as error:
        if error.index is None:
            raise
        raise InvalidInput(f"the text {items[error.index].id!r} {error.reason}") from error


def _from(start: int, n: int, on_progress: Progress | None) -> Progress | None:
    return None if on_progress is None else lambda done, _: on_progress(start + done, n)
