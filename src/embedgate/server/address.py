"""Client address of a request: the peer of its connection, or what trusted proxies report of it."""

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from embedgate.server.respond import Request

UNKNOWN = "unknown"
"""In place of an address that cannot be read. It is none: where a policy asks for the address, nothing is permitted."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_PORT = r":(?:\d{1,5}|_[\w.-]+)"
"""RFC 7239 (6) lets a proxy hide a port behind a name."""
_WITH_PORT = re.compile(rf"\[([0-9A-Fa-f:.%\w]+)\](?:{_PORT})?|([0-9.]+){_PORT}", re.ASCII)
_PAIR = re.compile(r"""\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)=("(?:[^"\\]|\\.)*"|[^\s",;]*)\s*(;|,|$)""", re.ASCII)
"""One `name=value` of RFC 7239, and what ends it."""


class CallerAddress:
    """Client address, taking trusted proxies into account.

    A trusted proxy reports the hops before it in X-Forwarded-For or in Forwarded (RFC 7239), in any spelling that the
    big ones use; several lines of a header are one list. The client is the last hop that is no trusted proxy, or the
    first one if all are. What cannot be read is no proxy of ours: then, and where the two headers contradict each
    other, the address is UNKNOWN, never that of the proxy.
    """

    def __init__(self, trusted_proxies: Sequence[str]) -> None:
        """trusted_proxies: addresses or networks."""
        self._trusted: list[Network] = [ipaddress.ip_network(text) for text in trusted_proxies]

    def of(self, request: Request) -> str:
        """The client address. A request of the proxy itself, which reports no hop at all, has the proxy's."""
        return self.behind(request.peer, request.headers)

    def behind(self, peer: str, headers: Mapping[bytes, bytes]) -> str:
        """The client address of a request with these headers that comes from a peer."""
        if not self._trusted or not self._is_trusted(_read(peer)):
            return peer
        found = {
            self._client(hops(value.decode("latin-1")))
            for name, hops in ((b"x-forwarded-for", _listed), (b"forwarded", _forwarded))
            if (value := headers.get(name)) is not None
        }
        if not found:
            return peer
        return found.pop() if len(found) == 1 else UNKNOWN

    def _client(self, hops: Sequence[str]) -> str:
        address: Address | None = None
        for hop in reversed(hops):
            address = _read(hop)
            if not self._is_trusted(address):
                break
        return UNKNOWN if address is None else str(address)

    def _is_trusted(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self._trusted)


def _read(hop: str) -> Address | None:
    """The address of a hop, with or without a port; None for anything else, such as `unknown` or `_hidden`.

    An IPv4 address in the form of IPv6 is read as IPv4; a zone (`%eth0`) is dropped.
    """
    found = _WITH_PORT.fullmatch(hop)
    text = (found[1] or found[2]) if found else hop
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _listed(value: str) -> list[str]:
    """The hops in X-Forwarded-For, the client first."""
    return [_unquoted(hop.strip()) for hop in value.split(",")]


def _forwarded(value: str) -> list[str]:
    """The hops in Forwarded, the client first. One that does not say for whom, or breaks the syntax, is unreadable."""
    hops: list[str] = []
    hop: str | None = None
    for name, text, end in _pairs(value):
        if name == "for":
            hop = UNKNOWN if hop is not None else text
        if end != ";":
            hops.append(UNKNOWN if hop is None else hop)
            hop = None
    return hops


def _pairs(value: str) -> Iterator[tuple[str, str, Literal[";", ",", ""]]]:
    """Names in lower case, values without quotes, and what follows. Where the syntax breaks, a hop without a name."""
    position = 0
    while position <= len(value):
        found = _PAIR.match(value, position)
        if found is None:
            # Everything to the next comma is one unreadable hop: what proxies of ours added behind it counts.
            comma = value.find(",", position)
            yield "", "", ","
            position = len(value) + 1 if comma < 0 else comma + 1
            continue
        end: Literal[";", ",", ""] = ";" if found[3] == ";" else "," if found[3] else ""
        yield found[1].lower(), _unquoted(found[2]), end
        position = found.end() if end else len(value) + 1


def _unquoted(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text
