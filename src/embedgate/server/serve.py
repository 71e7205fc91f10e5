"""Runs the gateway on a socket until it is told to stop, then drains it."""

import asyncio
import contextlib
import gc
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator

import uvicorn

from embedgate import telemetry
from embedgate.core.errors import ConfigError
from embedgate.server.app import Application
from embedgate.wiring import Gateway

_KEEP_ALIVE_S = 75
_BACKLOG = 2048
_GRACE_S = 3
_GC_THRESHOLD = 20_000


class _Server(uvicorn.Server):
    """uvicorn with our own signals: it would raise the signal again after draining, and so never exit with 0."""

    def __init__(
        self, config: uvicorn.Config, on_started: Callable[[], None], drain: Callable[[], Awaitable[None]]
    ) -> None:
        super().__init__(config)
        self._on_started = on_started
        self._drain = drain

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        draining = asyncio.ensure_future(self._drain())
        await super().shutdown(sockets)
        if self.force_exit:
            draining.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await draining

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _stop(self) -> None:
        """The first signal drains, the second gives up waiting."""
        if self.should_exit:
            self.force_exit = True
            return
        self.should_exit = True
        telemetry.DRAINING.emit()


def _started(url: str, on_ready: Callable[[str], None]) -> None:
    # What lives as long as the process need not be walked by every collection: 5 % of a small request's time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD)
    telemetry.STARTED.emit(url=url)
    on_ready(url)


def bind(host: str, port: int) -> socket.socket:
    """A listening address. port 0 takes a free one. Raises ConfigError if it is taken or not ours."""
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


async def serve(gateway: Gateway, listener: socket.socket, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, answer what is in flight, close the gateway.

    on_ready: called once with the base URL when requests are taken.
    """
    application = Application(gateway)
    settings = gateway.settings.server
    config = uvicorn.Config(
        application,
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        date_header=True,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        # Our own drain ends first, and answers what it cuts; this only bounds connections that send nothing.
        timeout_graceful_shutdown=int(settings.drain_timeout_s) + _GRACE_S,
    )
    server = _Server(
        config, lambda: _started(base_url(listener), on_ready), lambda: application.drain(settings.drain_timeout_s)
    )
    try:
        await server.serve(sockets=[listener])
    finally:
        await application.drain(0)  # what a second signal has left
        await gateway.aclose()
        telemetry.STOPPED.emit()


def base_url(listener: socket.socket) -> str:
    """Where a client on this machine reaches the listener."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        host = "127.0.0.1" if host == "0.0.0.0" else "[::1]"  # noqa: S104 - compared, not bound
    elif ":" in host:
        host = f"[{host}]"
    return f"http://{host}:{port}"
