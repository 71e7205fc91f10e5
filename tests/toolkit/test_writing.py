"""Results in files: what each format holds, and that a file is written whole or not at all."""

import io
import json
import re
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from embedgate.core.errors import InvalidInput
from embedgate.toolkit.records import Origin, Record, Scalar
from embedgate.toolkit.writing import (
    ROW_PIECES,
    VECTOR_PIECES,
    Embedded,
    VectorResult,
    metadata_columns,
    write_rows,
    write_vectors,
)

RECORDS = [
    Record(f"r{number}", f"text {number}", Origin("a.txt", number + 1), number, {"n": number, "lang": "en"})
    for number in range(5)
]
VECTORS = np.arange(20, dtype=np.float32).reshape(5, 4)
ROWS: list[dict[str, Scalar]] = [
    {"id": "a", "n": 1, "x": 0.5, "is": True, "none": None},
    {"id": "b", "n": 2, "x": 1, "is": False, "none": None},
]


def batches(vectors: np.ndarray = VECTORS) -> list[Embedded]:
    return [Embedded(RECORDS[:2], vectors[:2]), Embedded(RECORDS[2:], vectors[2:])]


def result(n: int | None = 5) -> VectorResult:
    return VectorResult(batches(), n, "author/model", metadata_columns(RECORDS))


@pytest.mark.parametrize("n", [5, None])
def test_npy_is_one_array(n: int | None) -> None:
    np.testing.assert_array_equal(np.load(io.BytesIO(b"".join(VECTOR_PIECES["npy"](result(n))))), VECTORS)


def test_parquet_has_typed_columns_and_the_model() -> None:
    table = parquet.read_table(io.BytesIO(b"".join(VECTOR_PIECES["parquet"](result()))))
    assert table.schema.field("embedding").type == pa.list_(pa.field("element", pa.float32()), 4)
    assert table.schema.metadata == {b"model": b"author/model"}
    assert table.schema.field("n").type == pa.int64()
    assert table.to_pylist()[3] == {
        "index": 3, "id": "r3", "text": "text 3", "n": 3, "lang": "en", "embedding": [12.0, 13.0, 14.0, 15.0],
    }  # fmt: skip


def test_jsonl_has_everything_of_a_text() -> None:
    lines = b"".join(VECTOR_PIECES["jsonl"](result())).splitlines()
    assert json.loads(lines[1]) == {
        "index": 1, "id": "r1", "text": "text 1", "metadata": {"n": 1, "lang": "en"}, "embedding": [4, 5, 6, 7],
    }  # fmt: skip


def test_rows_are_the_same_in_every_format() -> None:
    written = {name: b"".join(pieces(ROWS)) for name, pieces in ROW_PIECES.items()}
    assert json.loads(written["json"]) == ROWS
    assert [json.loads(line) for line in written["jsonl"].splitlines()] == ROWS
    assert written["csv"].decode() == "id,n,x,is,none\na,1,0.5,True,\nb,2,1,False,\n"
    assert parquet.read_table(io.BytesIO(written["parquet"])).to_pylist() == ROWS


def test_no_rows_are_valid_too() -> None:
    assert json.loads(b"".join(ROW_PIECES["json"]([]))) == []
    assert b"".join(ROW_PIECES["csv"]([])) == b""
    assert parquet.read_table(io.BytesIO(b"".join(ROW_PIECES["parquet"]([])))).num_rows == 0


def test_values_of_mixed_types_become_text_in_parquet() -> None:
    content = b"".join(ROW_PIECES["parquet"]([{"a": 1}, {"a": "x"}]))
    assert parquet.read_table(io.BytesIO(content)).to_pylist() == [{"a": "1"}, {"a": "x"}]


def test_an_unknown_ending_is_an_error_that_names_the_endings(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"\.json, \.jsonl, \.csv, \.parquet, not \.xls"):
        write_rows(tmp_path / "out.xls", ROWS)
    with pytest.raises(InvalidInput, match=r"\.npy, and this name has no ending"):
        write_vectors(tmp_path / "out", RECORDS, VECTORS)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    write_rows(path, ROWS[:1])
    with pytest.raises(ZeroDivisionError):
        write_rows(path, ({"a": 1 // n} for n in (1, 0)))
    assert json.loads(path.read_bytes()) == ROWS[0]
    assert [file.name for file in tmp_path.iterdir()] == ["out.jsonl"]


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file may grow beyond 4 KiB, which fails as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_is_told_with_the_name_of_the_file(tmp_path: Path, small_disk: None) -> None:
    path = tmp_path / "out.jsonl"
    with pytest.raises(OSError, match=re.escape(str(path))):
        write_rows(path, ({"text": "x" * 1_000} for _ in range(100)))
    assert list(tmp_path.iterdir()) == []
