"""Writing results: rows as JSONL, CSV, Parquet or JSON, and vectors also as a NumPy array, piece by piece.

Pieces are written as they come, so that memory holds one batch and not the whole result.
"""

import csv
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
import orjson

from embedgate.core.errors import InvalidInput
from embedgate.core.vectors import Vectors, to_json
from embedgate.toolkit.libraries import library
from embedgate.toolkit.records import Record, Scalar

RowFormat = Literal["json", "jsonl", "csv", "parquet"]
VectorFormat = Literal["json", "jsonl", "csv", "parquet", "npy"]

ROW_ENDINGS: dict[str, RowFormat] = {".json": "json", ".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet"}
VECTOR_ENDINGS: dict[str, VectorFormat] = {**ROW_ENDINGS, ".npy": "npy"}
BINARY = frozenset({"parquet", "npy"})
"""Formats that a terminal cannot show."""

_WRITTEN_BACK_BYTES = 64_000_000
_OWN_COLUMNS = frozenset({"index", "id", "text", "embedding"})

Row = Mapping[str, Scalar]


class Embedded(NamedTuple):
    """One batch of results: the records, and their vectors (n, d) float32."""

    records: Sequence[Record]
    vectors: Vectors


@dataclass(frozen=True, slots=True)
class VectorResult:
    """What is written: batches in order, and what is known before the first one.

    n: the number of vectors; None if it is not known, then `npy` gathers all before it writes.
    columns: of the metadata with their types, for `parquet`.
    """

    batches: Iterable[Embedded]
    n: int | None
    model: str
    columns: Mapping[str, type] = field(default_factory=dict)


def format_of_output(path: Path, endings: Mapping[str, Any]) -> Any:
    """The format that a file's name ends with. Raises InvalidInput, which names the endings that there are."""
    found = endings.get(path.suffix.lower())
    if found is None:
        known = ", ".join(endings)
        seen = f"not {path.suffix}" if path.suffix else "and this name has no ending"
        raise InvalidInput(f"{path}: results are written to {known}, {seen}. Rename it, or name a --format.")
    return found


def write_rows(path: Path, rows: Iterable[Row], row_format: RowFormat | None = None) -> None:
    """Write rows to a file, whole or not at all; its ending says the format unless it is given.

    All rows have the columns of the first. Raises InvalidInput for an ending that is not known, OSError.
    """
    chosen: RowFormat = row_format or format_of_output(path, ROW_ENDINGS)
    with replaced(path) as write:
        for piece in ROW_PIECES[chosen](rows):
            write(piece)


def write_vectors(path: Path, records: Sequence[Record], vectors: Vectors, model: str = "") -> None:
    """Write records with their vectors, (n, d) float32, to a file as `embedgate embed` does. Raises as `write_rows`."""
    result = VectorResult([Embedded(records, vectors)], len(records), model, metadata_columns(records))
    chosen: VectorFormat = format_of_output(path, VECTOR_ENDINGS)
    with replaced(path) as write:
        for piece in VECTOR_PIECES[chosen](result):
            write(piece)


def metadata_columns(records: Iterable[Record]) -> dict[str, type]:
    """The names of all metadata, in the order in which they are first met, and the type of their values.

    Whole numbers and others are float together; any other mixture is text.
    """
    kinds: dict[str, set[type]] = {}
    for record in records:
        for name, value in record.metadata.items():
            kinds.setdefault(name, set()).update([] if value is None else [type(value)])
    return {name: _kind(found) for name, found in kinds.items()}


def _kind(found: set[type]) -> type:
    if found == {int, float}:
        return float
    return found.pop() if len(found) == 1 else str


@contextmanager
def replaced(path: Path) -> Iterator[Callable[[bytes | memoryview], object]]:
    """Write beside `path`, and put the file in its place when all went well."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with draft.open("wb") as stream:
            yield _written_back(stream)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    except OSError as error:
        if error.filename in (None, str(draft)):  # of a full disk, the system says no name
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        draft.unlink(missing_ok=True)


def _written_back(stream: BinaryIO) -> Callable[[bytes | memoryview], object]:
    """Writes to a file, and has the system bring it to the disk meanwhile, so that the fsync at the end is short."""
    if not hasattr(os, "posix_fadvise"):
        return stream.write
    n_waiting = 0

    def write(piece: bytes | memoryview) -> None:
        nonlocal n_waiting
        stream.write(piece)
        n_waiting += len(piece)
        if n_waiting >= _WRITTEN_BACK_BYTES:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            n_waiting = 0

    return write


def _json_rows(rows: Iterable[Row]) -> Iterator[bytes]:
    lead = b"[\n"
    for row in rows:
        yield lead + orjson.dumps(dict(row))
        lead = b",\n"
    yield b"[]\n" if lead == b"[\n" else b"\n]\n"


def _jsonl_rows(rows: Iterable[Row]) -> Iterator[bytes]:
    for row in rows:
        yield orjson.dumps(dict(row), option=orjson.OPT_APPEND_NEWLINE)


def _csv_rows(rows: Iterable[Row]) -> Iterator[bytes]:
    columns: list[str] | None = None
    for row in rows:
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        if columns is None:
            columns = list(row)
            writer.writerow(columns)
        writer.writerow(["" if row.get(column) is None else row[column] for column in columns])
        yield text.getvalue().encode()


def _parquet_rows(rows: Iterable[Row]) -> Iterator[bytes]:
    arrow, parquet = library("pyarrow"), library("pyarrow.parquet")
    found = [dict(row) for row in rows]
    names = list(found[0]) if found else []
    kinds = {name: _kind({type(row[name]) for row in found if row.get(name) is not None}) for name in names}
    table = arrow.table({name: typed_column([row.get(name) for row in found], kind) for name, kind in kinds.items()})
    sink = arrow.BufferOutputStream()
    parquet.write_table(table, sink)
    yield sink.getvalue().to_pybytes()


ROW_PIECES: Mapping[str, Callable[[Iterable[Row]], Iterator[bytes]]] = {
    "json": _json_rows,
    "jsonl": _jsonl_rows,
    "csv": _csv_rows,
    "parquet": _parquet_rows,
}
"""Rows to the bytes of a file, by format. csv has a header."""


def typed_column(values: Sequence[Scalar], kind: type) -> Any:
    """Values as an Arrow array of that type."""
    arrow = library("pyarrow")
    kinds = {str: arrow.string(), int: arrow.int64(), float: arrow.float64(), bool: arrow.bool_()}
    return arrow.array([None if value is None else kind(value) for value in values], kinds[kind])


def _json_vectors(result: VectorResult) -> Iterator[bytes]:
    lead = b'{"object":"list","model":%s,"data":[\n' % orjson.dumps(result.model)  # nothing is written before a result
    for record, vector in _each(result):
        yield b'%s{"object":"embedding","index":%d,"embedding":%s}' % (lead, record.position, to_json(vector))
        lead = b",\n"
    yield b"\n]}\n"


def _jsonl_vectors(result: VectorResult) -> Iterator[bytes]:
    for record, vector in _each(result):
        head = {"index": record.position, "id": record.id, "text": record.text, "metadata": record.metadata}
        yield b'%s,"embedding":%s}\n' % (orjson.dumps(head)[:-1], to_json(vector))


def _csv_vectors(result: VectorResult) -> Iterator[bytes]:
    for record, vector in _each(result):
        yield b"%d,%s\n" % (record.position, to_json(vector)[1:-1])


def _npy_vectors(result: VectorResult) -> Iterator[bytes | memoryview]:
    n, batches = result.n, result.batches
    if n is None:
        batches = list(batches)
        n = sum(len(batch.vectors) for batch in batches)
    is_first = True
    for batch in batches:
        if is_first:
            head = io.BytesIO()
            shape = (n, batch.vectors.shape[1])
            np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": shape})
            yield head.getvalue()
            is_first = False
        # No copy: of the memory that a long run touches, each is a good part.
        yield np.ascontiguousarray(batch.vectors, dtype="<f4").data.cast("B")


def _parquet_vectors(result: VectorResult) -> Iterator[bytes]:
    parquet = library("pyarrow.parquet")
    sink = _Pieces()
    writer = None
    for batch in result.batches:
        table = _table(batch, result)
        writer = writer or parquet.ParquetWriter(sink, table.schema)
        writer.write_table(table)
        yield sink.taken()
    if writer is not None:
        writer.close()
        yield sink.taken()


def _table(batch: Embedded, result: VectorResult) -> Any:
    """A batch as an Arrow table; the model stands in its metadata."""
    arrow, records = library("pyarrow"), batch.records
    numbers = arrow.array(batch.vectors.ravel(), arrow.float32())
    columns = {
        "index": typed_column([record.position for record in records], int),
        "id": typed_column([record.id for record in records], str),
        "text": typed_column([record.text for record in records], str),
        **{
            name: typed_column([record.metadata.get(name) for record in records], kind)
            for name, kind in result.columns.items()
            if name not in _OWN_COLUMNS
        },
        "embedding": arrow.FixedSizeListArray.from_arrays(numbers, batch.vectors.shape[1]),
    }
    return arrow.table(columns).replace_schema_metadata({"model": result.model})


class _Pieces(io.RawIOBase):
    """A file that is written to, and from which is taken what has been written since the last time."""

    def __init__(self) -> None:
        super().__init__()
        self._content = bytearray()
        self._n_taken = 0

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        self._content += piece
        return len(piece)

    def tell(self) -> int:
        return self._n_taken + len(self._content)

    def taken(self) -> bytes:
        piece = bytes(self._content)
        self._n_taken += len(piece)
        self._content.clear()
        return piece


def _each(result: VectorResult) -> Iterator[tuple[Record, Vectors]]:
    for batch in result.batches:
        yield from zip(batch.records, batch.vectors, strict=True)


VECTOR_PIECES: Mapping[str, Callable[[VectorResult], Iterator[bytes | memoryview]]] = {
    "json": _json_vectors,
    "jsonl": _jsonl_vectors,
    "csv": _csv_vectors,
    "parquet": _parquet_vectors,
    "npy": _npy_vectors,
}
"""Result to the bytes of a file, by format.

json: the shape of the API's answer. jsonl: index, id, text, metadata, embedding. csv: index, then the numbers, no
header. parquet: one column each, the embedding as a list of fixed size. npy: a NumPy array (n, d) of float32.
"""
