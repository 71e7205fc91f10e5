"""What client libraries really send: compressed and odd bodies, wrong paths, pages of other sites, HTTP/1.0."""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator

import pytest

from program import FAKE_ONLY
from running import RunningGateway, gateway
from wire import Reply, call, raw_socket

MODEL = "fake/deterministic"
MAX_BODY_BYTES = 200_000
PAGE = "https://app.example.com"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    config = f"""
        {FAKE_ONLY}
        [server]
        max_body_bytes = {MAX_BODY_BYTES}
        cors_origins = ["{PAGE}"]
    """
    with gateway(tmp_path_factory.mktemp("clients"), config) as found:
        yield found


def ask(running: RunningGateway, body: bytes, path: str = "/v1/embeddings", **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return call(running.url, path, body, {"authorization": f"Bearer {running.key}", **named})


def request_of(*texts: str) -> bytes:
    return json.dumps({"model": MODEL, "input": texts}).encode()


def raw_deflate(body: bytes) -> bytes:
    encoder = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return encoder.compress(body) + encoder.flush()


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [("gzip", gzip.compress), ("GZIP", gzip.compress), ("deflate", zlib.compress), ("deflate", raw_deflate)],
)
@pytest.mark.parametrize("texts", [("a", "b"), tuple(f"text {n} " + "x" * 200 for n in range(500))])
def test_compressed_bodies_are_decoded(
    running: RunningGateway, encoding: str, compress: Callable[[bytes], bytes], texts: tuple[str, ...]
) -> None:
    plain = request_of(*texts)
    expected = ask(running, plain)
    reply = ask(running, compress(plain), content_encoding=encoding)
    assert (reply.status, reply.body) == (200, expected.body)
    assert ask(running, plain, content_encoding="identity").body == expected.body


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "x" * 5_000])
def test_other_encodings_are_refused_by_name(running: RunningGateway, encoding: str) -> None:
    reply = ask(running, request_of("a"), content_encoding=encoding)
    fault = reply.json["error"]
    assert (reply.status, fault["code"]) == (415, "unsupported_encoding")
    assert fault["message"].startswith(f"content-encoding is {encoding[:100]}; gzip and deflate are decoded here.")
    ziri = call(running.url, "/api/embeddings", b"{}", {"x-api-key": running.key, "content-encoding": encoding})
    assert (ziri.status, ziri.json["code"]) == (415, "INVALID_REQUEST")


@pytest.mark.parametrize(
    "spoiled",
    [
        b"no gzip",
        gzip.compress(request_of("a"))[:-9],
        gzip.compress(request_of("a"))[:-1] + b"?",
        gzip.compress(request_of("a")) + b"more",
        b"\x1f\x8b",
    ],
    ids=["another", "cut", "wrong-check", "followed", "begun"],  # gzip writes the time, and every worker needs one name
)
def test_what_is_not_in_its_encoding_is_the_callers_fault(running: RunningGateway, spoiled: bytes) -> None:
    reply = ask(running, spoiled, content_encoding="gzip")
    assert (reply.status, reply.json["error"]["code"]) == (400, "invalid_request")
    assert "cannot be decoded as gzip" in reply.json["error"]["message"]


def test_the_bound_of_a_body_is_that_of_the_decoded_one(running: RunningGateway) -> None:
    within, above = request_of(*["x" * 900] * 200), request_of("x" * MAX_BODY_BYTES)
    assert ask(running, gzip.compress(within), content_encoding="gzip").status == 200
    reply = ask(running, gzip.compress(above), content_encoding="gzip")
    assert (reply.status, reply.json["error"]["code"]) == (413, "body_too_large")
    bomb = gzip.compress(b" " * 100_000_000)
    assert len(bomb) < MAX_BODY_BYTES
    assert ask(running, bomb, content_encoding="gzip").status == 413


def test_a_byte_order_mark_is_skipped(running: RunningGateway) -> None:
    assert ask(running, b"\xef\xbb\xbf" + request_of("a")).body == ask(running, request_of("a")).body


@pytest.mark.parametrize(
    ("body", "param", "beginning"),
    [
        (b'{"model": "m", "input": ["a", "b", "half \\ud83d"]}', "input", "input[2] holds half of a character"),
        (b'{"model": "m", "input": ["a", "\\ude00 \\ud83d\\ude00"]}', "input", "input[1] holds half of a character"),
        (b'{"model": "m", "input": "\\ud83d"}', "input", "input holds half of a character"),
        (b'{"model": "\\ud83d", "input": "a"}', "model", "model holds half of a character"),
        (b'{"model": "m", "input": ["a", 5]}', "input", "input[1] is wrong"),
        (b'{"model": "m", "input": ["a", "b", "\xff"]}', "input", "input[2] is wrong: it is not valid UTF-8"),
        (b'{"model": "m", "input": [[1], [1, "a"]]}', "input", "input[1] is wrong"),
    ],
)
def test_the_text_at_fault_is_named_by_its_number(
    running: RunningGateway, body: bytes, param: str, beginning: str
) -> None:
    fault = ask(running, body).json["error"]
    assert (fault["param"], fault["code"]) == (param, "invalid_input" if param == "input" else "invalid_request")
    assert fault["message"].startswith(beginning)


@pytest.mark.parametrize(("written", "status"), [("16.0", 200), ("1.6e1", 200), ("16.5", 400), ("true", 400)])
def test_a_whole_number_may_be_written_as_a_fraction(running: RunningGateway, written: str, status: int) -> None:
    body = f'{{"model": "{MODEL}", "input": "a", "dimensions": {written}}}'.encode()
    assert ask(running, body).status == status


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/embeddings", "/v1/embeddings"),
        ("/v1//embeddings", "/v1/embeddings"),
        ("/v1/v1/embeddings", "/v1/embeddings"),
        ("/v1/embeddings/", "/v1/embeddings"),
        ("/V1/Embeddings", "/v1/embeddings"),
        ("/v1/embedding", "/v1/embeddings"),
        ("/v1/embeddings/v1/chat/completions", "/v1/chat/completions"),
        ("/chat/completions", "/v1/chat/completions"),
        ("/api/v1/v1/rerank", "/v1/rerank"),
    ],
)
def test_a_path_that_is_nearly_right_is_answered_with_the_right_one(
    running: RunningGateway, path: str, meant: str
) -> None:
    reply = ask(running, request_of("a"), path)
    assert reply.status == 404
    assert f"Did you mean {meant}?" in reply.body.decode()
    assert b"/docs lists" in ask(running, b"{}", "/v1/something-else" + "/x" * 5_000).body


@pytest.mark.parametrize("path", ["/health", "/api/health", "/healthz"])
def test_health_is_found_where_probes_look_for_it(running: RunningGateway, path: str) -> None:
    assert call(running.url, path).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer ", "x-api-key": "KEY"},
        {"authorization": "Bearer", "x-api-key": "KEY"},
        {"authorization": "Basic dXNlcjo=", "x-api-key": "KEY"},
        {"api-key": "KEY"},
        {"authorization": "bearer KEY", "x-api-key": ""},
    ],
)
def test_an_empty_credential_does_not_hide_a_good_one(running: RunningGateway, headers: dict[str, str]) -> None:
    sent = {name: value.replace("KEY", running.key) for name, value in headers.items()}
    assert call(running.url, "/v1/embeddings", request_of("a"), sent).status == 200


def test_a_caller_without_limits_gets_no_limit_to_parse(running: RunningGateway) -> None:
    found = ask(running, request_of("a")).headers
    assert not [name for name in found if name.startswith("x-ratelimit-")]


@pytest.mark.parametrize("n_texts", [1, 2_000])
def test_http_1_0_gets_no_chunks(running: RunningGateway, n_texts: int) -> None:
    body = request_of(*(["a"] * n_texts))
    head = (
        f"POST /v1/embeddings HTTP/1.0\r\nauthorization: Bearer {running.key}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    received = b""
    with raw_socket(running.url) as connection:
        connection.sendall(head.encode() + body)
        while piece := connection.recv(65_536):
            received += piece
    answer_head, _, answer = received.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in answer_head.lower()
    assert len(json.loads(answer)["data"]) == n_texts


def test_pages_of_named_sites_may_call_and_no_others(running: RunningGateway) -> None:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization, x-odd"}
    allowed = call(running.url, "/v1/embeddings", headers={"origin": PAGE, **asked}, method="OPTIONS")
    assert (allowed.status, allowed.body) == (204, b"")
    assert allowed.headers["access-control-allow-origin"] == PAGE
    assert allowed.headers["access-control-allow-headers"] == "authorization, x-odd"
    assert "POST" in allowed.headers["access-control-allow-methods"]
    other = call(running.url, "/v1/embeddings", headers={"origin": "https://evil.test", **asked}, method="OPTIONS")
    assert "access-control-allow-origin" not in other.headers
    for body, status in ((request_of("a"), 200), (b"{}", 400)):
        reply = ask(running, body, origin=PAGE)
        assert (reply.status, reply.headers["access-control-allow-origin"]) == (status, PAGE)
        assert reply.headers["access-control-expose-headers"] == "*"
        assert "access-control-allow-origin" not in ask(running, body, origin="https://evil.test").headers
    assert call(running.url, "/v1/embeddings", method="OPTIONS").status == 405
