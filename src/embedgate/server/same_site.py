"""Protection against cross-site requests of browsers, which are told by their headers and refused.

Only what needs no credential has to be guarded: a page cannot make a browser add a key or an access token, but it can
have it try passwords, from the address of whoever looks at the page.
"""

from collections.abc import Collection
from urllib.parse import urlsplit

from embedgate.core.errors import MalformedRequest, NotPermitted
from embedgate.server.respond import Request

_OWN = (b"same-origin", b"same-site", b"none")
"""Values of `Sec-Fetch-Site`, which no page can set: ours, or typed by the user."""
_JSON = (b"application/json", b"text/json")


def check_same_site(request: Request, origins: Collection[str]) -> None:
    """Refuse what a page of another site sends. origins: pages of other sites that may, such as `https://example.org`.

    Programs that are no browsers send none of these headers, and pass. Raises NotPermitted, or MalformedRequest if the
    body is said to be anything but JSON, which is what forms of other sites can send.
    """
    headers = request.headers
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind and kind not in _JSON:
        raise MalformedRequest("This route takes JSON only. Send `content-type: application/json`.", param="body")
    site, origin = headers.get(b"sec-fetch-site", b"").strip().lower(), headers.get(b"origin", b"").strip()
    if origin.decode("latin-1") in origins or site in _OWN:
        return
    if site or (origin and not _is_ours(origin, headers.get(b"host", b""))):
        raise NotPermitted(
            "This came from a web page of another site. Log in from the gateway's own site, or name that one in "
            "access.login_origins."
        )


def _is_ours(origin: bytes, host: bytes) -> bool:
    """Whether a page of that origin is of the host that was asked. The scheme may differ behind a proxy with TLS."""
    try:
        parts = urlsplit(origin.decode("latin-1"))
        asked = urlsplit(f"//{host.decode('latin-1')}")
        return bool(parts.hostname) and parts.hostname == asked.hostname and _port(parts.port) == _port(asked.port)
    except ValueError:
        return False


def _port(port: int | None) -> int | None:
    return None if port in (80, 443) else port
