"""Vectors that follow from their key, so that any process can tell a right one from a wrong one."""

import hashlib

import numpy as np

from embedgate.core.types import CachedVector


def key_of(number: int) -> bytes:
    """A key of 16 bytes."""
    return hashlib.blake2b(number.to_bytes(8, "little"), digest_size=16).digest()


def derived(key: bytes, dim: int = 256, version: int = 0) -> CachedVector:
    """The one right value of a key."""
    floats = np.frombuffer(hashlib.shake_128(key + bytes([version])).digest(dim), dtype=np.uint8).astype(np.float32)
    floats.flags.writeable = False
    return CachedVector(floats, tokens=key[0] * 1000 + version, is_truncated=bool(key[1] % 2))


def items(numbers: range, dim: int = 256) -> list[tuple[bytes, CachedVector]]:
    """Keys with their values."""
    return [(key_of(number), derived(key_of(number), dim)) for number in numbers]


def is_right(key: bytes, cached: CachedVector, dim: int = 256, version: int = 0) -> bool:
    """Whether this is the value of the key."""
    expected = derived(key, dim, version)
    return (
        cached.tokens == expected.tokens
        and cached.is_truncated == expected.is_truncated
        and cached.vector.dtype == np.float32
        and not cached.vector.flags.writeable
        and np.array_equal(cached.vector, expected.vector)
    )
