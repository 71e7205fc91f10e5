"""What the tests of the limits ask with: three subjects, a clock that is told the time, and short ways to ask."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from embedgate.core.access import Subject
from embedgate.core.errors import AccessError, RateLimited
from embedgate.engine.admission.rate_limits import CountedRequest, RateLimits

KEY = Subject("key", "k1")
USER = Subject("user", "u1")
PROJECT = Subject("project", "p1")
FAR_S = 1e6
"""A deadline that no test reaches."""

T = TypeVar("T")


class Clock:
    """Seconds that pass when told to."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(3):
        await asyncio.sleep(0)


async def start(work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
    """A task that has run as far as it can."""
    task = asyncio.get_running_loop().create_task(work)
    await settle()
    return task


async def admitted(limits: RateLimits, *subjects: Subject, tokens: int = 1) -> CountedRequest:
    return await limits.enter(subjects, tokens, FAR_S)


async def refused(limits: RateLimits, *subjects: Subject, tokens: int = 1) -> RateLimited:
    with pytest.raises(RateLimited) as caught:
        await limits.enter(subjects, tokens, FAR_S)
    return caught.value


def wait_of(error: AccessError) -> float:
    assert error.retry_after_s is not None
    return error.retry_after_s
