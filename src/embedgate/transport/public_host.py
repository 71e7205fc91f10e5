"""The host of a provider that must be on the internet: its name is resolved here, and only a checked address is used.

A name that led to the internet when it was stored can lead into this network later. So the address that is connected to
is one that was checked; the client of HTTP is told it, and never asks the resolver itself. TLS and the header `host` go
by the name all the same.
"""

import asyncio
import ipaddress
import socket
import time
from collections.abc import Callable

from pyreqwest.http import Url

from embedgate.core.addresses import IpAddress, is_public
from embedgate.core.errors import UpstreamFailed, UpstreamNotAsked

KEPT_S = 30.0
"""How long an address is used before the name is resolved anew; connections that stand stay."""


class PublicHost:
    """Resolves the host of one base URL, and gives one address that was checked. For one event loop."""

    def __init__(
        self,
        provider: str,
        base_url: str,
        *,
        is_allowed: Callable[[IpAddress], bool] = is_public,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """provider: its name in messages. is_allowed: whether an address may be connected to."""
        url = Url(base_url)  # as the client of HTTP understands it: its rules for hosts are not those of Python
        self.name = (url.host_str or "").strip("[]")
        self._provider = provider
        self._port = url.port or (443 if url.scheme == "https" else 80)
        self._is_allowed = is_allowed
        self._clock = clock
        self._addresses: tuple[str, ...] = ()
        self._until_s = 0.0
        self._lock = asyncio.Lock()

    async def address(self, deadline_s: float) -> str:
        """The address to connect to. deadline_s: on the monotonic clock, for the resolver.

        Raises UpstreamFailed if the host is not on the internet or cannot be found, UpstreamNotAsked if finding it
        takes too long.
        """
        async with self._lock:  # who comes meanwhile shares the look-up
            if self._clock() >= self._until_s:
                self._addresses = await self._look_up(deadline_s)
                self._until_s = self._clock() + KEPT_S
            return self._addresses[0]

    def failed(self, address: str) -> None:
        """Report that an address could not be connected to: the next one is tried, and the name is resolved again."""
        if self._addresses and self._addresses[0] == address:
            self._addresses = (*self._addresses[1:], address)
            if len(self._addresses) == 1:
                self._until_s = 0.0

    async def _look_up(self, deadline_s: float) -> tuple[str, ...]:
        try:
            literal = ipaddress.ip_address(self.name)
        except ValueError:
            found = await self._resolve(deadline_s)
        else:
            found = (literal,)
        private = next((address for address in found if not self._is_allowed(address)), None)
        if private is not None:
            raise UpstreamFailed(
                f"{self._provider} leads to {private} now, which is not on the internet but on this machine or in its "
                "network. Nothing was sent. If that is meant, set its address again with allow_private"
            )
        return tuple(map(str, found))

    async def _resolve(self, deadline_s: float) -> tuple[IpAddress, ...]:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(max(0.0, deadline_s - time.monotonic())):
                found = await loop.getaddrinfo(self.name, self._port, type=socket.SOCK_STREAM)
        except TimeoutError as error:
            raise UpstreamNotAsked(f"The host of {self._provider} was not found within the call's time") from error
        except (OSError, UnicodeError) as error:
            raise UpstreamFailed(f"{self._provider} cannot be reached: its host cannot be found") from error
        return tuple(dict.fromkeys(ipaddress.ip_address(str(address[0])) for *_, address in found))
