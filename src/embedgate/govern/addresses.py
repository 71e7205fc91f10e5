"""Where a provider may be: an address on the internet over https, or one of this network if that is allowed by name.

Whoever may store an address makes the gateway call it, with a key; so neither a service beside the gateway nor an open
line is taken by mistake. This looks when the address is stored; as a name can point elsewhere later, `transport` looks
again at each address that it connects to.
"""

import ipaddress
import socket
from urllib.parse import SplitResult, urlsplit

from embedgate.core.addresses import IpAddress, is_public
from embedgate.core.errors import InvalidInput

ALLOW_PRIVATE = "allow_private"
"""The flag that messages name."""
_PORTS = {"http": 80, "https": 443}


def check_base_url(base_url: str, *, allow_private: bool = False) -> None:
    """Check an address before it is stored. Asks the resolver, which may take seconds.

    allow_private: take addresses of this machine and of private networks, those over plain http too.
    Raises InvalidInput, with the field `base_url`, for any other address, and if the host cannot be found.
    """
    parts = _parsed(base_url)
    found = _addresses(parts)
    private = next((address for address in found if not is_public(address)), None)
    if private is not None and not allow_private:
        raise _refused(
            base_url,
            f"leads to {private}, which is not on the internet but on this machine or in its network. If that is "
            f"meant, repeat it with {ALLOW_PRIVATE}",
        )
    if parts.scheme == "http" and any(is_public(address) for address in found):
        raise _refused(base_url, "would send keys and texts over the internet unencrypted. Use https")


def _parsed(base_url: str) -> SplitResult:
    try:
        parts = urlsplit(base_url)
        port = parts.port
    except ValueError as error:
        raise _refused(base_url, "is not of the form https://host/path", is_safe=False) from error
    if parts.username is not None or parts.password is not None:
        raise _refused(base_url, "holds a user name or a password. Store the key beside it", is_safe=False)
    if parts.scheme not in _PORTS or not parts.hostname or port == 0 or not base_url.isprintable() or " " in base_url:
        raise _refused(base_url, "is not of the form https://host/path", is_safe=False)
    if "?" in base_url or "#" in base_url:
        raise _refused(base_url, "has a query or a fragment. Leave it out", is_safe=False)
    return parts


def _addresses(parts: SplitResult) -> list[IpAddress]:
    """What the host stands for, at least one address."""
    host = parts.hostname or ""
    if "%" in host.partition("%25")[0]:  # which the client of HTTP decodes, and resolvers do not
        raise _refused(parts.geturl(), "has a host with escapes. Write it plainly")
    try:
        return [ipaddress.ip_address(host)]
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, parts.port or _PORTS[parts.scheme], type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise _refused(parts.geturl(), "has a host that cannot be found. Check its name") from error
    return [ipaddress.ip_address(str(address[0])) for *_, address in found]


def _refused(base_url: str, reason: str, *, is_safe: bool = True) -> InvalidInput:
    """is_safe: whether the address can be repeated; one that is not formed as it should be may hold a password."""
    shown = f" {base_url[:200]!r}" if is_safe else ""
    return InvalidInput(f"The address{shown} {reason}.", param="base_url")
