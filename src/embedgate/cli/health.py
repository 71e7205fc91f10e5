"""`embedgate health`: asks the gateway of this machine whether it runs, for supervisors that run a command."""

import http.client
import ssl
from typing import Annotated
from urllib.parse import urlsplit

import typer

from embedgate.cli import options

_TIMEOUT_S = 5.0
_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104 - what is asked instead
_MAX_ANSWER_BYTES = 10_000
_OK = 200


def health(
    context: typer.Context,
    url: Annotated[
        str | None, typer.Option("--url", metavar="URL", help="Address of the gateway; that of the settings if absent.")
    ] = None,
    ready: Annotated[
        bool, typer.Option("--ready", help="Ask whether it takes requests, not only whether it runs.")
    ] = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Ask a gateway whether it runs: exit code 0 if it does, else 1 with a reason."""
    place = (url or _own_address(context, config_file)).rstrip("/")
    if not place.startswith(("http://", "https://")) or not urlsplit(place).hostname:
        raise typer.BadParameter(f"{place!r} is no address such as http://127.0.0.1:3100", param_hint="--url")
    path = "/readyz" if ready else "/healthz"
    status, text = _ask(place, path)
    if status != _OK:
        said = f"{place}{path} answers {status}" if status else f"{place} cannot be asked"
        typer.echo(f"error: {said}: {text}", err=True)
        raise typer.Exit(1)
    typer.echo(text)


def _own_address(context: typer.Context, config_file: options.ConfigFile) -> str:
    server = options.load_settings(context, config_file).settings.server
    if not server.port:
        raise typer.BadParameter("server.port is 0, a free one; give --url", param_hint="--url")
    host = _EVERY_ADDRESS.get(server.host, server.host)
    scheme = "http" if server.tls_cert_file is None else "https"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{server.port}"


def _ask(place: str, path: str) -> tuple[int, str]:
    """Status and text of the answer; 0 and the reason without one."""
    # Not with the client of gateways: it would take longer to import than the question takes.
    parts = urlsplit(place)
    try:
        if parts.scheme == "https":
            # The names of the certificate are for callers from elsewhere; nothing is sent that is secret.
            secure = ssl.create_default_context()
            secure.check_hostname, secure.verify_mode = False, ssl.CERT_NONE
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                parts.hostname or "", parts.port, timeout=_TIMEOUT_S, context=secure
            )
        else:
            connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)
        try:
            connection.request("GET", parts.path + path)
            answer = connection.getresponse()
            return answer.status, answer.read(_MAX_ANSWER_BYTES).decode(errors="replace").strip()
        finally:
            connection.close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        return 0, (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
