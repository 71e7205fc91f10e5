"""An error in the body of a 200 is the host's error, of its class and with its pause, for every action."""

import json
import time
from collections.abc import Awaitable, Callable

import pytest

from embedgate.core import errors
from embedgate.core.errors import UpstreamError, UpstreamGarbled
from embedgate.core.models import DimRange, Route
from embedgate.core.rerank import RerankRequest
from embedgate.core.types import Batch, ChatRequest
from embedgate.providers import hosts
from embedgate.settings import TransportSettings
from embedgate.transport import Endpoint, HttpDriver
from upstream import Answer, Upstream

KEY = "k-3f9c27d1a58e"
TEXT = "the caller's own words"
ROUTE = Route("any", "m-1", DimRange(4, 4, 4), 512, "unknown")
CHAT = ChatRequest("any", {"messages": json.dumps([{"role": "user", "content": TEXT}]).encode()}, 1, 60)
SAID: tuple[tuple[object, type[UpstreamError], float | None], ...] = (
    ({"error": {"message": f"slow down {KEY}", "code": 429}}, errors.UpstreamBusy, None),
    ({"object": "error", "message": f"{TEXT!r} is wrong", "code": 400}, errors.UpstreamRejected, None),
    ({"error": {"message": "no", "type": "invalid_request_error"}, "data": None}, errors.UpstreamRejected, None),
    ({"error": "model is loading", "estimated_time": 2.5}, errors.UpstreamFailed, 2.5),
    ({"detail": "no worker left"}, errors.UpstreamFailed, None),
    ({"success": False, "result": None, "errors": [{"message": "boom"}]}, errors.UpstreamFailed, None),
    ({"error": {"message": "wrong key", "code": "invalid_api_key"}}, errors.UpstreamDenied, None),
)
NO_ANSWER: tuple[object, ...] = ({}, {"error": {}}, {"error": None, "data": None}, [], None)


def driver_of(provider: str, upstream: Upstream) -> HttpDriver:
    host = hosts.load()[provider]
    endpoint = Endpoint(provider, f"http://127.0.0.1:{upstream.port}/v1", KEY, host.key_header, host.key_prefix)
    return HttpDriver(hosts.vendor(host), endpoint, TransportSettings())


async def embed(driver: HttpDriver) -> object:
    return await driver.embed(Batch((TEXT,), expected_dim=4), ROUTE, time.monotonic() + 20)


async def rerank(driver: HttpDriver) -> object:
    return await driver.call(RerankRequest("any", TEXT, ("a",)), ROUTE, time.monotonic() + 20)


async def chat(driver: HttpDriver) -> object:
    return await driver.chat(CHAT, ROUTE, time.monotonic() + 20)


ASKED = [("openai", embed), ("cohere", embed), ("jina", rerank), ("cohere", rerank), ("openai", chat)]
every_action = pytest.mark.parametrize(("provider", "ask"), ASKED, ids=lambda each: getattr(each, "__name__", each))


@every_action
@pytest.mark.parametrize(("said", "kind", "wait_s"), SAID, ids=range(len(SAID)))
async def test_an_error_in_place_of_an_answer_is_what_it_says(
    provider: str,
    ask: Callable[[HttpDriver], Awaitable[object]],
    upstream: Upstream,
    said: object,
    kind: type[UpstreamError],
    wait_s: float | None,
) -> None:
    driver = driver_of(provider, upstream)
    upstream.script(Answer(200, json.dumps(said).encode(), {"content-type": "application/json"}))
    with pytest.raises(UpstreamError) as caught:
        await ask(driver)
    assert (type(caught.value), caught.value.retry_after_s, caught.value.may_be_billed) == (kind, wait_s, False)
    assert KEY not in caught.value.message
    assert TEXT not in caught.value.message
    await driver.aclose()


@every_action
@pytest.mark.parametrize("body", NO_ANSWER, ids=range(len(NO_ANSWER)))
async def test_what_says_no_error_and_is_no_answer_may_be_billed(
    provider: str, ask: Callable[[HttpDriver], Awaitable[object]], upstream: Upstream, body: object
) -> None:
    driver = driver_of(provider, upstream)
    upstream.script(Answer(200, json.dumps(body).encode(), {"content-type": "application/json"}))
    with pytest.raises(UpstreamGarbled) as caught:
        await ask(driver)
    assert caught.value.may_be_billed
    await driver.aclose()
