"""Who changes what: every change leaves one audit event, in the transaction of the change itself.

Writes the trail; reading it is in `audit`. Never given a secret.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from embedgate.administration.stores import Stores
from embedgate.core.access import AuditEvent, AuditKind
from embedgate.core.errors import InternalError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Plain = str | int | bool | None


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks for a change: the id of a user or a key, `command line`, and the request that it came with."""

    id: str
    request_id: str = ""


COMMAND_LINE = Actor("command line")
"""Whoever can run the program on the data folder."""


class Note(Protocol):
    """Says what a change was."""

    def __call__(self, target: str, **detail: Plain) -> None:
        """target: the id of what was changed. detail: plain facts, such as the fields that are different now."""
        ...


class Trail:
    """Writes the audit trail for one actor."""

    def __init__(self, stores: Stores, actor: Actor) -> None:
        self._stores = stores
        self._actor = actor

    def together(self) -> AbstractContextManager[None]:
        """One transaction for all that happens within."""
        return self._stores.database.together()

    @contextmanager
    def change(self, action: str) -> Iterator[Note]:
        """Make a change, and say what it was through the note that this gives.

        Change and event are one transaction: if either fails, for whatever reason, there is neither.
        """
        noted: list[AuditEvent] = []

        def note(target: str, **detail: Plain) -> None:
            noted.append(self._event("change", self._actor.id, action, target, "ok", detail))

        with self.together():
            yield note
            if not noted:
                raise InternalError(f"{action} said not what it changed")
            self._stores.audit.append(noted)

    def add_login(self, action: str, actor_id: str | None, target: str, outcome: str, **detail: Plain) -> None:
        """Write down what became of a login. actor_id: None for whoever sent the request."""
        event = self._event("login", actor_id or self._actor.id, action, target, outcome, detail)
        self._stores.audit.append([event])

    def _event(
        self, kind: AuditKind, actor_id: str, action: str, target: str, outcome: str, detail: Mapping[str, Plain]
    ) -> AuditEvent:
        return AuditEvent(
            kind=kind,
            at_ms=self._stores.now_ms(),
            actor=actor_id,
            action=action,
            target=target,
            outcome=outcome,
            request_id=self._actor.request_id,
            detail=detail,
        )


def differences(
    before: "DataclassInstance", after: "DataclassInstance", *, unsaid: tuple[str, ...] = ()
) -> dict[str, Plain]:
    """The fields that are not the same in two records of one kind, with what they are after.

    unsaid: fields whose value is nobody's business, or too long.
    """
    names = [field.name for field in dataclasses.fields(before)]
    changed = [name for name in names if getattr(before, name) != getattr(after, name)]
    return {name: "changed" if name in unsaid else plain(getattr(after, name)) for name in changed}


def plain(value: object) -> Plain:
    """A field of a record, as the detail of an event can hold it."""
    if value is None or isinstance(value, str | int):
        return value
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
