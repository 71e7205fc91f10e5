"""Deterministic vectors computed from a text alone, and its token count: those of the fake provider and embedder.

The numbers are the same on every platform and in every version. They have no meaning: similar texts are not near.
"""

import hashlib
import struct

import numpy as np

from embedgate.core.types import Input
from embedgate.core.vectors import Vectors


def vector(item: Input, dim: int) -> Vectors:
    """The vector of one input, (dim,) float32 of unit length. A smaller `dim` gives the shortened vector."""
    # An extendable digest of n bytes is a prefix of longer ones, so that every size is a prefix of the larger.
    digest = hashlib.shake_128(_seed(item)).digest(2 * dim)
    whole = np.frombuffer(digest, dtype="<i2").astype(np.int64)
    # Integer sums are exact and division has one rounding, so platforms do not differ in the last bit.
    scaled: Vectors = (whole / np.sqrt(np.dot(whole, whole))).astype(np.float32)
    return scaled


def count_tokens(item: Input) -> int:
    """Tokens as this provider bills them: one per started four bytes, or the number of ids."""
    return len(item.encode()) // 4 + 1 if isinstance(item, str) else len(item)


def _seed(item: Input) -> bytes:
    if isinstance(item, str):
        return b"t" + item.encode()
    return b"i" + struct.pack(f"<{len(item)}q", *item)
