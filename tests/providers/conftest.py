"""The far side of the providers: one loopback server for each file of tests, as new for each test."""

from collections.abc import Iterator

import pytest

from upstream import Upstream, running_upstream


@pytest.fixture(scope="module")
def shared_upstream() -> Iterator[Upstream]:
    with running_upstream() as upstream:
        yield upstream


@pytest.fixture
def upstream(shared_upstream: Upstream) -> Upstream:
    shared_upstream.reset()
    return shared_upstream
