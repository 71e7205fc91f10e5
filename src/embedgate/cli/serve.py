"""`embedgate serve`: starts the gateway and says where it is and how to try it."""

import asyncio
import contextlib
import gc
import json
import shlex
import socket
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedgate.cli import options

if TYPE_CHECKING:
    from embedgate.config import Loaded
    from embedgate.govern.first_start import FirstKeys
    from embedgate.server.tls import Certificate
    from embedgate.wiring import Gateway

_ABSENT_KEY = "YOUR_KEY"


def serve(
    context: typer.Context,
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Address to listen on (setting server.host).")
    ] = None,
    port: Annotated[
        int | None, typer.Option(metavar="PORT", help="TCP port, 0 for a free one (setting server.port).")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of database and keys (setting storage.data_dir).")
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            help="Serve HTTP without TLS to other machines (setting server.allow_plain_http).",
        ),
    ] = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Start the gateway. SIGTERM or Ctrl-C ends it, once what is in flight is answered. SIGHUP reloads."""
    overrides: dict[str, dict[str, Any]] = {
        "server": {"host": host, "port": port, "allow_plain_http": insecure or None},
        "storage": {"data_dir": data_dir},
    }
    with _uncollected():
        _start(lambda: options.load_settings(context, config_file, overrides))


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without the garbage collector, until the server turns it on: what a start makes stays, and to scan it again and
    again takes a tenth of the start.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _start(load: "Callable[[], Loaded]") -> None:
    # The server and everything below it take far longer to import than a mistake in the settings to report.
    from embedgate.observe import events
    from embedgate.server.serve import bind
    from embedgate.server.tls import is_loopback, protection

    loaded = load()
    events.configure(loaded.settings.log.level, loaded.settings.log.format)
    server = loaded.settings.server
    certificate = protection(server)
    # Before anything else is opened: a port that is taken is the commonest mistake.
    with contextlib.closing(bind(server.host, server.port)) as listener:
        if certificate is None and not is_loopback(server.host):
            typer.echo(
                f"warning: listening on {server.host} without TLS, as server.allow_plain_http says: keys and texts "
                "cross the network readable, except behind a proxy with TLS.",
                err=True,
            )
        _run(_serve(loaded, listener, certificate, load))


def _run(serving: Coroutine[Any, Any, None]) -> None:
    try:
        import uvloop
    except ImportError:  # it is not made for Windows
        asyncio.run(serving)
    else:
        uvloop.run(serving)


async def _serve(
    loaded: "Loaded", listener: socket.socket, certificate: "Certificate | None", load: "Callable[[], Loaded]"
) -> None:
    from embedgate.server.serve import serve as serve_until_stopped
    from embedgate.wiring import open_gateway

    gateway = await open_gateway(loaded, is_server=True)
    # A certificate that nobody else vouches for is the one that curl has to be told of.
    ca_file = certificate.file.absolute() if certificate and certificate.is_self_signed else None
    await serve_until_stopped(
        gateway, listener, certificate, lambda url: typer.echo(_greeting(gateway, url, ca_file=ca_file)), load
    )


def _greeting(gateway: "Gateway", url: str, *, ca_file: Path | None) -> str:
    """What is printed when requests are taken. Names files of keys, never a key."""
    key_file = gateway.settings.storage.data_dir.expanduser().absolute() / "user.key"
    has_key = key_file.exists()
    lines = [f"embedgate is ready at {url}", ""]
    if gateway.first_keys is not None:
        lines += [*_first_keys(gateway.first_keys), ""]
    lines.append("Try it:" if has_key else "Try it, with a key of yours or one made by `embedgate keys create`:")
    lines.append(curl_line(url, key_file if has_key else None, example_model(gateway), ca_file))
    return "\n".join(lines)


def _first_keys(keys: "FirstKeys") -> list[str]:
    return [
        "First start: two keys were made, each in a file that only you can read.",
        f"  administrator  {keys.admin_key_file.absolute()}",
        f"  user           {keys.user_key_file.absolute()}",
    ]


def example_model(gateway: "Gateway") -> str:
    """The default model if it can be used, else the first that can."""
    usable = [model.id for model in gateway.usable_models()]
    default = gateway.settings.local.default_model
    return default if default in usable or not usable else usable[0]


def curl_line(url: str, key_file: Path | None, model: str, ca_file: Path | None = None) -> str:
    """One line for a POSIX shell that embeds a text. The key is read from its file when the line runs.

    ca_file: certificate to trust besides those of the system.
    """
    key = _ABSENT_KEY if key_file is None else f"$(cat {shlex.quote(str(key_file))})"
    body = json.dumps({"model": model, "input": "Hello, world"})
    trust = f" --cacert {shlex.quote(str(ca_file))}" if ca_file else ""
    return (
        f'curl {url}/v1/embeddings{trust} -H "Authorization: Bearer {key}" '
        f'-H "Content-Type: application/json" -d {shlex.quote(body)}'
    )
