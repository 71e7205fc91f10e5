"""The trail read, verified and shortened."""

from collections.abc import Callable
from typing import Protocol

import pytest

from embedgate.administration import Administration
from embedgate.core.access import AuditEvent
from embedgate.core.errors import InvalidInput
from embedgate.storage.audit import AuditFilter


class Clock(Protocol):
    """The clock of this folder."""

    now_s: float


def test_the_trail_is_read_verified_and_shortened(
    administration: Administration, clock: Clock, happened: Callable[[], list[AuditEvent]]
) -> None:
    administration.users.create("ann")
    head = administration.audit.verify().head
    clock.now_s += 10 * 24 * 3600
    administration.users.create("bob")
    assert administration.audit.events(AuditFilter(action="users.create")).total == 2
    assert administration.audit.verify(head).is_intact
    assert administration.audit.prune(11) == 0
    assert administration.audit.prune(10) == 0
    clock.now_s += 1
    assert administration.audit.prune(10) == 1
    assert [(event.kind, event.actor) for event in happened()] == [
        ("change", "user_admin"), ("retention", "user_admin")
    ]  # fmt: skip
    assert administration.audit.verify().is_intact
    for days in (0, -1, 10**9):
        with pytest.raises(InvalidInput, match="days to keep"):
            administration.audit.prune(days)
