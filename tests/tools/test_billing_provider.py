"""The provider that keeps its own bill: what is on the bill, and what its callers see, in every mode."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from typing import Any, get_args

import pytest

from billing_provider import FREE, SILENT, BillingProvider, Mode, billing_provider
from waiting import wait_until

EMBEDDING = ("/embeddings", {"model": "text-embedding-3-small", "input": ["one", "two words"]})
CHAT = ("/chat/completions", {"model": "gpt", "messages": [{"role": "user", "content": "Are you there"}]})
RERANK = ("/rerank", {"model": "rerank", "query": "q", "documents": ["one", "two"]})


@pytest.fixture(scope="module")
def shared() -> Iterator[BillingProvider]:
    with billing_provider() as found:
        yield found


@pytest.fixture
def host(shared: BillingProvider) -> BillingProvider:
    shared.reset()
    return shared


def post(host: BillingProvider, call: tuple[str, dict[str, Any]], timeout_s: float = 60) -> Any:
    """The answer, or the status; None where the connection broke, or nothing came."""
    request = urllib.request.Request(host.base_url + call[0], json.dumps(call[1]).encode())
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, HTTPException, ValueError):
        return None


@pytest.mark.parametrize("call", [EMBEDDING, CHAT, RERANK], ids=["embedding", "chat", "rerank"])
@pytest.mark.parametrize("mode", get_args(Mode))
def test_a_call_is_billed_unless_it_is_refused(
    host: BillingProvider, mode: Mode, call: tuple[str, dict[str, Any]]
) -> None:
    host.next_calls(mode)
    host.let_go()
    answer = post(host, call)
    assert host.calls_read == 1
    assert host.calls_by_mode() == ({} if mode in FREE else {mode: 1})
    assert host.bill == [] or host.bill[0].input_tokens > 0
    has_usage = isinstance(answer, dict) and "usage" in answer
    assert has_usage == (mode not in FREE | SILENT | {"no_usage"})
    assert "usage" in post(host, call)  # the next one is answered as usual


def test_a_call_that_hangs_is_on_the_bill_before_it_is_answered(host: BillingProvider) -> None:
    host.every_call("hang")
    assert post(host, EMBEDDING, timeout_s=0.05) is None
    wait_until("the call is billed", lambda: host.calls_billed == 1)
    assert host.bill[0].texts == ("one", "two words")
    host.let_go()
    assert post(host, EMBEDDING) is None
    assert host.calls_billed == 2


def test_a_mode_can_depend_on_the_call(host: BillingProvider) -> None:
    host.every_call(lambda seen: "close" if b"two" in seen.body else "normal")
    assert post(host, EMBEDDING) is None
    assert post(host, (EMBEDDING[0], {**EMBEDDING[1], "input": "one"}))["usage"]["prompt_tokens"] > 0
