"""Reading texts: lines, CSV, JSONL and Parquet with columns by name, documents, folders of documents.

Every fault names the file and, where there is one, the line; lines are counted from 1, as editors do.
"""

import codecs
import csv
import io
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, NoReturn, get_args

import orjson

from embedgate.core.errors import InvalidInput
from embedgate.toolkit.libraries import library
from embedgate.toolkit.records import Origin, Record, Scalar

InputFormat = Literal["lines", "csv", "tsv", "jsonl", "parquet", "document"]
"""lines: one text per line. document: the whole file is one text."""

TABLE_ENDINGS: dict[str, InputFormat] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
MARKDOWN_ENDINGS = frozenset({".markdown", ".md", ".mdx"})
PROSE_ENDINGS = MARKDOWN_ENDINGS | {".adoc", ".htm", ".html", ".org", ".rst", ".tex"}
CODE_ENDINGS = frozenset(
    f".{name}"
    for name in (
        *("c", "cc", "cpp", "cs", "css", "ex", "exs", "go", "h", "hpp", "hs", "java", "jl", "js", "jsx", "kt", "lua"),
        *("ml", "php", "pl", "proto", "py", "r", "rb", "rs", "scala", "sh", "sql", "swift", "toml", "ts", "tsx"),
        *("yaml", "yml"),
    )
)
LINES_ENDING = ".txt"
_IGNORED_FOLDERS = frozenset({"__pycache__", "node_modules"})
_WITH_COLUMNS = tuple(dict.fromkeys(TABLE_ENDINGS.values()))
_TEXT_COLUMN, _ID_COLUMN = "text", "id"
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_HEAD_BYTES = 8_192
_QUOTED = re.compile(r'"[^"]*"')
_NAMED_WITH = {"column": "--column", "id_column": "--id"}


@dataclass(frozen=True, slots=True)
class Reading:
    """How texts are read.

    column, id_column: by name; if None, `text` and `id` where they exist, else the only column, and the line's number.
    read_as: the format, whatever the file's name ends with. txt_as: what a `.txt` file is that is named by itself.
    skip_empty: leave empty and blank texts out, which are refused otherwise.
    """

    column: str | None = None
    id_column: str | None = None
    read_as: InputFormat | None = None
    txt_as: Literal["lines", "document"] = "lines"
    skip_empty: bool = False
    encoding: str = "utf-8"
    name_in_ids: bool = False
    """Ids made of line numbers, or of paths below a folder, start with the whole path, even if there is one file."""


class _Row(NamedTuple):
    """A text as it stands in a file. number: of its line or row, from 1. id: None for that number."""

    number: int | None
    text: str
    id: str | None = None
    metadata: dict[str, Scalar] = {}  # noqa: RUF012 - never written to


def read_files(paths: Sequence[Path], how: Reading | None = None) -> list[Record]:
    """The texts of files and folders, in order. With several files, ids start with the file's name.

    Raises InvalidInput for an ending that is not known, a missing column, bytes in another encoding, an empty text, an
    id that two texts have, or if there are no texts; OSError if a file cannot be read.
    """
    how = how or Reading()
    is_one = len(paths) == 1 and not paths[0].is_dir() and not how.name_in_ids
    records: list[Record] = []
    _check_columns(how, ["document" if path.is_dir() else format_of(path, how) for path in paths], _listed(paths))
    for path in paths:
        if path.is_dir():
            records += _records(_folder(path, how), len(records), how, is_one=False)
        else:
            found = format_of(path, how)
            records += _records([_Source(str(path), _content(path), found)], len(records), how, is_one=is_one)
    if not records and any(path.is_dir() for path in paths):
        raise InvalidInput(
            f"There are no texts in {_listed(paths)}. Of a folder, files are read that end with "
            f"{LINES_ENDING}, {', '.join(sorted(PROSE_ENDINGS))} or as source code does; name others one by one."
        )
    return checked(records, _listed(paths))


def read_file(path: Path, how: Reading | None = None) -> list[Record]:
    """The texts of one file. Raises what `read_files` raises."""
    return read_files([path], how)


def read_folder(path: Path, how: Reading | None = None) -> list[Record]:
    """The Markdown, text and code files below a folder, each one text; its id is the path below the folder.

    Hidden files and folders, blank files, and files with other endings are passed over. Raises as `read_files`.
    """
    return read_files([path], how)


def read_stream(stream: BinaryIO, name: str, how: Reading | None = None) -> list[Record]:
    """The texts of a stream, lines unless `how` says otherwise. Raises what `read_files` raises."""
    how = how or Reading()
    found = how.read_as or "lines"
    _check_columns(how, [found], name)
    return checked(_records([_Source(name, stream.read(), found)], 0, how, is_one=not how.name_in_ids), name)


def read_values(values: Sequence[str], name: str, how: Reading | None = None) -> list[Record]:
    """Texts that are at hand, such as those of a command line. Raises InvalidInput for an empty one, or for none."""
    how = how or Reading()
    _check_columns(how, [], name)
    rows = (_Row(number, value) for number, value in enumerate(values, start=1))
    return checked(list(_kept(rows, name, 0, how, "text", is_one=True)), name)


def checked(records: list[Record], name: str) -> list[Record]:
    """The records themselves. Raises InvalidInput if there are none, or two have the same id."""
    if not records:
        raise InvalidInput(f"There are no texts in {name}.")
    seen: dict[str, Record] = {}
    for record in records:
        if (other := seen.setdefault(record.id, record)) is not record:
            raise InvalidInput(
                f"{record.origin} has the id {record.id!r}, and so has {other.origin}. Ids must differ; name another "
                "column with --id."
            )
    return records


def format_of(path: Path, how: Reading) -> InputFormat:
    """The format of a file by its ending. A name without one, as pipes have, is read as lines. Raises InvalidInput."""
    ending = path.suffix.lower()
    if how.read_as is not None:
        return how.read_as
    if ending == LINES_ENDING:
        return how.txt_as
    if not ending:
        return "lines"
    if ending in PROSE_ENDINGS or ending in CODE_ENDINGS:
        return "document"
    if ending not in TABLE_ENDINGS:
        raise InvalidInput(
            f"{path}: texts are not read from {ending} files. Known endings are {LINES_ENDING}, "
            f"{', '.join(TABLE_ENDINGS)}, {', '.join(sorted(PROSE_ENDINGS))} and those of source code. Any other file "
            f"is read with --read-as {'|'.join(get_args(InputFormat))}."
        )
    return TABLE_ENDINGS[ending]


def _check_columns(how: Reading, formats: Sequence[InputFormat], name: str) -> None:
    """Refuse a column that is named where no text has one: else a header would be read as a text."""
    option = next((option for field, option in _NAMED_WITH.items() if getattr(how, field) is not None), None)
    if option is not None and not {*formats} & {*_WITH_COLUMNS}:
        if not formats:
            raise InvalidInput(f"{option} names a column, and {name} has none. Leave {option} out.")
        as_what = "lines" if "lines" in formats else "whole documents"
        raise InvalidInput(
            f"{option} names a column, and {name} has none, because it is read as {as_what}. Leave {option} out, or "
            f"name the format with --read-as {'|'.join(_WITH_COLUMNS)}."
        )


def _listed(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths))


class _Source(NamedTuple):
    name: str
    raw: bytes
    format: InputFormat
    id: str | None = None


def _folder(folder: Path, how: Reading) -> Iterator[_Source]:
    for place, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = sorted(name for name in folders if name[0] != "." and name not in _IGNORED_FOLDERS)
        for name in sorted(files):
            path = Path(place, name)
            ending = path.suffix.lower()
            is_document = ending == LINES_ENDING or ending in PROSE_ENDINGS or ending in CODE_ENDINGS
            if name[0] == "." or not is_document:
                continue
            raw = _content(path)
            if raw.strip():
                inner = None if how.name_in_ids else path.relative_to(folder).as_posix()
                yield _Source(str(path), raw, "document", inner)


def _records(sources: Iterable[_Source], first: int, how: Reading, *, is_one: bool) -> list[Record]:
    records: list[Record] = []
    position = first
    for source in sources:
        if source.format == "document":
            text = _decoded(source.raw, source.name, how)
            rows: Iterable[_Row] = [_Row(None, text, source.id or source.name)]
        else:
            rows = _ROWS[source.format](source.raw, source.name, how)
        unit = "row" if source.format == "parquet" else "line"
        found = list(_kept(rows, source.name, position, how, unit, is_one=is_one))
        records += found
        position = found[-1].position + 1 if found else position
    return records


def _kept(rows: Iterable[_Row], name: str, first: int, how: Reading, unit: str, *, is_one: bool) -> Iterator[Record]:
    """The rows as records, without empty ones, or InvalidInput for the first of these."""
    for position, row in enumerate(rows, start=first):
        origin = Origin(name, row.number, unit)
        if row.text.strip():
            row_id = row.id or (str(row.number) if is_one else f"{name}:{row.number}")
            yield Record(row_id, row.text, origin, position, row.metadata)
        elif not how.skip_empty:
            raise InvalidInput(f"{origin} is empty. Leave empty ones out with --skip-empty.")


def _raise(error: OSError) -> NoReturn:
    """For `os.walk`, which passes over a folder that it cannot read: its texts would be missing, and nobody told."""
    raise error


def _content(path: Path) -> bytes:
    """The bytes of a file. Raises OSError, always with its name."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _decoded(raw: bytes, name: str, how: Reading) -> str:
    try:
        return raw.decode(how.encoding).removeprefix("\ufeff")
    except LookupError as error:
        raise InvalidInput(
            f"There is no encoding {how.encoding!r}; utf-8, utf-16 and cp1252 are common ones."
        ) from error
    except UnicodeError as error:
        if raw.startswith(_UTF16_MARKS):
            raise InvalidInput(f"{name} is not UTF-8 but UTF-16. Name that with --encoding utf-16.") from error
        if b"\0" in raw[:_HEAD_BYTES]:
            raise InvalidInput(f"{name} is not a text file: it has NUL bytes.") from error
        line = raw.count(b"\n", 0, getattr(error, "start", 0)) + 1
        encoding = "UTF-8" if how.encoding == "utf-8" else how.encoding
        raise InvalidInput(
            f"line {line} of {name} is not {encoding}. Convert the file first, or name its encoding with --encoding."
        ) from error


def _lines(raw: bytes, name: str, how: Reading) -> Iterator[_Row]:
    lines = _decoded(raw, name, how).split("\n")
    if not lines[-1]:
        lines.pop()  # what follows the last line end is no line
    for number, line in enumerate(lines, start=1):
        yield _Row(number, line.removesuffix("\r"))


def _csv(raw: bytes, name: str, how: Reading) -> Iterator[_Row]:
    text = _decoded(raw, name, how)
    head = _QUOTED.sub("", text[:_HEAD_BYTES]).lstrip("\r\n").partition("\n")[0]
    delimiter = max(",;\t", key=head.count)  # of equally many the comma, which most files have
    yield from _delimited(text, name, how, delimiter)


def _tsv(raw: bytes, name: str, how: Reading) -> Iterator[_Row]:
    yield from _delimited(_decoded(raw, name, how), name, how, "\t")


def _delimited(text: str, name: str, how: Reading, delimiter: str) -> Iterator[_Row]:
    csv.field_size_limit(sys.maxsize)  # the library's own limit of 128 KiB is less than some texts have
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: list[str] | None = None
    column, id_column = "", None
    number = 1
    try:
        for cells in reader:
            if not cells:
                pass  # an empty line between rows
            elif columns is None:
                columns = [cell.strip() for cell in cells]
                column, id_column = _columns(columns, name, how)
            elif len(cells) != len(columns):
                raise InvalidInput(f"line {number} of {name} has {len(cells)} columns; its header has {len(columns)}.")
            else:
                row: dict[str, Scalar] = dict(zip(columns, cells, strict=True))
                yield _row(row, number, name, column, id_column)
            number = reader.line_num + 1
    except csv.Error as error:
        raise InvalidInput(f"line {reader.line_num} of {name} is not valid CSV: {error}.") from error


def _jsonl(raw: bytes, name: str, how: Reading) -> Iterator[_Row]:
    columns: tuple[str, str | None] | None = None
    for number, line in enumerate(_decoded(raw, name, how).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise InvalidInput(f"line {number} of {name} is not JSON: {error.msg}.") from error
        if isinstance(value, str):
            yield _Row(number, value)
        elif isinstance(value, dict):
            if columns is None:
                columns = _columns(list(value), name, how)
            yield _row(value, number, name, *columns)
        else:
            raise InvalidInput(f"line {number} of {name} is neither an object nor a string.")


def _parquet(raw: bytes, name: str, how: Reading) -> Iterator[_Row]:
    arrow, parquet = library("pyarrow"), library("pyarrow.parquet")
    try:
        file = parquet.ParquetFile(arrow.BufferReader(raw))
        column, id_column = _columns(file.schema_arrow.names, name, how)
        number = 0
        for batch in file.iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield _row(row, number, name, column, id_column, unit="row")
    except (arrow.ArrowException, OSError) as error:
        raise InvalidInput(f"{name} cannot be read as Parquet: {str(error).rstrip('.')}.") from error


_ROWS = {"lines": _lines, "csv": _csv, "tsv": _tsv, "jsonl": _jsonl, "parquet": _parquet}


def _columns(columns: Sequence[str], name: str, how: Reading) -> tuple[str, str | None]:
    """The columns of texts and ids. Raises InvalidInput, which names the columns that there are."""
    listed = ", ".join(columns)
    double = {column for column in columns if columns.count(column) > 1}
    if double:
        raise InvalidInput(f"{name} has more than one column {double.pop()!r}.")
    for field, option in _NAMED_WITH.items():
        wanted = getattr(how, field)
        if wanted is not None and wanted not in columns:
            raise InvalidInput(f"{name} has no column {wanted!r}, which {option} names; it has {listed}.")
    id_column = how.id_column or (_ID_COLUMN if _ID_COLUMN in columns and how.column != _ID_COLUMN else None)
    if how.column is not None:
        return how.column, id_column
    if _TEXT_COLUMN in columns:
        return _TEXT_COLUMN, id_column
    others = [column for column in columns if column != id_column]
    if len(others) != 1:
        raise InvalidInput(
            f"{name} has no column `text`. Name the one that has the texts with --column; it has {listed}."
        )
    return others[0], id_column


def _row(
    values: dict[str, Any], number: int, name: str, column: str, id_column: str | None, unit: str = "line"
) -> _Row:
    place = f"{unit} {number} of {name}"
    text = values.get(column)
    if text is None and column in values:
        text = ""  # null is no text, as an empty cell is
    if not isinstance(text, str):
        fault = f"has no field {column!r}" if column not in values else f"has no text in {column!r}"
        raise InvalidInput(f"{place} {fault}.")
    row_id = values.get(id_column) if id_column else None
    if id_column and (row_id is None or row_id == ""):
        raise InvalidInput(f"{place} has no id in {id_column!r}.")
    metadata = {key: _scalar(value) for key, value in values.items() if key not in (column, id_column)}
    return _Row(number, text, None if row_id is None else str(row_id), metadata)


def _scalar(value: object) -> Scalar:
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, (dict, list)):
        return orjson.dumps(value, default=str).decode()
    return str(value)
