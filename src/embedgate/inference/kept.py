"""Prepared models in the data folder: written atomically, verified before use, rebuilt if damaged.

A prepared file is an ONNX model followed by its own digest. The digest is written as one more field of the same
protobuf message (ModelProto.doc_string), so that the file is still a plain ONNX model, and one rename
publishes both.
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from embedgate.core.errors import ConfigError

_DOC_STRING = 6
_BYTES_FIELD = 2  # wire type of a length-prefixed field
_SEVEN_BITS = 0x7F
_HEX_DIGITS = 64
_SEAL_BYTES = 2 + _HEX_DIGITS
_CHUNK_BYTES = 1 << 20
Buffer = bytes | memoryview


def keep(file: Path, build: Callable[[], Iterable[Buffer]]) -> Path:
    """Make sure that `file` holds the pieces that `build` gives; it runs only if the file is missing or damaged.

    Several processes may do this at once: each writes its own temporary file, and the last rename wins.
    Raises ConfigError if the folder cannot be written, and whatever `build` raises.
    """
    if _is_whole(file):
        return file
    pieces = build()
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(file, pieces)
    except OSError as error:
        raise ConfigError([f"prepared model {file} cannot be written: {error.strerror or error}"]) from error
    return file


def _write(file: Path, pieces: Iterable[Buffer]) -> None:
    digest = hashlib.sha256()
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=file.name, suffix=".part", delete=False) as part_file:
        try:
            for piece in pieces:
                digest.update(piece)
                part_file.write(piece)
            part_file.write(_seal(digest.hexdigest()))
            part_file.flush()
            os.fsync(part_file.fileno())
            Path(part_file.name).replace(file)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(part_file.name).unlink()
            raise


def field_head(field: int, size_bytes: int) -> bytes:
    """What stands before a field of so many bytes in a protobuf message: its number, and its length as a varint."""
    head = bytearray([field << 3 | _BYTES_FIELD])
    while size_bytes > _SEVEN_BITS:
        head.append(size_bytes & _SEVEN_BITS | _SEVEN_BITS + 1)
        size_bytes >>= 7
    head.append(size_bytes)
    return bytes(head)


def _seal(hex_digest: str) -> bytes:
    return field_head(_DOC_STRING, _HEX_DIGITS) + hex_digest.encode()


def _is_whole(file: Path) -> bool:
    """Whether the file exists and ends with the digest of all bytes before."""
    try:
        with file.open("rb") as stream:
            left = os.fstat(stream.fileno()).st_size - _SEAL_BYTES
            if left <= 0:
                return False
            digest = hashlib.sha256()
            while left:
                chunk = stream.read(min(left, _CHUNK_BYTES))
                if not chunk:
                    return False
                digest.update(chunk)
                left -= len(chunk)
            return stream.read() == _seal(digest.hexdigest())
    except OSError:
        return False
