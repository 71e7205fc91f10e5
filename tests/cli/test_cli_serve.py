"""`embedgate serve` as a process: what it prints, that it works when pasted, how it ends."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from embedgate.cli.serve import curl_line
from kept_models import share_models
from program import FAKE_ONLY, Program
from waiting import PATIENCE_S, wait_until

_SHOW_ARGUMENTS = 'curl() { printf "%s\\0" "$@"; }\n'
"""A shell function in place of curl: the tests need its arguments, and no curl."""


@pytest.fixture
def data_dir(folder: Path) -> Path:
    """A place that has to be quoted in a shell."""
    data_dir = folder / "da ta's"
    share_models(data_dir)
    return data_dir


@contextmanager
def started(data_dir: Path, *arguments: str, shell: Sequence[str] = ()) -> Iterator["subprocess.Popen[str]"]:
    command = [
        *shell,
        sys.executable,
        "-m",
        "embedgate",
        "serve",
        "--port",
        "0",
        "--data-dir",
        str(data_dir),
        *arguments,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def greeting(process: "subprocess.Popen[str]") -> list[str]:
    """What is printed until the line to paste."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if line.startswith("curl "):
            return lines
    raise AssertionError(f"the gateway did not start: {process.communicate()[1][-2000:]}")


def pasted(line: str) -> tuple[str, dict[str, str], bytes]:
    """URL, headers and body that a shell gives to curl."""
    shown = subprocess.run(["sh", "-c", _SHOW_ARGUMENTS + line], capture_output=True, check=True).stdout.decode()
    url, *options = shown.removesuffix("\0").split("\0")
    pairs = list(zip(options[::2], options[1::2], strict=True))
    headers = dict(value.split(": ", 1) for name, value in pairs if name == "-H")
    (body,) = (value for name, value in pairs if name == "-d")
    return url, headers, body.encode()


def test_the_line_to_paste_embeds_with_the_embedded_model(data_dir: Path) -> None:
    with started(data_dir) as process:
        lines = greeting(process)
        url, headers, body = pasted(lines[-1])
        with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as answer:
            assert len(json.load(answer)["data"][0]["embedding"]) == 384
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert re.fullmatch(r"embedgate is ready at http://127\.0\.0\.1:\d+", lines[0])
    text = "\n".join(lines) + errors
    for name in ("admin.key", "user.key"):
        assert str(data_dir / name) in text
        assert (data_dir / name).read_text(encoding="utf-8").strip() not in text


def test_a_second_start_names_no_new_keys_and_an_interrupt_ends_it_well(folder: Path, data_dir: Path) -> None:
    (folder / "embedgate.toml").write_text(FAKE_ONLY, encoding="utf-8")
    for is_first in (True, False):
        with started(data_dir) as process:
            lines = greeting(process)
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE_S) == 0
        assert ("First start" in "\n".join(lines)) is is_first
        assert '"model": "fake/deterministic"' in lines[-1]
    (data_dir / "user.key").unlink()
    with started(data_dir) as process:
        assert "Bearer YOUR_KEY" in greeting(process)[-1]


def test_interrupts_stay_ignored_where_a_shell_has_started_it_in_the_background(folder: Path, data_dir: Path) -> None:
    (folder / "embedgate.toml").write_text(FAKE_ONLY, encoding="utf-8")
    with started(data_dir, shell=["sh", "-c", 'trap "" INT; exec "$@"', "sh"]) as process:
        url, headers, body = pasted(greeting(process)[-1])
        process.send_signal(signal.SIGINT)
        with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0


@pytest.mark.usefixtures("no_data")
def test_other_machines_are_served_without_tls_only_where_that_was_said(
    program: Program, folder: Path, data_dir: Path
) -> None:
    (folder / "embedgate.toml").write_text(FAKE_ONLY, encoding="utf-8")
    ended = program("serve", "--host", "0.0.0.0", "--port", "0")
    assert ended.code == 3
    for way_out in ("server.tls_cert_file", "server.allow_plain_http = true", "--insecure", "127.0.0.1"):
        assert way_out in ended.errors
    assert not (folder / "data").exists()
    with started(data_dir, "--host", "0.0.0.0", "--insecure") as process:
        assert re.fullmatch(r"embedgate is ready at http://127\.0\.0\.1:\d+", greeting(process)[0])
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert "warning: listening on 0.0.0.0 without TLS" in errors


@pytest.mark.usefixtures("no_data")
def test_a_taken_port_ends_with_3_before_anything_is_opened(program: Program, folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = program("serve", "--port", str(port))
    assert ended.code == 3
    assert f"cannot listen on 127.0.0.1:{port}" in ended.errors
    assert not (folder / "data").exists()


def test_an_interrupt_during_the_start_ends_with_130(data_dir: Path) -> None:
    with started(data_dir) as process:
        wait_until("it opens", lambda: (data_dir / "embedgate.db").exists() or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode in (0, 130), errors  # 0 where the start was faster than the signal
    assert "Traceback" not in errors


def test_the_line_to_paste_is_safe_whatever_the_names(tmp_path: Path) -> None:
    file = tmp_path / 'a "b" $(touch c)\'d' / "user.key"
    file.parent.mkdir()
    file.write_text("eg_1\n", encoding="utf-8")
    url, headers, body = pasted(curl_line("http://127.0.0.1:1", file, "it's/a-model"))
    assert url == "http://127.0.0.1:1/v1/embeddings"
    assert headers == {"Authorization": "Bearer eg_1", "Content-Type": "application/json"}
    assert json.loads(body) == {"model": "it's/a-model", "input": "Hello, world"}


def test_the_line_to_paste_trusts_a_certificate_that_was_signed_by_nobody_else() -> None:
    line = curl_line("https://localhost:1", None, "m", Path("/my certificate.pem"))
    assert line.startswith("curl https://localhost:1/v1/embeddings --cacert '/my certificate.pem' -H ")
