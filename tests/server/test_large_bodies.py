"""Large bodies in every dialect: parsed on a worker, answered and refused as small ones are."""

import json
import threading
from typing import Any

import pytest

from admin_calls import Api
from embedgate.providers import fake
from embedgate.server.app import Application
from embedgate.server.body import Body, BodyBounds
from embedgate.server.large_json import LARGE_BYTES
from embedgate.server.memory import MemoryBudget
from embedgate.wiring import Gateway

MODEL = fake.models()[0].id
BLANKS = " " * LARGE_BYTES
"""Beside the inputs, so that these stay as short as the model takes them."""


@pytest.fixture
def caller(served: Gateway) -> Api:
    assert served.first_keys
    return Api(Application(served), served.first_keys.user_key)


async def test_a_large_body_is_parsed_on_a_worker_and_a_small_one_at_once() -> None:
    bounds = BodyBounds(10**9, 10**6, 60, MemoryBudget(10**9, 1))

    async def receive() -> dict[str, Any]:
        raise AssertionError

    body = Body(receive, {}, bounds)

    def where(_: bytes) -> str:
        return threading.current_thread().name

    try:
        assert await body.parsed(where, b"x" * LARGE_BYTES) == threading.current_thread().name
        assert (await body.parsed(where, b"x" * (LARGE_BYTES + 1))).startswith("embedgate-bodies")
    finally:
        bounds.worker.shutdown()


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/embeddings", "input"),
        ("/api/embeddings", "input"),
        ("/v2/embed", "texts"),
        ("/api/embed", "input"),
        ("/embed", "inputs"),
        (f"/openai/deployments/{MODEL}/embeddings", "input"),
    ],
)
async def test_a_large_body_is_answered_and_refused_as_a_small_one(caller: Api, path: str, field: str) -> None:
    texts = [f"text {number} \U0001f600 \\ \n" for number in range(3)]
    fields: dict[str, Any] = {"model": MODEL.partition("/")[2] if path == "/api/embeddings" else MODEL}
    if path == "/api/embeddings":
        fields["provider"] = "fake"
    if path == "/embed":
        del fields["model"]
    for wrong in (texts, "alone", ["good", 7], ["good", ""], [], None):
        replies = []
        for large in (False, True):
            sent = body_of({**fields, field: wrong}, BLANKS if large else "")
            replies.append(await caller.reply("POST", path, sent))
        small, big = replies
        assert big.status == small.status
        if small.status == 200:
            assert wrong in (texts, "alone")
            assert big.body.partition(b"_meta")[0][:200] == small.body.partition(b"_meta")[0][:200]
        else:
            assert told(big.json) == told(small.json)


def body_of(fields: dict[str, Any], blanks: str) -> bytes:
    return json.dumps(fields).encode().replace(b"{", b"{" + blanks.encode(), 1)


def told(answer: Any) -> Any:
    """An error without the id of its request."""
    if isinstance(answer, dict):
        return {name: told(value) for name, value in answer.items() if name not in ("requestId", "id")}
    return answer
