"""The administration API under callers who ask for too much at once, and who leave."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from admin_calls import Api
from embedgate.core.demand import Demand
from embedgate.core.errors import CallerLeft, Overloaded
from embedgate.server.work_queue import WorkQueue
from waiting import PATIENCE_S

PASSWORD = "a long and unlikely phrase"


@pytest_asyncio.fixture
async def queue() -> AsyncIterator[WorkQueue]:
    """With one thread and eight places, two for each who asks."""
    made = WorkQueue("test", 1, 8)
    yield made
    made.close()


async def test_one_who_asks_has_a_share_and_all_together_have_a_bound(queue: WorkQueue) -> None:
    async def ask(asker: str) -> str:
        with queue.place(asker):
            return await queue.run(lambda: asker)

    release = threading.Event()
    with queue.place("first"):
        held = asyncio.ensure_future(queue.run(lambda: release.wait(PATIENCE_S)))
        waiting = [asyncio.ensure_future(ask(asker)) for asker in ("first", "b", "b", "c", "c", "d", "d")]
        await asyncio.sleep(0)
        assert queue.is_full
        for asker, reason in (("first", "8 requests"), ("e", "8 requests")):
            with pytest.raises(Overloaded, match=f"{reason} .*server.max_admin_requests"):
                await ask(asker)
        release.set()
        assert await held
    assert await asyncio.gather(*waiting) == ["first", "b", "b", "c", "c", "d", "d"]
    with queue.place("b"), queue.place("b"):
        with pytest.raises(Overloaded, match="2 requests of yours"), queue.place("b"):
            pass
        assert await ask("c") == "c"
    assert not queue.is_full


async def test_work_of_a_caller_who_left_before_it_began_is_dropped(queue: WorkQueue) -> None:
    release, ran = threading.Event(), []
    held = asyncio.ensure_future(queue.run(lambda: release.wait(PATIENCE_S)))
    left, stays = Demand(), Demand()
    dropped = asyncio.ensure_future(queue.run(lambda: ran.append("left"), left))
    wanted = asyncio.ensure_future(queue.run(lambda: ran.append("stays"), stays))
    await asyncio.sleep(0)
    left.leave()
    release.set()
    with pytest.raises(CallerLeft):
        await dropped
    await wanted
    assert await held
    assert ran == ["stays"]


async def test_failed_logins_that_go_on_are_counted_in_one_event(api: Api) -> None:
    """From many addresses, as one alone is slowed down long before."""
    await api("PUT", "/api/users/admin/password", {"password": PASSWORD})
    anybody = api.with_key("")
    for number in range(8):
        body = {"name": "admin", "password": f"{PASSWORD}, but wrong"}
        reply = await anybody.reply("POST", "/api/login", body, address=f"198.51.100.{number}")
        assert reply.status == 401
    failed = await api("GET", "/api/audit?kind=login&outcome=invalid_credentials")
    assert failed["total"] == 5


async def test_exports_that_nobody_reads_leave_room_for_administration_and_for_others(api: Api) -> None:
    """Five of one administrator at once, a quarter of a tenth of 200; a place is free when its caller has gone."""
    begun, goes_on = asyncio.Event(), asyncio.Event()
    answers = list[int]()

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b""}

    async def send(message: dict[str, object]) -> None:
        if message["type"] == "http.response.start":
            assert isinstance(message["status"], int)
            answers.append(message["status"])
            if len(answers) == 5:
                begun.set()
        await goes_on.wait()

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/api/usage/entries",
        "raw_path": b"/api/usage/entries",
        "query_string": b"format=csv",
        "headers": [(b"x-api-key", api.key.encode())],
        "client": ("192.0.2.7", 4711),
    }
    readers = [asyncio.ensure_future(api.application(scope, receive, send)) for _ in range(5)]
    await asyncio.wait_for(begun.wait(), PATIENCE_S)
    refused = await api.reply("GET", "/api/usage/entries?format=csv")
    assert (refused.status, "5 exports of yours" in refused.json["error"]) == (503, True)
    assert (await api.reply("GET", "/api/users")).status == 200
    readers[0].cancel()
    await asyncio.gather(readers[0], return_exceptions=True)
    assert (await api.reply("GET", "/api/usage/entries?format=csv")).status == 200
    goes_on.set()
    await asyncio.gather(*readers[1:])
    assert answers == [200] * 5
