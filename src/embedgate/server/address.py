"""Client address of a request: the peer of its connection, or what a trusted proxy reports."""

import ipaddress
from collections.abc import Sequence

from embedgate.server.respond import Request

_FORWARDED = b"x-forwarded-for"


class CallerAddress:
    """Client address, taking trusted proxies into account."""

    def __init__(self, trusted_proxies: Sequence[str]) -> None:
        """trusted_proxies: addresses or networks."""
        self._trusted = [ipaddress.ip_network(text) for text in trusted_proxies]

    def of(self, request: Request) -> str:
        """The client address: the last one in X-Forwarded-For that is not a trusted proxy, if the peer is one."""
        if not self._trusted or not self._is_trusted(request.peer):
            return request.peer
        hops = [hop.strip() for hop in request.headers.get(_FORWARDED, b"").decode("latin-1").split(",")]
        for hop in reversed(hops):
            if not self._is_trusted(hop):
                return hop if _is_address(hop) else request.peer
        return request.peer

    def _is_trusted(self, text: str) -> bool:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return False
        return any(address in network for network in self._trusted)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
