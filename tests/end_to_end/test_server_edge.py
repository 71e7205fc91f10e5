"""The edge of a running gateway: large and slow heads, too many connections, TLS."""

import json
import re
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from certificates import write_certificate
from program import FAKE_ONLY
from running import RunningGateway, clean_environment, gateway
from waiting import PATIENCE_S, wait_until
from wire import call, raw_socket, read_status

MAX_CONNECTIONS = 5
HEAD_TIMEOUT_S = 1
CONFIG = f"""
    {FAKE_ONLY}
    [server]
    max_connections = {MAX_CONNECTIONS}
    max_head_bytes = 4000
    head_timeout_s = {HEAD_TIMEOUT_S}
"""


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway with narrow bounds. None of what the tests do to it is a fault."""
    with gateway(tmp_path_factory.mktemp("edge"), CONFIG) as running:
        yield running
        assert running.terminate() == 0
    log = running.log.read_text(encoding="utf-8")
    assert "Traceback" not in log
    assert events_of(log) <= {"started", "connections_cut", "connections_refused", "draining", "stopped"}


def events_of(log: str) -> set[str]:
    """The names of the events in a log."""
    return {line.split()[2] for line in log.splitlines()}


def size_of_log(running: RunningGateway) -> int:
    """Where the log ends now."""
    return len(running.log.read_text(encoding="utf-8"))


def wait_for_event(running: RunningGateway, name: str, since: int) -> None:
    """Return once the event is in the log behind `since`: what other tests did before is not looked at."""
    wait_until(f"{name} is in the log", lambda: name in events_of(running.log.read_text(encoding="utf-8")[since:]))


def is_let_in(url: str, held: ExitStack) -> bool:
    """Whether there was room for one more connection, which `held` then keeps open."""
    with ExitStack() as opened:
        connection = opened.enter_context(raw_socket(url))
        connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        if read_status(connection) != 200:
            return False
        held.push(opened.pop_all())
        return True


def test_a_large_head_gets_400_and_the_next_request_its_answer(edge: RunningGateway) -> None:
    reply = call(edge.url, "/healthz", headers={"x-large": "y" * 5_000})
    assert (reply.status, reply.json["error"]["code"]) == (400, "invalid_request")
    assert call(edge.url, "/healthz").status == 200


def test_slow_and_silent_connections_are_closed_and_used_ones_are_kept(edge: RunningGateway) -> None:
    since = size_of_log(edge)
    with raw_socket(edge.url) as slow, raw_socket(edge.url) as silent, raw_socket(edge.url) as used:
        slow.sendall(b"GET /healthz HTTP/1.1\r\nhost:")
        used.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        while not used.recv(4096).endswith(b'{"status":"ok"}'):
            pass
        began_s = time.monotonic()
        assert (slow.recv(1), silent.recv(1)) == (b"", b"")
        assert time.monotonic() - began_s < PATIENCE_S
        used.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        assert read_status(used) == 200
    wait_for_event(edge, "connections_cut", since)


def test_a_connection_too_many_gets_503(edge: RunningGateway) -> None:
    with ExitStack() as held:
        for _ in range(MAX_CONNECTIONS):  # the server may not yet have seen that those of other tests are closed
            wait_until("there is room", lambda: is_let_in(edge.url, held))
        since = size_of_log(edge)
        reply = call(edge.url, "/v1/embeddings", {"model": "fake/deterministic", "input": "a"}, {"x-api-key": edge.key})
        assert (reply.status, reply.json["error"]["code"]) == (503, "overloaded")
        assert reply.headers["retry-after"] == "1"
    wait_for_event(edge, "connections_refused", since)
    wait_until("there is room again", lambda: call(edge.url, "/healthz").status == 200)


def test_keys_that_are_not_taken_are_told_apart_by_one_sentence_only(edge: RunningGateway) -> None:
    administration = [sys.executable, "-m", "embedgate", "--config", str(edge.data_dir / "embedgate.toml"), "keys"]
    environment = clean_environment(EMBEDGATE_DATA_DIR=str(edge.data_dir))
    made = subprocess.run(
        [*administration, "create", "--user", "user", "--name", "revoked", "--quiet"],
        capture_output=True,
        check=True,
        env=environment,
    )
    revoked = made.stdout.decode().strip()
    subprocess.run([*administration, "revoke", revoked, "--yes"], capture_output=True, check=True, env=environment)
    unknown = f"eg_{'a' * 12}4{'a' * 3}8{'a' * 15}"
    sentences = {
        "does not have the form": "nonsense",
        "is not known here": unknown,
        "was revoked or its user disabled": revoked,
    }
    seen = set()
    for sentence, secret in sentences.items():
        reply = call(edge.url, "/v1/embeddings", b"{}", {"authorization": f"Bearer {secret}"})
        fault = reply.json["error"]
        message = fault.pop("message")
        assert sentence in message
        assert secret not in message
        assert (reply.status, fault["code"]) == (401, "invalid_api_key")
        seen.add((json.dumps(fault), *sorted(reply.headers)))
    assert len(seen) == 1


@contextmanager
def over_tls(folder: Path, cert_file: Path, key_file: Path) -> Iterator[str]:
    """A gateway for other machines that speaks TLS: what it prints."""
    (folder / "embedgate.toml").write_text(FAKE_ONLY, encoding="utf-8")
    files = {"EMBEDGATE_SERVER__TLS_CERT_FILE": str(cert_file), "EMBEDGATE_SERVER__TLS_KEY_FILE": str(key_file)}
    command = [sys.executable, "-m", "embedgate", "serve", "--host", "0.0.0.0", "--port", "0", "--data-dir", "data"]
    environment = clean_environment(**files, EMBEDGATE_SERVER__HEAD_TIMEOUT_S=str(HEAD_TIMEOUT_S))
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            lines: list[str] = []
            while not (lines and lines[-1].startswith("curl ")):
                lines.append(process.stdout.readline())
                assert process.poll() is None, process.communicate()[1]
            yield "".join(lines)
            process.send_signal(signal.SIGTERM)
            errors = process.communicate(timeout=PATIENCE_S)[1]
            assert process.returncode == 0
            assert "warning" not in errors
        finally:
            process.kill()


def test_https_is_served_with_a_certificate_of_ones_own(tmp_path: Path) -> None:
    cert_file, key_file = write_certificate(tmp_path, "localhost")
    with over_tls(tmp_path, cert_file, key_file) as printed:
        found = re.search(r"embedgate is ready at (https://localhost:(\d+))\n", printed)
        assert found
        url, port = found.groups()
        assert f"curl {url}/v1/embeddings --cacert {cert_file} " in printed
        key = (tmp_path / "data" / "user.key").read_text(encoding="utf-8").strip()
        body = json.dumps({"model": "fake/deterministic", "input": "hello"}).encode()
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        request = urllib.request.Request(f"{url}/v1/embeddings", body, headers)
        with urllib.request.urlopen(request, context=ssl.create_default_context(cafile=str(cert_file))) as answer:
            assert len(json.load(answer)["data"]) == 1
        # Plain HTTP is told what is wrong, and a handshake that does not come holds no connection.
        with raw_socket(f"http://127.0.0.1:{port}") as silent, raw_socket(f"http://127.0.0.1:{port}") as plain:
            plain.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert read_status(plain) == 400
            began_s = time.monotonic()
            assert read_status(silent) == 0
            assert time.monotonic() - began_s < PATIENCE_S
