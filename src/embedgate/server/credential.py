"""The credential that came with a request, for all dialects but ZIRI's."""

from collections.abc import Mapping


def bearer_or_key(headers: Mapping[bytes, bytes]) -> str | None:
    """The credential: `Authorization: Bearer`, else `x-api-key`, else Azure's `api-key`, else None."""
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    raw = token.strip() if scheme.lower() == b"bearer" else b""
    raw = raw or headers.get(b"x-api-key") or headers.get(b"api-key", b"")
    return raw.decode("latin-1") or None
