"""Format and digest of gateway keys. Ownership and validity are decided elsewhere."""

import hashlib
import re
import uuid

_UUID4_HEX = re.compile(r"[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}")
ZIRI_PREFIX = "ziri"
_OLDER_FORM = re.compile(r"ziri-[A-Za-z0-9._@-]{1,64}-[0-9a-f]{8,128}")


def new_secret(prefix: str) -> str:
    """A fresh key: `<prefix>_` and the 32 lower-case hex digits of a random UUID."""
    return f"{prefix}_{uuid.uuid4().hex}"


def is_well_formed(secret: str, *prefixes: str) -> bool:
    """Whether `secret` has the form of a key under one of the prefixes, or one of ZIRI's, whatever they are.

    ZIRI's are `ziri_` and 32 hex digits, and the older form `ziri-<user>-<hex>`.
    """
    for prefix in (*prefixes, ZIRI_PREFIX):
        if secret.startswith(f"{prefix}_"):
            return _UUID4_HEX.fullmatch(secret, len(prefix) + 1) is not None
    return _OLDER_FORM.fullmatch(secret) is not None


def digest(secret: str) -> bytes:
    """SHA-256 of a full key, 32 bytes: the only form in which a key is stored.

    A key has 122 random bits, so neither salt nor a slow hash would add anything.
    """
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
