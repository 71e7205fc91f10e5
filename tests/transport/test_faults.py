"""Every documented shape of an error body, every status, every hint to wait, and what a quote may show."""

import email.utils
import time
from datetime import UTC, datetime, timedelta

import orjson
import pytest

from embedgate.core.errors import (
    UpstreamBusy,
    UpstreamDenied,
    UpstreamError,
    UpstreamFailed,
    UpstreamMisconfigured,
    UpstreamRejected,
    UpstreamTooLarge,
)
from embedgate.transport import HttpReply, classify, retry_after_s
from embedgate.transport.redact import quote


def reply(status: int, body: object = None, **headers: str) -> HttpReply:
    raw = body if isinstance(body, bytes) else b"" if body is None else orjson.dumps(body)
    return HttpReply("acme", status, headers, raw)


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "the reason", "type": "t", "param": None, "code": None}},
        {"error": {"message": "the reason", "code": 400, "metadata": {"provider_name": "x"}}, "user_id": "u"},
        {"object": "error", "message": "the reason", "type": "t", "param": None, "code": 400},
        {"detail": "the reason"},
        {"detail": [{"loc": ["body", "input"], "msg": "the reason", "type": "t", "input": "hidden"}]},
        {"message": "the reason", "id": "hidden"},
        {"error": "the reason", "error_type": "Validation"},
        {"code": "InvalidParameter", "detail": "the reason", "request_id": "hidden"},
        {"code": "InvalidParameter", "message": "the reason", "request_id": "hidden"},
        {"success": False, "errors": [{"code": 5006, "message": "the reason"}], "result": None},
        {"fault": {"faultstring": "the reason", "detail": {"errorcode": "hidden"}}},
        [{"error": {"message": "the reason"}}],
        b"the reason",
        b"<html><head><title>the reason</title></head><body>hidden</body></html>",
        {"error": {"code": 502, "message": "upstream", "metadata": {"raw": "the reason"}}},
    ],
)
def test_the_reason_is_found_in_every_shape(body: object) -> None:
    fault = classify(reply(400, body))
    assert type(fault) is UpstreamRejected
    assert "the reason" in fault.message
    assert "hidden" not in fault.message


@pytest.mark.parametrize(
    "body", [None, b"\xff\xfe\x00", b"<!doctype html><p>", [], {}, 5, {"error": None}, {"error": True}, b'{"error":']
)
def test_a_body_that_says_nothing_leaves_the_status_to_speak(body: object) -> None:
    fault = classify(reply(502, body))
    assert type(fault) is UpstreamFailed
    assert "acme failed (status 502)" in fault.message


def test_deep_nesting_is_not_followed() -> None:
    assert type(classify(reply(400, b'{"error":' * 900 + b"1" + b"}" * 900))) is UpstreamRejected


@pytest.mark.parametrize(
    ("status", "fault"),
    [
        *((status, UpstreamDenied) for status in (401, 402, 403)),
        *((status, UpstreamBusy) for status in (424, 429, 498, 503, 529)),
        *((status, UpstreamFailed) for status in (408, 409, 500, 502, 504, 520, 524)),
        *((status, UpstreamRejected) for status in (400, 415, 422)),
        *((status, UpstreamMisconfigured) for status in (301, 308, 404, 405, 431)),
        (413, UpstreamTooLarge),
    ],
)
def test_a_status_alone_decides_what_may_be_tried_again(status: int, fault: type[UpstreamError]) -> None:
    assert type(classify(reply(status, {"message": "no"}))) is fault


@pytest.mark.parametrize(
    ("status", "code", "fault"),
    [
        (429, "insufficient_quota", UpstreamDenied),
        (400, "Arrearage", UpstreamDenied),
        (400, "invalid_api_key", UpstreamDenied),
        (400, "Throttling.RateQuota", UpstreamBusy),
    ],
)
def test_a_code_in_the_body_goes_before_the_status(status: int, code: str, fault: type[UpstreamError]) -> None:
    assert type(classify(reply(status, {"error": {"message": "no", "code": code}}))) is fault
    assert type(classify(reply(status, {"code": code, "message": "no", "request_id": "r"}))) is fault


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (400, "This model's maximum context length is 8192 tokens, however you requested 9001.", ""),
        (400, "Invalid 'input[0]': maximum input length is 8192 tokens.", ""),
        (422, "`inputs` must have less than 512 tokens. Given: 600", "Validation"),
        (500, "input (600 tokens) is too large to process. increase the physical batch size (512)", "server_error"),
        (400, "the request does not fit", "exceed_context_size_error"),
        (400, "the input length exceeds the context length", ""),
        (400, "Input length 600 exceeds maximum allowed token size 512", ""),
    ],
)
def test_an_input_that_is_too_long_is_never_tried_again(status: int, message: str, kind: str) -> None:
    fault = classify(reply(status, {"error": {"message": message, "type": kind, "code": status}}))
    assert type(fault) is UpstreamRejected
    assert "found an input too long" in fault.message


def test_busy_is_busy_whatever_the_words() -> None:
    assert type(classify(reply(429, {"message": "maximum context length per minute"}))) is UpstreamBusy


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, None),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1e308"}, None),
        ({"retry-after": "tomorrow"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"x-ratelimit-reset-requests": "1s"}, None),
    ],
)
def test_hints_to_wait(headers: dict[str, str], wait_s: float | None) -> None:
    assert retry_after_s(headers) == wait_s


def test_a_wait_until_a_date_is_counted_from_now() -> None:
    began_s = time.monotonic()
    until = email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    wait_s = retry_after_s({"retry-after": until})
    assert wait_s is not None
    assert 59 - (time.monotonic() - began_s) <= wait_s <= 60
    assert classify(reply(503, None, **{"retry-after": "3"})).retry_after_s == 3
    assert classify(reply(400, None, **{"retry-after": "3"})).retry_after_s is None


@pytest.mark.parametrize(
    ("text", "secrets", "shown"),
    [
        ("model text-embedding-3-small is not there", (), "model text-embedding-3-small is not there"),
        ("key sk-proj-abc***xyz is wrong", (), "key [...] is wrong"),
        ("sent Authorization: Bearer abc.def/ghi= to us", (), "sent Authorization: [...] to us"),
        ("got [0.1, -2e-05, 3, 4.5] and [1, 2]", (), "got [...] and [1, 2]"),
        ("one\r\n\ttwo\u202e\x00three", (), "one two three"),
        ("key k-1/2 refused", ("k-1/2",), "key [...] refused"),
        ("the testing of test", ("test",), "the testing of [...]"),
        ("input 'a long line of text, cut' fails", ("a long line of text, cut and more",), "input '[...]"),
        ("no", ("no",), "no"),
        ("x" * 500, (), "x" * 297 + "..."),
    ],
)
def test_a_quote_is_short_clean_and_without_secrets(text: str, secrets: tuple[str, ...], shown: str) -> None:
    assert quote(text, secrets) == shown
