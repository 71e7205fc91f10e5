"""Metrics that many ask for at once: rendered once, and never from before the question."""

import asyncio
from types import SimpleNamespace
from typing import cast

from embedgate.server.operations import Operations
from embedgate.server.readiness import Readiness
from embedgate.server.respond import Request
from embedgate.wiring import Gateway


async def test_all_who_ask_in_one_turn_get_one_text_and_the_next_a_new_one(served: Gateway) -> None:
    operations = Operations(served, Readiness())
    request = cast(Request, SimpleNamespace(id="req_1"))
    answers = await asyncio.gather(*(operations.metrics(request) for _ in range(50)))
    assert len({id(answer.body) for answer in answers}) == 1
    assert b"embedgate_" in answers[0].body
    later = await operations.metrics(request)
    assert later.body is not answers[0].body


async def test_one_who_leaves_keeps_nobody_from_the_text(served: Gateway) -> None:
    operations = Operations(served, Readiness())
    request = cast(Request, SimpleNamespace(id="req_1"))
    leaving, staying = (asyncio.ensure_future(operations.metrics(request)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    assert b"embedgate_" in (await staying).body
