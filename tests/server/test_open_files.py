"""The limit of open files is raised as far as it may be, and only then."""

import logging
import resource
from collections.abc import Iterator

import pytest

from embedgate.server.open_files import make_room


@pytest.fixture(autouse=True)
def soft_limit() -> Iterator[int]:
    """A process that may open few files, as many systems have it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    yield 512
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_there_is_room_for_every_connection_and_what_else_is_open(caplog: pytest.LogCaptureFixture) -> None:
    make_room(1_000)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 1_000
    assert not caplog.records


def test_a_limit_that_is_high_enough_stays(soft_limit: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (900, hard))
    make_room(1)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 900


def test_what_the_system_forbids_is_told(caplog: pytest.LogCaptureFixture) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        pytest.skip("this system forbids nothing")
    with caplog.at_level(logging.WARNING, "embedgate"):
        make_room(hard + 1)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard
    (record,) = caplog.records
    assert record.getMessage() == "few_open_files"
    assert record.__dict__["fields"]["allowed"] == hard
