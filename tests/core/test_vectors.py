"""Vectors keep their bytes, their order and their length."""

import base64
import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

from embedgate.core.errors import InvalidDimension, UpstreamGarbled
from embedgate.core.vectors import Vectors, from_base64, normalise, norms, shorten, stack, to_base64, to_json

finite = st.floats(-1e6, 1e6, width=32)
rows = numpy_strategies.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 40)), elements=finite)


@given(rows)
def test_base64_is_little_endian_float32_of_exact_length(vectors: Vectors) -> None:
    for vector in vectors:
        raw = base64.b64decode(to_base64(vector))
        assert raw == struct.pack(f"<{len(vector)}f", *vector.tolist())


@given(rows)
def test_base64_and_json_read_back_to_the_same_float32(vectors: Vectors) -> None:
    for vector in vectors:
        assert from_base64(to_base64(vector)).tobytes() == vector.tobytes()
        assert np.array(json.loads(to_json(vector)), dtype=np.float32).tobytes() == vector.tobytes()


@pytest.mark.parametrize("bad", ["", "AAA", "AAAA", "!!!!", "AAAAAAA"])
def test_text_that_is_no_vector_is_garbled(bad: str) -> None:
    with pytest.raises(UpstreamGarbled):
        from_base64(bad)


@given(rows, st.data())
def test_shortened_rows_are_the_beginning_at_unit_length(vectors: Vectors, data: st.DataObject) -> None:
    vectors = vectors + np.float32(1e7)  # away from zero, so that a length exists
    dim = data.draw(st.integers(1, vectors.shape[1]))
    cut = shorten(vectors, dim)
    expected = vectors[:, :dim].astype(np.float64)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert cut.shape == (len(vectors), dim)
    assert cut.flags.c_contiguous
    np.testing.assert_allclose(cut, expected, atol=1e-6)


@pytest.mark.parametrize("dim", [0, -1, 5])
def test_sizes_a_vector_does_not_have_are_refused(dim: int) -> None:
    with pytest.raises(InvalidDimension):
        shorten(np.ones((1, 4), dtype=np.float32), dim)


def test_normalising_leaves_zeros_and_the_argument_alone() -> None:
    vectors = np.array([[3, 4], [0, 0]], dtype=np.float32)
    scaled = normalise(vectors)
    np.testing.assert_allclose(norms(scaled), [1, 0])
    assert vectors[0, 0] == 3


def test_rows_of_different_lengths_do_not_stack() -> None:
    with pytest.raises(UpstreamGarbled):
        stack([np.zeros(3, dtype=np.float32), np.zeros(4, dtype=np.float32)])
