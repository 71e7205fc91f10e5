"""Error classes of failed replies, from body and status. Returns errors; raises none.

Providers use several statuses for one cause: an over-long input is a 400, a 422 or a 500, an empty account a 402, a 403
or a 429. So the body is read first, and the status decides the rest.
"""

import email.utils
import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from embedgate.core.errors import (
    UpstreamBusy,
    UpstreamDenied,
    UpstreamError,
    UpstreamFailed,
    UpstreamMisconfigured,
    UpstreamRejected,
    UpstreamTooLarge,
)
from embedgate.transport.records import HttpReply

_NO_MONEY = frozenset(
    {
        "insufficient_quota",
        "billing_hard_limit_reached",
        "arrearage",
        "insufficient_credits",
        "exceeded_current_quota_error",
    }
)
_NO_MONEY_WORDS = re.compile(r"credit balance is too low", re.IGNORECASE)
"""Anthropic says it with a 400."""
_BAD_KEY = frozenset({"invalid_api_key", "invalidapikey", "incorrect_api_key", "authentication_error"})
_BAD_KEY_WORDS = re.compile(r"api key (?:not valid|expired)|incorrect api key", re.IGNORECASE)
"""Google and xAI say it with a 400."""
_THROTTLED = ("throttling", "rate_limit", "ratelimit")
_FAILED_STATUS = re.compile(r"[45]\d\d", re.ASCII)
_CALLERS_FAULT = re.compile(r"invalid|bad_request|not_found|unsupported|content_filter", re.IGNORECASE)
_NO_MODEL = re.compile(
    r"(?:model|deployment|resource)_?not_?found|no such model|(?:invalid|unknown|unsupported) model\b(?! parameter)"
    r"|\bmodel\b.{0,120}\b(?:does not exist|is not available|not found)",
    re.IGNORECASE,
)
"""Of the name that our configuration gives a model there: the caller's own was known here."""
_OF_THE_CALL = frozenset({400, 413, 415, 422})
"""What is said of the body of a call. Every other status is of where it went, which is not the caller's choice."""
_DENIED = frozenset({401, 402, 403})
_BUSY = frozenset({424, 429, 498, 503, 529})
"""424 is TEI's failing backend and 498 Cohere's overload; both pass by themselves."""
_TRANSIENT = frozenset({408, 409})
_OF_A_PROXY = frozenset({502, 504, 520, 524})
"""A proxy in front of the host says that it sent the call on and got no answer: the host may have worked, and bill it.
520 and 524 are Cloudflare's. Every other error is the host's own answer, and hosts do not bill what they refuse."""
_MAY_MEAN_TOO_LONG = frozenset({400, 413, 422, 500})
_TOO_LONG = re.compile(
    r"context[ _]length|context_size|context window|too large to process|exceeds? the context"
    r"|(?:maximum|max) (?:allowed )?(?:(?:input|prompt|sequence|model) length|token size|number of tokens)"
    r"|model token limit|range of input length"
    r"|must have less than \d+ tokens|(?:input|prompt|text|sequence)\S* (?:is|are) too (?:long|large)"
    r"|longer than the (?:model|maximum)|too many input tokens",
    re.IGNORECASE,
)
_MAY_MEAN_TOO_LARGE = frozenset({400, 413, 422})
_TOO_LARGE = re.compile(
    r"max_tokens_per_request|too many (?:inputs|tokens|requests in)|batch size|array too long|largest allowed size"
    r"|at most \d+ (?:requests|texts|inputs|items)|number of \w+ must be at most \d+|maximum allowed batch"
    r"|tokens per (?:request|(?:\w+ )?batch)|payload too large|entity too large|body too large",
    re.IGNORECASE,
)
_WAIT = re.compile(rb'"(?:retryDelay|estimated_time)"\s*:\s*"?(\d{1,6}(?:\.\d{1,9})?)s?[",}\s]')
_MAX_NUMBER = 1e9
"""Largest wait that is believed: in seconds, thirty years."""
_NESTED_IN = ("error", "errors", "fault", "detail")
_ANSWERS = ("choices", "data", "embedding", "embeddings", "output", "predictions", "result", "results")
"""Fields of an answer: where one of them is filled, the rest is no error in its place."""
_MAX_NESTING = 4
_MAX_LISTED = 3
_TITLE = re.compile(r"<title[^>]*>(.*?)</title", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Said:
    """Error in the body of a failed reply, of any known shape; empty texts for what is absent."""

    message: str = ""
    code: str = ""
    type: str = ""


def classify(reply: HttpReply) -> UpstreamError:
    """The error of a reply outside 2xx; its class decides about retry and failover."""
    return _error(reply, read(reply.body), reply.status)


def classify_late(reply: HttpReply) -> UpstreamError:
    """The error in the body of a 2xx reply: a failure after the head had been sent.

    Some hosts put the status that they would have sent in place of the code.
    """
    return _late(reply, read(reply.body))


def said_instead(reply: HttpReply) -> UpstreamError | None:
    """The error that a 2xx reply has in place of an answer; None if it has an answer, or says nothing."""
    try:
        tree = orjson.loads(reply.body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(tree, dict) or any(tree.get(name) for name in _ANSWERS):
        return None
    said = _said(tree, _MAX_NESTING)
    return _late(reply, said) if said.message else None


def _late(reply: HttpReply, said: Said) -> UpstreamError:
    if _FAILED_STATUS.fullmatch(said.code):
        return _error(reply, said, int(said.code))
    return _error(reply, said, 400 if _CALLERS_FAULT.search(f"{said.code} {said.type}") else 500)


def _error(reply: HttpReply, said: Said, status: int) -> UpstreamError:
    fault, what = _judge(status, said)
    words = reply.quote(said.message)
    message = f"{reply.provider} {what} (status {reply.status})" + (f": {words}" if words else "")
    if not fault.may_retry:
        return fault(message)
    wait_s = retry_after_s(reply.headers)
    error = fault(message, retry_after_s=_wait_in_body_s(reply.body) if wait_s is None else wait_s)
    error.may_be_billed = fault is UpstreamFailed and status in _OF_A_PROXY
    return error


def _judge(status: int, said: Said) -> tuple[type[UpstreamError], str]:
    names = {said.code.lower(), said.type.lower()}
    words = f"{said.code} {said.type} {said.message}"
    if status == 402 or names & _NO_MONEY or _NO_MONEY_WORDS.search(words):
        return UpstreamDenied, "says that our account has no money left"
    if status in _DENIED or names & _BAD_KEY or _BAD_KEY_WORDS.search(words):
        return UpstreamDenied, "refused our key"
    if status == 413 or (status in _MAY_MEAN_TOO_LARGE and _TOO_LARGE.search(words)):
        return UpstreamTooLarge, "takes less in one call"
    if status in _MAY_MEAN_TOO_LONG and _TOO_LONG.search(words):
        return UpstreamRejected, "found an input too long"
    if status in _BUSY or any(name.startswith(_THROTTLED) for name in names):
        return UpstreamBusy, "is busy or limits us"
    if status >= 500 or status in _TRANSIENT:
        return UpstreamFailed, "failed"
    if 300 <= status < 400:
        return UpstreamMisconfigured, "points to another address, which is not followed; check base_url"
    is_callers = status in _OF_THE_CALL and not _NO_MODEL.search(words)
    return UpstreamRejected if is_callers else UpstreamMisconfigured, "refused the call"


def read(body: bytes) -> Said:
    """Read an error body: JSON of seven shapes, HTML, text or nothing. Never raises."""
    try:
        tree = orjson.loads(body)
    except orjson.JSONDecodeError:
        return Said(_plain(body.decode("utf-8", "replace").strip()))
    return _said(tree, _MAX_NESTING)


def _plain(text: str) -> str:
    """The text itself; of an HTML page, its title."""
    if not text.startswith("<"):
        return text
    title = _TITLE.search(text)
    return html.unescape(title.group(1)).strip() if title else "an HTML page"


def _said(node: Any, levels: int) -> Said:
    if isinstance(node, str):
        return Said(_plain(node.strip()))
    if levels == 0:
        return Said()
    if isinstance(node, list):
        found = [_said(item, levels - 1) for item in node[:_MAX_LISTED]]
        first = found[0] if found else Said()
        return Said("; ".join(said.message for said in found if said.message), first.code, first.type)
    if not isinstance(node, dict):
        return Said()
    code, kind = _text(node, "code"), _text(node, "type", "error_type")
    inner = next((said for name in _NESTED_IN if (said := _said(node.get(name), levels - 1)).message), None)
    if inner is not None:
        return Said(inner.message, inner.code or code, inner.type or kind)
    return Said(_own_message(node), code, kind)


def _own_message(node: Mapping[str, Any]) -> str:
    message = _text(node, "message", "msg", "faultstring")
    place = node.get("loc")
    if isinstance(place, list):  # FastAPI: where the mistake is; `input` beside it repeats our input, so it is left
        message = f"{'.'.join(map(str, place))}: {message}"
    metadata = node.get("metadata")
    if isinstance(metadata, dict):  # OpenRouter: the words of the host behind it
        message = f"{message}: {_text(metadata, 'raw')}".removesuffix(": ")
    return message


def _text(node: Mapping[str, Any], *names: str) -> str:
    """The first field of these that holds a text or a number."""
    found = (node.get(name) for name in names)
    return next((str(value) for value in found if isinstance(value, (str, int)) and value not in ("", False)), "")


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait as the provider asks, from `retry-after-ms`, else `retry-after` (seconds or a date).

    headers: names in lower case. None if there is no usable value.
    """
    wait_ms = _number(headers.get("retry-after-ms"))
    if wait_ms is not None:
        return wait_ms / 1000
    text = headers.get("retry-after")
    wait_s = _number(text)
    if wait_s is not None or text is None:
        return wait_s
    try:
        until = email.utils.parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _wait_in_body_s(body: bytes) -> float | None:
    """Seconds to wait that stand in the body: Google's `retryDelay`, Hugging Face's `estimated_time`."""
    found = _WAIT.search(body)
    return _number(found[1].decode()) if found else None


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if 0 <= number <= _MAX_NUMBER else None
