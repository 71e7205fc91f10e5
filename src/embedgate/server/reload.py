"""Reload on SIGHUP: the certificate and the settings that can change while the gateway runs.

All is read and checked before anything is put in force, so that a file with a mistake changes nothing. What needs a
restart is named, and stays as it was.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace

from pydantic import BaseModel

from embedgate.config import Loaded
from embedgate.core.errors import ConfigError
from embedgate.observe import events, metrics
from embedgate.server.tls import Certificate, protection
from embedgate.settings import Settings
from embedgate.wiring import Gateway

LIVE_SECTIONS = ("providers", "log")
LIVE_SERVER_FIELDS = ("tls_cert_file", "tls_key_file")

Load = Callable[[], Loaded]
"""Reads the settings as at the start. Raises ConfigError."""


class Reload:
    """Reload of one server. Call it for each SIGHUP; it does one at a time."""

    def __init__(self, gateway: Gateway, certificate: Certificate | None, load: Load | None) -> None:
        """certificate: in use, None for plain HTTP. load: None where settings came from no file or environment."""
        self._gateway = gateway
        self._certificate = certificate
        self._load = load
        self._lock = asyncio.Lock()

    async def __call__(self) -> None:
        """Put in force what can be. What goes wrong is logged, and all stays as it was."""
        async with self._lock:
            try:
                changed, later = await self._reload()
            except ConfigError as error:
                metrics.reloaded("failed")
                events.RELOAD_FAILED.emit(reason=str(error))
                return
        metrics.reloaded("ok")
        events.RELOADED.emit(changed=", ".join(changed) or None, needs_restart=", ".join(later) or None)

    async def _reload(self) -> tuple[list[str], list[str]]:
        """The settings that were put in force, and those that need a restart. Raises ConfigError."""
        gateway = self._gateway
        in_force = gateway.settings
        loaded = None if self._load is None else await asyncio.to_thread(self._load)
        wanted = in_force if loaded is None else loaded.settings
        settings = with_live(in_force, wanted)
        if self._certificate is not None and settings.server.tls_cert_file is None:
            raise ConfigError(["server.tls_cert_file is not set any more; to serve plain HTTP, restart the gateway"])
        if self._certificate is not None:
            await asyncio.to_thread(protection, settings.server)  # into a context of its own, to see whether it works
        if loaded is not None:
            await gateway.reload(replace(loaded, settings=settings))
            if settings.log != in_force.log:
                events.configure(settings.log.level, settings.log.format)
        if self._certificate is not None:
            await asyncio.to_thread(self._certificate.renew, settings.server)
        return sorted(differing(in_force, settings)), sorted(differing(settings, wanted))


def with_live(in_force: Settings, wanted: Settings) -> Settings:
    """The settings in force, with what is wanted of those that can change while the gateway runs."""
    has_tls = in_force.server.tls_cert_file is not None
    files = {name: getattr(wanted.server, name) for name in LIVE_SERVER_FIELDS} if has_tls else {}
    live = {name: getattr(wanted, name) for name in LIVE_SECTIONS}
    return in_force.model_copy(update={**live, "server": in_force.server.model_copy(update=files)})


def differing(one: Settings, other: Settings) -> Iterator[str]:
    """The paths of the settings in which the two differ; of a provider or local model, its name."""
    for section in type(one).model_fields:
        ours, theirs = getattr(one, section), getattr(other, section)
        before, after = _values(ours), _values(theirs)
        yield from (f"{section}.{name}" for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def _values(section: BaseModel | dict[str, object]) -> dict[str, object]:
    return (
        section if isinstance(section, dict) else {name: getattr(section, name) for name in type(section).model_fields}
    )
