"""`embedgate health`: what a supervisor learns from its exit code."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from program import FAKE_ONLY, Program
from running import gateway

pytestmark = pytest.mark.usefixtures("fake_only")


class _NotReady(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b'{"status":"not ready","missing":["ledger"],"asked":"%s"}' % self.path.encode()
        self.send_response(503)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def not_ready() -> Iterator[str]:
    """The address of something that answers 503."""
    with HTTPServer(("127.0.0.1", 0), _NotReady) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_gateway_that_runs_is_healthy_and_ready(
    program: Program, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gateway(folder / "data", FAKE_ONLY) as running:
        assert program("health", "--url", running.url).text == '{"status":"ok"}\n'
        monkeypatch.setenv("EMBEDGATE_SERVER__PORT", running.url.rpartition(":")[2])
        monkeypatch.setenv("EMBEDGATE_SERVER__HOST", "0.0.0.0")
        ended = program("health", "--ready")
        assert (ended.code, ended.text, ended.errors) == (0, '{"status":"ready"}\n', "")


def test_one_that_is_not_says_why(program: Program, not_ready: str) -> None:
    ended = program("health", "--ready", "--url", not_ready)
    assert (ended.code, ended.output) == (1, b"")
    assert "503" in ended.errors
    assert '"missing":["ledger"]' in ended.errors


def test_what_does_not_answer_is_not_healthy(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:  # and nobody listens there
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        for url in (f"http://127.0.0.1:{port}", f"https://127.0.0.1:{port}"):
            ended = program("health", "--url", url)
            assert (ended.code, ended.output) == (1, b""), url
            assert ended.errors.startswith(f"error: {url} cannot be asked: "), ended.errors
    for wrong in ("nonsense", "http://", "127.0.0.1:3100"):
        assert program("health", "--url", wrong).code == 2
    monkeypatch.setenv("EMBEDGATE_SERVER__PORT", "0")
    assert program("health").code == 2


def test_a_prefix_of_the_address_is_asked_for(program: Program, not_ready: str) -> None:
    ended = program("health", "--url", f"{not_ready}/behind/a/proxy/")
    assert f"{not_ready}/behind/a/proxy/healthz answers 503" in ended.errors
    assert '"asked":"/behind/a/proxy/healthz"' in ended.errors
