"""Clients that send rubbish, too much, too slowly or not at all never get a 500 and never stop the server."""

import contextlib
import json
import os
import time
from collections.abc import Iterator

import pytest

from running import RunningGateway
from waiting import PATIENCE_S
from wire import call, raw_socket, read_status

PATHS = ("/v1/embeddings", "/api/embeddings")


def headers(served: RunningGateway) -> dict[str, str]:
    return {"authorization": f"Bearer {served.key}", "x-api-key": served.key}


@pytest.fixture(autouse=True)
def nothing_goes_wrong_inside(served: RunningGateway) -> Iterator[None]:
    yield
    log = served.log.read_text()
    assert "internal_fault" not in log
    assert "Traceback" not in log


def still_serves(served: RunningGateway) -> None:
    body = {"model": "local/all-minilm-l6-v2", "provider": None, "input": "still here"}
    assert call(served.url, "/v1/embeddings", body, headers(served)).status == 200
    assert call(served.url, "/healthz").status == 200


RUBBISH = [
    b"",
    b"{",
    b"null",
    b"[]",
    b"3",
    b'"text"',
    b'{"model": "local/all-minilm-l6-v2", "input": "a"} trailing',
    b'{"model": "local/all-minilm-l6-v2", "provider": "local", "input": NaN}',
    b'{"model": "local/all-minilm-l6-v2", "provider": "local", "input": [Infinity]}',
    b'{"model": "local/all-minilm-l6-v2", "provider": "local", "input": "\xff\xfe"}',
    b'{"\xff": 1}',
    b'{"model": "local/all-minilm-l6-v2", "provider": "local", "input": "\\ud800"}',
    b'{"model": "\\u0000", "provider": "local", "input": "a"}',
    b'{"model": "local/all-minilm-l6-v2", "provider": "local", "input": "a", "dimensions": 1e999}',
    b'{"model": "local/all-minilm-l6-v2", "provider": "local", "input": "a", "dimensions": 99999999999999999999999}',
    b'{"model": "x", "provider": "local", "input": ' + b"[" * 100_000,
    b'{"a": ' * 50_000,
    b'{"model": "local/all-minilm-l6-v2", "provider": "local", "input": [[99999999999999999999]]}',
    b'{"model": "local/all-minilm-l6-v2", "provider": "local", "input": [[]]}',
    b"\x00" * 100,
    os.urandom(1000),
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("body", RUBBISH, ids=range(len(RUBBISH)))
def test_rubbish_is_a_400_with_a_message(served: RunningGateway, path: str, body: bytes) -> None:
    reply = call(served.url, path, body, headers(served))
    assert 400 <= reply.status < 500
    fault = reply.json["error"]
    assert fault["message"] if isinstance(fault, dict) else fault


@pytest.mark.parametrize("path", PATHS)
def test_the_last_of_duplicate_fields_counts(served: RunningGateway, path: str) -> None:
    body = b'{"provider": "local", "model": "nobody/x", "model": "local/all-minilm-l6-v2", "input": 1, "input": "a"}'
    if path == PATHS[0]:  # there, provider is an object
        body = body.replace(b'"provider": "local", ', b"")
    reply = call(served.url, path, body, headers(served))
    assert reply.status == 200


@pytest.mark.parametrize("path", PATHS)
def test_a_body_over_the_cap_is_refused_before_it_is_read(served: RunningGateway, path: str) -> None:
    with raw_socket(served.url) as connection:
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {served.key}\r\ncontent-length: 100000000\r\n\r\n"
        connection.sendall(head.encode())
        assert read_status(connection) == 413


def test_a_hundred_megabytes_that_are_really_sent(served: RunningGateway) -> None:
    piece = b"x" * 1_000_000
    for framing in ("content-length: 100000000", "transfer-encoding: chunked"):
        with raw_socket(served.url) as connection:
            head = f"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\nx-api-key: {served.key}\r\n{framing}\r\n\r\n"
            connection.sendall(head.encode())
            with contextlib.suppress(ConnectionError):
                for _ in range(100):
                    connection.sendall(b"f4240\r\n" + piece + b"\r\n" if "chunked" in framing else piece)
            assert read_status(connection) in (0, 413)  # the answer may be lost when the client was still sending
    still_serves(served)


def test_a_slow_body_is_cut_off(served: RunningGateway) -> None:
    with raw_socket(served.url) as connection:
        head = f"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\nx-api-key: {served.key}\r\ncontent-length: 50\r\n\r\n"
        connection.sendall(head.encode() + b'{"model"')
        started_s = time.monotonic()
        assert read_status(connection) == 408
        assert 1 < time.monotonic() - started_s < PATIENCE_S
    still_serves(served)


@pytest.mark.parametrize("sent", [b"", b"POST", b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\n"])
def test_connections_that_close_early_do_no_harm(served: RunningGateway, sent: bytes) -> None:
    for _ in range(20):
        with raw_socket(served.url) as connection:
            connection.sendall(sent)
    still_serves(served)


def test_a_client_that_leaves_in_the_middle_of_body_or_answer(served: RunningGateway) -> None:
    head = f"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\nx-api-key: {served.key}\r\ncontent-length: "
    body = json.dumps({"model": "local/wordllama-256", "input": ["some words"] * 2000}).encode()
    for content in (body[: len(body) // 2], body):
        with raw_socket(served.url) as connection:
            connection.sendall(f"{head}{len(body)}\r\n\r\n".encode() + content)
    still_serves(served)


def test_bytes_that_are_no_http(served: RunningGateway) -> None:
    for rubbish in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", os.urandom(500) + b"\r\n\r\n"):
        with raw_socket(served.url) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(rubbish)
            assert read_status(connection) in (0, 400)
    still_serves(served)
