"""The fetching side is never far ahead of the sending one, and stops soon after that has gone."""

import asyncio
import time

import pytest

from chat_doubles import chat_model
from embedgate.core.errors import CallerLeft, UpstreamTimeout
from embedgate.core.types import Candidate
from embedgate.engine.chat.stream import StreamBuffer, StreamHead
from memory_ledger import turn

MODEL = chat_model("a")
BEGUN = StreamHead(Candidate(MODEL, MODEL.routes[0]), "text/event-stream")


def far() -> float:
    return time.monotonic() + 10


async def fetch(out: StreamBuffer, pieces: list[bytes], put: list[bytes]) -> None:
    out.begin(BEGUN)
    for piece in pieces:
        put.append(piece)
        await out.put(piece)
    out.end()


async def test_pieces_arrive_in_order_and_then_the_end() -> None:
    out = StreamBuffer(100)
    fetching = asyncio.create_task(fetch(out, [b"a", b"b", b"c"], []))
    assert await out.beginning() is BEGUN
    taken = b""
    while piece := await out.take():
        taken += piece
    assert taken == b"abc"
    assert await out.take() == b""
    await fetching


async def test_a_fetcher_waits_when_enough_is_there() -> None:
    out = StreamBuffer(max_bytes=3)
    put: list[bytes] = []
    fetching = asyncio.create_task(fetch(out, [b"xx"] * 9, put))
    await turn()
    assert len(put) == 2  # the second piece made it more than three bytes
    assert await out.take() == b"xxxx"  # what waited goes on as one
    await turn()
    assert len(put) == 4
    fetching.cancel()


async def test_an_answer_that_never_begins_has_an_end() -> None:
    out = StreamBuffer(1)
    waiting = asyncio.create_task(out.beginning())
    await turn()
    out.end()
    assert await waiting is None


async def test_who_leaves_ends_what_waits_for_room_and_what_waits_for_the_far_side() -> None:
    for max_bytes in (1, 100):
        out = StreamBuffer(max_bytes)

        async def fetch_for_ever(out: StreamBuffer = out) -> None:
            async with out.while_wanted(far()):
                await out.put(b"xx")
                await asyncio.Event().wait()

        fetching = asyncio.create_task(fetch_for_ever())
        await turn()
        out.leave()
        with pytest.raises(CallerLeft):
            await fetching


async def test_nothing_is_fetched_for_one_who_has_left_already() -> None:
    out = StreamBuffer(1)
    out.leave()
    with pytest.raises(CallerLeft):
        async with out.while_wanted(far()):
            raise AssertionError("it went on")


async def test_a_fetcher_who_misses_the_end_of_it_is_told_with_the_next_piece() -> None:
    out = StreamBuffer(100)
    out.leave()
    with pytest.raises(CallerLeft):
        out.begin(BEGUN)
    with pytest.raises(CallerLeft):
        await out.put(b"x")


async def test_the_deadline_ends_it_too() -> None:
    out = StreamBuffer(1)
    with pytest.raises(UpstreamTimeout):
        async with out.while_wanted(time.monotonic() + 0.01):
            await asyncio.Event().wait()


async def test_another_timeout_inside_is_not_taken_for_the_deadline() -> None:
    out = StreamBuffer(1)
    with pytest.raises(TimeoutError):
        async with out.while_wanted(far()):
            raise TimeoutError


async def test_leaving_twice_and_after_the_end_changes_nothing() -> None:
    out = StreamBuffer(1)
    async with out.while_wanted(far()):
        pass
    out.end()
    out.leave()
    out.leave()
    assert await out.take() == b""
