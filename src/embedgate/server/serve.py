"""Server process: serves the gateway on a socket until a signal, then drains it."""

import asyncio
import contextlib
import gc
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import uvicorn

from embedgate.core.errors import ConfigError
from embedgate.observe import events
from embedgate.server.app import Application
from embedgate.server.connection import Connection
from embedgate.server.dialects import openai
from embedgate.server.gate import Gate, Placed
from embedgate.server.handshake import Handshake
from embedgate.server.memory import memory_budget
from embedgate.server.open_files import make_room
from embedgate.server.reload import Load, Reload
from embedgate.server.secret_files import warn_of_readable
from embedgate.server.signals import handled
from embedgate.server.tls import Certificate
from embedgate.settings import ServerSettings
from embedgate.wiring import Gateway

_BACKLOG = 2048
_GRACE_S = 3
_TICKS_PER_SWEEP = 10
"""Ticks of uvicorn per second."""
_GC_THRESHOLD = 20_000
_MAX_RELOADS = 2
"""One in progress, and one after it that sees what has changed meanwhile."""


class _Server(uvicorn.Server):
    """uvicorn with our connections and signal handling: its own raises the signal again and never exits with 0.

    gate: connection limits. tls: None for plain HTTP.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        gate: Gate,
        tls: ssl.SSLContext | None,
        on_started: Callable[[], None],
        drain: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(config)
        self._gate = gate
        self._tls = tls
        self._on_started = on_started
        self._drain = drain

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # Replaces uvicorn's, which has neither our gate nor a timeout of TLS handshakes.
        self.servers = [await self._listen(listener) for listener in sockets or ()]
        self.started = True
        self._on_started()

    async def _listen(self, listener: socket.socket) -> asyncio.Server:
        return await asyncio.get_running_loop().create_server(
            self._connection if self._tls is None else partial(Handshake, self._gate, self._tls, self._connection),
            sock=listener,
            backlog=_BACKLOG,
        )

    def _connection(self, handshake: Placed | None = None) -> Connection:
        return Connection(self.config, self.server_state, self._gate, handshake)

    async def on_tick(self, counter: int) -> bool:
        if counter % _TICKS_PER_SWEEP == 0:
            self._gate.sweep()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._gate.sweep()  # uvicorn has stopped ticking
        draining = asyncio.ensure_future(self._drain())
        await super().shutdown(sockets)
        if self.force_exit:
            draining.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await draining

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # `serve` handles them, until the ledger is closed

    def stop(self) -> None:
        """The first signal drains, the second gives up waiting."""
        if self.should_exit:
            self.force_exit = True
            return
        self.should_exit = True
        events.DRAINING.emit()


def _started(url: str, on_ready: Callable[[str], None]) -> None:
    # Objects that live as long as the process need not be scanned by the GC: 5 % of a small request's time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD)
    gc.enable()
    events.STARTED.emit(url=url)
    on_ready(url)


def bind(host: str, port: int) -> socket.socket:
    """Bind a listening socket. port 0 takes a free one. Raises ConfigError if it is taken or not permitted."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(
            [f"cannot listen on {host}:{port}: {reason}. Set EMBEDGATE_HOST or EMBEDGATE_PORT to another."]
        ) from error
    return listener


async def serve(
    gateway: Gateway,
    listener: socket.socket,
    certificate: Certificate | None,
    on_ready: Callable[[str], None],
    load: Load | None = None,
) -> None:
    """Serve until a signal that ends processes, drain requests in flight, close the gateway. SIGHUP reloads.

    A signal that is ignored when the process starts stays ignored.

    certificate: of HTTPS; None for plain HTTP. on_ready: called once with the base URL when requests are taken.
    load: reads the settings anew, for SIGHUP.
    """
    settings = gateway.settings.server
    warn_of_readable(gateway.settings)
    make_room(settings.max_connections)
    memory = memory_budget(settings)
    application = Application(gateway, memory)
    gate = Gate(settings, openai, memory=memory)
    application.readiness.add_bound("connections", lambda: gate.is_full)
    server = _Server(
        _config(application, settings),
        gate,
        certificate.context if certificate else None,
        on_started=lambda: _started(base_url(listener, certificate), on_ready),
        drain=lambda: application.drain(settings.drain_timeout_s),
    )
    reloads = _Reloads(Reload(gateway, certificate, load))
    with handled(server.stop, reloads.begin):
        try:
            application.shedder.start(lambda: gate.turns.wait_s)
            await server.serve(sockets=[listener])
        finally:
            await reloads.aclose()
            await application.shedder.aclose()
            await application.drain(0)  # aborted by a second signal
            application.close()
            await gateway.aclose()
            events.STOPPED.emit()


class _Reloads:
    """Owns the tasks of reloads."""

    def __init__(self, reload: Reload) -> None:
        self._reload = reload
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        """Begin a reload, unless one waits already."""
        if len(self._tasks) < _MAX_RELOADS:
            task = asyncio.get_running_loop().create_task(self._reload())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """End what is in progress."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _config(application: Application, settings: ServerSettings) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        http="httptools",
        ws="none",
        lifespan="off",
        # Clients must not be able to fill the log: uvicorn warns of each request that it cannot parse.
        log_level=logging.ERROR,
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        date_header=True,
        timeout_keep_alive=settings.keep_alive_s,
        # Our drain ends first, and answers what it cancels; this only bounds connections that send nothing.
        timeout_graceful_shutdown=int(settings.drain_timeout_s) + _GRACE_S,
    )


def base_url(listener: socket.socket, certificate: Certificate | None) -> str:
    """URL for a client on this machine; over HTTPS with a name of the certificate."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"  # noqa: S104 - compared, not bound
    scheme = "http"
    if certificate is not None:
        scheme, host = "https", certificate.host_for(host)
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
