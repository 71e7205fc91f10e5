"""The file formats of vectors, written piece by piece, so that memory holds one batch and not the whole result."""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import orjson

from embedgate.core.vectors import Vectors, to_json


class Embedded(NamedTuple):
    """One batch of results: vectors (n, d) float32, and the position of each text."""

    positions: Sequence[int]
    vectors: Vectors


class Result(NamedTuple):
    """What is written: batches in order, and what is known before the first one: the number of texts, the model."""

    batches: Iterable[Embedded]
    n: int
    model: str


def _json(result: Result) -> Iterator[bytes]:
    lead = b'{"object":"list","model":%s,"data":[\n' % orjson.dumps(result.model)  # nothing is written before a result
    for batch in result.batches:
        for position, vector in zip(batch.positions, batch.vectors, strict=True):
            yield b'%s{"object":"embedding","index":%d,"embedding":%s}' % (lead, position, to_json(vector))
            lead = b",\n"
    yield b"\n]}\n"


def _csv(result: Result) -> Iterator[bytes]:
    for batch in result.batches:
        for position, vector in zip(batch.positions, batch.vectors, strict=True):
            yield b"%d,%s\n" % (position, to_json(vector)[1:-1])


def _npy(result: Result) -> Iterator[bytes]:
    for number, batch in enumerate(result.batches):
        if number == 0:
            head = io.BytesIO()
            shape = (result.n, batch.vectors.shape[1])
            np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": shape})
            yield head.getvalue()
        yield batch.vectors.astype("<f4", copy=False).tobytes()


RENDER: Mapping[str, Callable[[Result], Iterator[bytes]]] = {"json": _json, "csv": _csv, "npy": _npy}
"""Result to the bytes of a file, by format.

json: the shape of the API's answer. csv: index, then the numbers, no header. npy: a NumPy array (n, d) of float32.
"""
