"""Signals of the server process: none ends it with work in flight, and a hang-up has it read its settings anew."""

import json
import re
import signal
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from certificates import write_certificate
from crowd import LOCAL_OFF, MODEL
from program import FAKE_ONLY
from running import RunningGateway, clean_environment, gateway
from upstream import Answer, Upstream
from waiting import PATIENCE_S, wait_until
from wire import Reply, call

BODY = {"model": MODEL, "input": "hello"}
RARE = [signal.SIGUSR2, signal.SIGALRM, signal.SIGXCPU]


def config(host: Upstream) -> str:
    return f'{LOCAL_OFF}[providers.openai]\nbase_url = "{host.base_url}"\n'


def asking(running: RunningGateway, replies: list[Reply]) -> threading.Thread:
    thread = threading.Thread(
        target=lambda: replies.append(call(running.url, "/v1/embeddings", BODY, {"x-api-key": running.key}))
    )
    thread.start()
    return thread


@pytest.mark.parametrize(
    "number",
    [signal.SIGQUIT, signal.SIGUSR1, *(pytest.param(number, marks=pytest.mark.hostile) for number in RARE)],
)
def test_a_signal_that_would_kill_lets_what_was_sent_end_and_be_booked(
    tmp_path: Path, far_side: Upstream, number: signal.Signals
) -> None:
    far_side.reset()
    gate = threading.Event()
    far_side.usually(Answer(gate=gate))
    with gateway(tmp_path, config(far_side), {"OPENAI_API_KEY": "sk-x"}) as running:
        replies: list[Reply] = []
        thread = asking(running, replies)
        wait_until("the provider is asked", lambda: bool(far_side.requests))
        running.process.send_signal(signal.SIGHUP)  # which reloads, and disturbs nothing
        wait_until("it has reloaded", lambda: "reloaded" in running.log.read_text())
        running.process.send_signal(number)
        wait_until("it drains", lambda: "draining" in running.log.read_text())
        gate.set()
        thread.join(PATIENCE_S)
        assert running.process.wait(PATIENCE_S) == 0
    assert [reply.status for reply in replies] == [200]
    far_side.reset()


def test_a_second_signal_of_another_kind_ends_at_once(tmp_path: Path, far_side: Upstream) -> None:
    far_side.reset()
    far_side.usually(Answer(gate=threading.Event()))
    settings = config(far_side) + "[server]\ndrain_timeout_s = 300\n"
    with gateway(tmp_path, settings, {"OPENAI_API_KEY": "sk-x"}) as running:
        asked = subprocess.Popen(
            ["curl", "-s", f"{running.url}/v1/embeddings", "-H", f"x-api-key: {running.key}", "-d", json.dumps(BODY)],
            stdout=subprocess.DEVNULL,
        )
        wait_until("the provider is asked", lambda: bool(far_side.requests))
        running.process.send_signal(signal.SIGTERM)
        wait_until("it drains", lambda: "draining" in running.log.read_text())
        running.process.send_signal(signal.SIGUSR2)
        assert running.process.wait(PATIENCE_S) == 0
        asked.wait(PATIENCE_S)
    far_side.reset()


def test_a_hang_up_takes_a_new_certificate_and_keeps_the_old_one_if_the_new_one_is_bad(tmp_path: Path) -> None:
    cert_file, key_file = write_certificate(tmp_path, "localhost")
    file = tmp_path / "embedgate.toml"
    tls = f'[server]\ntls_cert_file = "{cert_file}"\ntls_key_file = "{key_file}"\nport = 0\n'
    file.write_text(FAKE_ONLY + tls, encoding="utf-8")
    command = [sys.executable, "-m", "embedgate", "serve", "--data-dir", str(tmp_path / "data"), "--config", str(file)]
    log = tmp_path / "log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=clean_environment()) as process,
    ):
        try:
            assert process.stdout is not None
            found = re.search(r"https://localhost:\d+", process.stdout.readline())
            assert found

            def is_trusted(authority: bytes) -> bool:
                context = ssl.create_default_context(cadata=authority.decode())
                try:
                    with urllib.request.urlopen(f"{found.group()}/healthz", context=context) as answer:
                        return bool(answer.status == 200)
                except urllib.error.URLError as error:
                    assert "CERTIFICATE_VERIFY_FAILED" in str(error)
                    return False

            def hang_up(event: str) -> str:
                before = log.read_text().count(event)
                process.send_signal(signal.SIGHUP)
                wait_until(event, lambda: log.read_text().count(event) > before)
                return log.read_text().splitlines()[-1]

            old = cert_file.read_bytes()
            assert is_trusted(old)
            write_certificate(tmp_path, "localhost")
            new = cert_file.read_bytes()
            assert is_trusted(old)
            hang_up("reloaded")
            assert is_trusted(new)
            assert not is_trusted(old)
            cert_file.write_bytes(b"no certificate")
            assert "tls_cert_file" in hang_up("reload_failed")
            assert is_trusted(new)
            cert_file.write_bytes(new)
            file.write_text(FAKE_ONLY + tls + "no_such_setting = 1\n", encoding="utf-8")
            assert "no_such_setting" in hang_up("reload_failed")
            file.write_text(FAKE_ONLY + tls + 'max_connections = 7\n[log]\nformat = "json"\n', encoding="utf-8")
            hang_up("reloaded")
            told = json.loads(log.read_text().splitlines()[-1])
            assert (told["changed"], told["needs_restart"]) == ("log.format", "server.max_connections")
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()
