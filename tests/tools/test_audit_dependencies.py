"""The audit tells a vulnerable package from a database that cannot be asked, and both from a broken lock file."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from audit_dependencies import audit

LOCK = "".join(f"{name}==1.0 \\\n    --hash=sha256:{'0' * 64}\n" for name in ("sound", "broken"))
VULNERABILITY = {
    "schema_version": "1.4.0",
    "id": "GHSA-0000",
    "aliases": ["CVE-2026-0000"],
    "summary": "breaks",
    "affected": [
        {
            "package": {"name": "broken", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
        }
    ],
}


class Database(BaseHTTPRequestHandler):
    """Knows one vulnerability, of the package `broken`; answers only while `gate` is open."""

    gate = threading.Event()

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.gate.wait(60)
        found = {"vulns": [VULNERABILITY]} if asked["package"]["name"] == "broken" else {}
        body = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def database() -> Iterator[str]:
    """Its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Database) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        Database.gate.set()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        Database.gate.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    file = tmp_path / "requirements.lock"
    file.write_text(LOCK, encoding="utf-8")
    return file


def test_a_known_vulnerability_fails_and_is_named(
    lock: Path, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(lock, ["--osv-url", database]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "broken 1.0: CVE-2026-0000, GHSA-0000; mended in 1.1",
        "audit: 1 known vulnerabilities in 2 packages",
    ]
    assert audit(lock, ["--osv-url", database, "--ignore-vuln", "GHSA-0000"]) == 0


def test_a_database_that_cannot_be_asked_is_told_apart(
    lock: Path, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Database.gate.clear()
    for url in ("http://127.0.0.1:1/v1/query", database):
        assert audit(lock, ["--osv-url", url], answer_timeout_s=1) == 0
        assert "COULD NOT RUN" in capsys.readouterr().out


def test_a_lock_file_without_hashes_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "requirements.lock"
    file.write_text("sound==1.0\n", encoding="utf-8")
    assert audit(file) == 2
    assert "cannot be read" in capsys.readouterr().out
