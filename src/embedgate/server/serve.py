"""Runs the gateway on a socket until it is told to stop, then drains it."""

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Callable, Iterator

import uvicorn

from embedgate import telemetry
from embedgate.core.errors import ConfigError
from embedgate.server.app import Application
from embedgate.wiring import Gateway

_KEEP_ALIVE_S = 75
_BACKLOG = 2048


class _Server(uvicorn.Server):
    """uvicorn with our own signals: it would raise the signal again after draining, and so never exit with 0."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started
        self.stopped_s: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()

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
        self.stopped_s = time.monotonic()
        telemetry.DRAINING.emit()


def _started(url: str, on_ready: Callable[[str], None]) -> None:
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
        date_header=True,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, int(settings.drain_timeout_s)),
    )
    server = _Server(config, lambda: _started(base_url(listener), on_ready))
    try:
        await server.serve(sockets=[listener])
    finally:
        await application.drain(_drain_s(server, settings.drain_timeout_s))
        await gateway.aclose()
        telemetry.STOPPED.emit()


def _drain_s(server: _Server, drain_timeout_s: float) -> float:
    """What is left of the time to drain, nothing after a second signal."""
    if server.force_exit or server.stopped_s is None:
        return 0.0
    return max(0.0, server.stopped_s + drain_timeout_s - time.monotonic())


def base_url(listener: socket.socket) -> str:
    """Where a client on this machine reaches the listener."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        host = "127.0.0.1" if host == "0.0.0.0" else "[::1]"  # noqa: S104 - compared, not bound
    elif ":" in host:
        host = f"[{host}]"
    return f"http://{host}:{port}"
