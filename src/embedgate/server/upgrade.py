"""Offers of another protocol in a request, which the gateway ignores (RFC 9110, section 7.8)."""

from collections.abc import Iterable

_OF_THE_OFFER = frozenset({b"upgrade", b"http2-settings"})


def without_upgrade(method: bytes, url: bytes, version: str, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The head of a request without its offer, as bytes. headers: names in lower case.

    `Connection` keeps what else it says; what frames the body stays as it was.
    """
    lines = [b"%s %s HTTP/%s" % (method, url, version.encode())]
    for name, value in headers:
        if name in _OF_THE_OFFER:
            continue
        if name == b"connection":
            value = b", ".join(  # noqa: PLW2901 - the header as it is passed on
                token for token in (part.strip() for part in value.split(b",")) if token.lower() not in _OF_THE_OFFER
            )
        lines.append(b"%s: %s" % (name, value))
    return b"\r\n".join([*lines, b"", b""])
