"""Vectors in fewer bits are what the docstring says, and as near to the floats."""

import math

import numpy as np
import numpy.typing as npt
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

from embedgate.core.quantise import to_binary, to_int8, to_ubinary, to_uint8
from embedgate.core.vectors import Vectors

sizes = st.integers(1, 24).map(lambda n: 8 * n)
components = st.floats(-1, 1, width=32)


@st.composite
def unit_vectors(draw: st.DrawFn, n: int = 2) -> Vectors:
    """n rows of one size that is a multiple of 8, each of length 1."""
    rows = draw(numpy_strategies.arrays(np.float64, (n, draw(sizes)), elements=components))
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    assume(lengths.min() > 1e-3)
    vectors: Vectors = (rows / lengths).astype(np.float32)
    return vectors


def cosine(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


@given(unit_vectors())
def test_int8_is_the_component_in_steps_of_a_127th(vectors: Vectors) -> None:
    found = to_int8(vectors)
    assert found.dtype == np.int8
    assert found.shape == vectors.shape
    # Python's own rounding takes a half to the even neighbour, too.
    assert found.tolist() == [[round(np.float32(127) * component) for component in row] for row in vectors]
    assert np.abs(found / 127 - vectors).max() <= 1 / 254 + 1e-6


@given(unit_vectors())
def test_cosines_of_int8_are_off_by_no_more_than_the_bound(vectors: Vectors) -> None:
    one, other = vectors.astype(np.float64)
    rounded, rounded_other = to_int8(vectors).astype(np.float64)
    bound = math.sqrt(len(one)) / 127
    assert abs(cosine(rounded, rounded_other) - cosine(one, other)) <= bound + 1e-6


@given(unit_vectors())
def test_uint8_is_int8_moved_up_by_128(vectors: Vectors) -> None:
    found = to_uint8(vectors)
    assert found.dtype == np.uint8
    assert found.min() >= 1
    assert np.array_equal(found.astype(np.int16) - 128, to_int8(vectors))


def test_a_vector_that_is_a_little_too_long_does_not_wrap_around() -> None:
    vector = np.array([1.001, 0, -1.001], dtype=np.float32)
    assert to_int8(vector).tolist() == [127, 0, -127]
    assert to_int8(np.array([1.02, -1.02], dtype=np.float32)).tolist() == [127, -127]
    assert to_uint8(vector).tolist() == [255, 128, 1]


@given(unit_vectors())
def test_binary_has_one_bit_for_each_sign_the_first_in_the_highest(vectors: Vectors) -> None:
    packed, moved = to_ubinary(vectors), to_binary(vectors)
    assert packed.dtype == np.uint8
    assert moved.dtype == np.int8
    assert packed.shape == moved.shape == (len(vectors), vectors.shape[1] // 8)
    for row, bits in zip(vectors, packed, strict=True):
        spelled = "".join("1" if component > 0 else "0" for component in row)
        assert [int(spelled[start : start + 8], 2) for start in range(0, len(spelled), 8)] == bits.tolist()
    assert np.array_equal(packed.astype(np.int16) - 128, moved)


def test_zero_counts_as_negative_and_one_row_is_packed_like_many() -> None:
    row = np.array([0.5, 0, -0.5, -0.0, 0.1, 0.2, 0, 0.3], dtype=np.float32)
    assert to_ubinary(row).tolist() == [0b10001101]
    assert to_binary(row).tolist() == [0b10001101 - 128]


def test_the_argument_is_left_alone() -> None:
    vectors = np.full((2, 8), 8**-0.5, dtype=np.float32)
    before = vectors.copy()
    for quantise in (to_int8, to_uint8, to_binary, to_ubinary):
        quantise(vectors)
    assert np.array_equal(vectors, before)
