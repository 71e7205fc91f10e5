"""Adding texts to a generation: only what is new or changed is embedded, each text once, and kept as soon as it is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from embedgate.core.errors import Conflict, InvalidInput
from embedgate.core.ports import Embedder
from embedgate.core.vectors import Vectors, normalise
from embedgate.toolkit.collections.store import Generation, Item, Store
from embedgate.toolkit.embedding import LeftOut, OnError, Part, Progress, call_in_parts

_MOST_IN_A_CALL = 256
"""Texts of one call. A killed process loses the calls that it waits for, so they are not as large as they may be."""
_MOST_IN_A_PUT = 1_000


@dataclass(frozen=True, slots=True)
class Added:
    """What was done. left_out: positions among the items that were given.

    n_embedded: texts that the embedder was asked for; the others of the new and changed ones had a vector already.
    """

    n_new: int
    n_changed: int
    n_unchanged: int
    n_embedded: int
    n_removed: int = 0
    left_out: Sequence[LeftOut] = ()


def check_space(embedder: Embedder, generation: Generation, name: str) -> None:
    """Raises Conflict, which names both spaces, if the embedder's vectors do not fit those of the collection."""
    space, dim = embedder.space, embedder.dim
    if (space, dim) != (generation.space, generation.dim):
        theirs = Generation(0, embedder.model, space, dim)
        raise Conflict(
            f"The collection {name!r} has vectors of {generation}. Those of {theirs}, cannot be compared with them. "
            "Use that model, or move the collection to the other one with `embedgate reindex`."
        )


def put_changed(
    store: Store,
    generation: Generation,
    items: Sequence[Item],
    embedder: Embedder,
    *,
    on_error: OnError = "stop",
    on_progress: Progress | None = None,
) -> Added:
    """Put the items that are new or have changed. What was put stays if the embedder fails, and is not embedded again.

    on_progress: with the number of texts that are embedded, and that of all that must be. Raises what the embedder
    raises, Conflict if its vectors have another length.
    """
    number = generation.number
    before = {entry.id: entry for entry in store.entries(number)}
    todo: dict[str, list[int]] = {}
    n_new = n_changed = 0
    for position, item in enumerate(items):
        entry, digest = before.get(item.id), item.digest
        if entry is not None and (entry.digest, entry.details) == (digest, item.details):
            continue
        n_new, n_changed = n_new + (entry is None), n_changed + (entry is not None)
        todo.setdefault(digest, []).append(position)
    for digests, vectors in _known(store, number, list(todo)):
        _put(store, number, [[items[position] for position in todo.pop(digest)] for digest in digests], vectors)
    left_out: list[LeftOut] = []
    groups = list(todo.values())
    done = 0
    for part in _embedded(
        embedder, [items[group[0]].text for group in groups], [group[0] for group in groups], on_error
    ):
        if len(part.positions):
            if part.vectors.shape[1] != generation.dim:
                raise Conflict(f"The embedder's vectors have {part.vectors.shape[1]} numbers, not {generation.dim}.")
            chosen = [[items[position] for position in groups[group]] for group in part.positions]
            _put(store, number, chosen, normalise(part.vectors))
        left_out += [LeftOut(position, each.reason) for each in part.left_out for position in groups[each.position]]
        done += part.n_done
        if on_progress is not None:
            on_progress(done, len(groups))
    n_lost = sum(items[each.position].id not in before for each in left_out)
    return Added(
        n_new - n_lost,
        n_changed - (len(left_out) - n_lost),
        len(items) - n_new - n_changed,
        len(groups),
        left_out=sorted(left_out, key=lambda each: each.position),
    )


def _known(store: Store, number: int, digests: Sequence[str]) -> Iterator[tuple[list[str], Vectors]]:
    """Digests of texts whose vectors are there under other ids, with these."""
    for start in range(0, len(digests), _MOST_IN_A_PUT):
        found = store.vectors_of(number, digests[start : start + _MOST_IN_A_PUT])
        if found:
            yield list(found), np.stack(list(found.values()))


def _embedded(embedder: Embedder, texts: Sequence[str], positions: Sequence[int], on_error: OnError) -> Iterator[Part]:
    """The vectors of texts, call by call. positions: those that an error tells."""
    limits = embedder.call_limits
    limits = limits._replace(max_inputs=min(limits.max_inputs, _MOST_IN_A_CALL))
    try:
        yield from call_in_parts(lambda batch: embedder.embed(batch, "document"), limits, texts, on_error)
    except InvalidInput as error:
        if error.index is None:
            raise
        raise error.at(positions[error.index]) from error


def _put(store: Store, number: int, groups: Sequence[Sequence[Item]], vectors: Vectors) -> None:
    """Put items; those of one group have the same text, and the vector in its place."""
    items = [item for group in groups for item in group]
    positions = [place for place, group in enumerate(groups) for _ in group]
    for start in range(0, len(items), _MOST_IN_A_PUT):
        part = slice(start, start + _MOST_IN_A_PUT)
        store.put(number, items[part], vectors[positions[part]])
