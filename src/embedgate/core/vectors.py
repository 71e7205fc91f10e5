"""Operations on (n, dim) float32 arrays: norms, normalise, shorten, encode. No Python loop over floats.

The bytes of a base64 vector are little-endian float32, as the OpenAI SDKs read them.
"""

import math

import numpy as np
import numpy.typing as npt
import orjson
import pybase64

from embedgate.core.errors import InvalidDimension, UpstreamMismatch

Vectors = npt.NDArray[np.float32]

_LITTLE_ENDIAN_FLOAT32 = np.dtype("<f4")
_IS_NATIVE = _LITTLE_ENDIAN_FLOAT32.isnative
UNIT_NORM_TOLERANCE = 1e-3
"""Tolerance of a norm around 1 for a vector to count as unit length: loose enough for bfloat16 engines."""


def norms(vectors: Vectors) -> npt.NDArray[np.float32]:
    """Euclidean length of each row. vectors: (n, d). Returns (n,) float32."""
    squares: npt.NDArray[np.float32] = np.vecdot(vectors, vectors)
    return np.sqrt(squares)


def norm_range(vectors: Vectors) -> tuple[float, float]:
    """The shortest and the longest Euclidean length of the rows; NaN for both if one is NaN. vectors: (n, d), n > 0."""
    if len(vectors) == 1:
        row = vectors[0]
        length = math.sqrt(row.dot(row))  # two thirds of the time of `vecdot`
        return length, length
    squares: npt.NDArray[np.float32] = np.vecdot(vectors, vectors)
    return math.sqrt(squares.min()), math.sqrt(squares.max())


def normalise(vectors: Vectors) -> Vectors:
    """Rows scaled to unit length; a row of zeros stays as it is.

    vectors: (n, d) float32. Returns a new (n, d) float32. The argument is not modified.
    """
    lengths = norms(vectors)
    lengths[lengths == 0] = 1
    scaled: Vectors = vectors / lengths[:, np.newaxis]
    return scaled


def shorten(vectors: Vectors, dim: int) -> Vectors:
    """Keep the first `dim` components and restore unit length.

    vectors: (n, d) float32, rows of unit length, d >= dim.
    Returns (n, dim) float32, rows of unit length. The argument is not modified.
    Raises InvalidDimension if dim is not in 1..d.
    """
    if not 1 <= dim <= vectors.shape[1]:
        raise InvalidDimension(
            f"dimensions is {dim}; vectors of {vectors.shape[1]} can be cut to 1..{vectors.shape[1]}",
            param="dimensions",
        )
    return normalise(np.ascontiguousarray(vectors[:, :dim]))


def to_base64(vector: Vectors) -> bytes:
    """One vector as base64 of its little-endian float32 bytes. vector: (d,) or (1, d), C-contiguous."""
    return pybase64.b64encode((vector if _IS_NATIVE else vector.astype(_LITTLE_ENDIAN_FLOAT32)).data)


def from_base64(text: str | bytes | memoryview) -> Vectors:
    """The inverse of `to_base64`. Returns (d,) float32, writable or not.

    Raises UpstreamMismatch if the text is not base64 or its bytes are not whole float32 numbers.
    """
    try:
        raw = pybase64.b64decode_as_bytearray(text, validate=True)
    except ValueError as error:
        raise UpstreamMismatch("a vector is not valid base64") from error
    if not raw or len(raw) % 4:
        raise UpstreamMismatch(f"a base64 vector has {len(raw)} bytes, not a positive multiple of 4")
    vector = np.frombuffer(raw, dtype=_LITTLE_ENDIAN_FLOAT32)
    return vector if _IS_NATIVE else vector.astype(np.float32)


def to_json(vector: Vectors | npt.NDArray[np.int8] | npt.NDArray[np.uint8]) -> bytes:
    """One vector as a JSON list: of whole numbers, or of the shortest decimals that read back to the same float32.

    vector: (d,), C-contiguous.
    """
    return orjson.dumps(vector, option=orjson.OPT_SERIALIZE_NUMPY)


def stack(rows: list[Vectors]) -> Vectors:
    """Rows of one length, (d,) float32 each, as one C-contiguous (n, d) array; of a single row, a view.

    Raises UpstreamMismatch if the rows differ in length.
    """
    if len(rows) == 1:
        return rows[0][np.newaxis]
    lengths = {row.shape[-1] for row in rows}
    if len(lengths) > 1:
        raise UpstreamMismatch(f"vectors of different lengths in one answer: {sorted(lengths)[:4]}")
    return np.stack(rows)
