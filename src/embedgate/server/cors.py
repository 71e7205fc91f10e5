"""Cross-origin resource sharing: which pages of other sites may read answers, as the Fetch standard says.

Off without a setting. Only what a key opens is shared: no cookie of ours is ever sent along.
"""

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from embedgate.server.answer import Answer, Headers

ANY = "*"
_MAX_AGE_S = b"600"
_METHODS = b"GET, POST, PUT, PATCH, DELETE"
_EXPOSED = b"*"
"""Every header of an answer may be read, as no answer is to a request with credentials in the standard's sense."""


class Cors:
    """Rules for requests from pages of other sites."""

    def __init__(self, origins: Sequence[str]) -> None:
        """origins: as browsers write them, such as https://app.example.com; "*" for every one."""
        self._origins = frozenset(origin.encode("latin-1", "replace") for origin in origins)
        self._allows_any = ANY in origins

    def preflight(self, headers: Mapping[bytes, bytes]) -> Answer | None:
        """The answer to an OPTIONS request that asks whether another may follow; None if it is none of that kind."""
        if b"origin" not in headers or b"access-control-request-method" not in headers:
            return None
        allowed = self._allowed(headers)
        if allowed:
            asked = headers.get(b"access-control-request-headers", b"authorization, content-type, x-api-key")
            allowed += [
                (b"access-control-allow-methods", _METHODS),
                (b"access-control-allow-headers", asked),
                (b"access-control-max-age", _MAX_AGE_S),
            ]
        return Answer(204, allowed or [(b"vary", b"origin")], b"")

    def marked(self, answer: Answer, headers: Mapping[bytes, bytes]) -> Answer:
        """An answer that the page of the request may read, if its origin is allowed."""
        if b"origin" not in headers or not (allowed := self._allowed(headers)):
            return answer
        return replace(answer, headers=[*answer.headers, *allowed, (b"access-control-expose-headers", _EXPOSED)])

    def _allowed(self, headers: Mapping[bytes, bytes]) -> Headers:
        origin = headers[b"origin"]
        if self._allows_any:
            return [(b"access-control-allow-origin", b"*")]
        if origin in self._origins:
            return [(b"access-control-allow-origin", origin), (b"vary", b"origin")]
        return []
