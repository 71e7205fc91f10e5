"""Keeps a program on this machine: what is not loopback is neither looked up nor connected to.

It sees what goes through Python's sockets, which is how every SDK here speaks, its telemetry included. SDKs swallow the
errors of their telemetry, so attempts are also kept, in `strangers`, for a test to read.
"""

import ipaddress
import sys

strangers: list[str] = []
"""The hosts that the program tried to reach."""

_HOST_OF = {
    "socket.connect": lambda arguments: arguments[1],
    "socket.sendto": lambda arguments: arguments[1],
    "socket.getaddrinfo": lambda arguments: arguments[:1],
}
"""What a call of the socket module, by its audit event, was given as the address."""


def stay_on_loopback() -> None:
    """Refuse every other address from now on, with PermissionError. It cannot be taken back."""
    sys.addaudithook(_refuse_strangers)


def _refuse_strangers(event: str, arguments: tuple[object, ...]) -> None:
    if event not in _HOST_OF:
        return
    address = _HOST_OF[event](arguments)
    if isinstance(address, tuple) and not _is_loopback(address[0]):  # a local socket has a path for an address
        strangers.append(str(address[0]))
        raise PermissionError(f"{address[0]!r} is not this machine, and these programs need no other.")


def _is_loopback(host: object) -> bool:
    if host in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host.decode() if isinstance(host, bytes) else str(host)).is_loopback
    except ValueError:
        return False
