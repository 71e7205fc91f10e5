"""Fingerprint of an embedding: a digest of everything that determines the vector, and of nothing else.

The key of the cache and of single flight. The parts are length-prefixed, so that no two different lists of
parts give the same bytes.
"""

import functools
import hashlib
import struct

from embedgate.core.types import Input

DIGEST_BYTES = 16
_PIECE_CHARACTERS = 250_000


def fingerprint(parts: tuple[str, ...], text: Input) -> bytes:
    """BLAKE2b-128 over `parts` (scope, model, space, revision, precision, size, input type,
    truncation) and one input.

    text: exact; no trimming, no case folding. Token ids and text never share a fingerprint.
    Returns 16 bytes.
    """
    digest = _digest_of_parts(parts).copy()
    if isinstance(text, str):
        if len(text) <= _PIECE_CHARACTERS:
            digest.update(b"t" + text.encode())
        else:  # a single call would keep the interpreter from others for long
            digest.update(b"t")
            for start in range(0, len(text), _PIECE_CHARACTERS):
                digest.update(text[start : start + _PIECE_CHARACTERS].encode())
    else:
        digest.update(b"i" + struct.pack(f"<{len(text)}q", *text))
    return digest.digest()


@functools.lru_cache(maxsize=1024)
def _digest_of_parts(parts: tuple[str, ...]) -> "hashlib.blake2b":
    """A digest of the parts alone: the same for all inputs of a request, and for most requests of a user."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        raw = part.encode()
        digest.update(struct.pack("<I", len(raw)))
        digest.update(raw)
    return digest
