"""Transactions of administration: what an operation reads or changes, who asked for it, and its audit events.

A change and the audit event that tells of it are one transaction: both are kept, or neither.
"""

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec
import sqlalchemy as sa

from embedgate.core.access import AuditEvent, AuditKind, KeyRecord
from embedgate.core.errors import InternalError
from embedgate.govern.resources import Resources
from embedgate.govern.revision import count_up
from embedgate.storage.appender import Appender
from embedgate.storage.database import Database

Plain = str | int | bool | None
"""A fact in the detail of an audit event."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks for an operation: the id of a user, or `command line`; the request it came with, and from where."""

    id: str
    request_id: str = ""
    ip_address: str = ""


COMMAND_LINE = Actor("command line")
"""Whoever can run the program on the data folder."""
GATEWAY = Actor("gateway")
"""A running gateway that does by itself what its settings say."""
STRANGER = "stranger"
"""The actor's id in operations that anyone may run, such as a login."""


@dataclass(slots=True)
class Touched:
    """What committed changes have put out of date in a running gateway: cached keys, and the rules in force."""

    rules: bool = False
    every_key: bool = False
    keys: set[str] = field(default_factory=set)
    users: set[str] = field(default_factory=set)
    projects: set[str] = field(default_factory=set)

    @property
    def any_key(self) -> bool:
        """Whether any cached key may be out of date."""
        return bool(self.every_key or self.keys or self.users or self.projects)

    def concerns(self, key: KeyRecord) -> bool:
        """Whether what is cached of this key may be out of date."""
        return (
            self.every_key
            or key.id in self.keys
            or key.replaced_by in self.keys
            or key.user_id in self.users
            or key.project_id in self.projects
        )

    def add(self, other: "Touched") -> None:
        """Include what another change has touched."""
        self.rules |= other.rules
        self.every_key |= other.every_key
        self.keys |= other.keys
        self.users |= other.users
        self.projects |= other.projects


class Reading:
    """A transaction that only reads, and sees one state of the database."""

    def __init__(self, connection: sa.Connection, resources: Resources, actor: Actor) -> None:
        self.connection = connection
        self.resources = resources
        self.actor = actor
        self.now_ms = resources.now_ms()

    def login_event(self, action: str, actor_id: str | None, target: str, outcome: str, **detail: Plain) -> AuditEvent:
        """Audit event of a login attempt. actor_id: None for whoever sent the request."""
        return self._event("login", actor_id or self.actor.id, action, target, outcome, detail)

    def _event(
        self, kind: AuditKind, actor_id: str, action: str, target: str, outcome: str, detail: Mapping[str, Plain]
    ) -> AuditEvent:
        return AuditEvent(
            kind=kind,
            at_ms=self.now_ms,
            actor=actor_id,
            action=action,
            target=target,
            outcome=outcome,
            request_id=self.actor.request_id,
            detail=detail,
        )


class Change(Reading):
    """A transaction that changes something. It locks other writers out from its first statement on, not before.

    Every change must call `note`; one that finds nothing to do says `is_noted = True` instead.
    """

    def __init__(self, connection: sa.Connection, resources: Resources, actor: Actor) -> None:
        super().__init__(connection, resources, actor)
        self.touched = Touched()
        self.is_noted = False
        self._events: list[AuditEvent] = []

    def note(self, action: str, target: str, **detail: Plain) -> None:
        """Write into the audit trail what was changed. target: an id. detail: plain facts, never a secret."""
        self.add(self._event("change", self.actor.id, action, target, "ok", detail))

    def note_login(self, action: str, actor_id: str | None, target: str, outcome: str, **detail: Plain) -> None:
        """Write the outcome of a login attempt into the audit trail. actor_id: None for whoever sent the request."""
        self.add(self.login_event(action, actor_id, target, outcome, **detail))

    def add(self, event: AuditEvent) -> None:
        """Write an event into the audit trail."""
        self._events.append(event)

    def note_retention(self, action: str, target: str, **detail: Plain) -> None:
        """Write into the audit trail, at once, which of its events are deleted next.

        At once, because the trail must still have an end that this event continues.
        """
        self.add(self._event("retention", self.actor.id, action, target, "ok", detail))
        self._append()

    def rules_changed(self) -> None:
        """Say that policies, limits, budgets, prices or providers are different now: counts their revision up."""
        if not self.touched.rules:
            count_up(self.connection)
            self.touched.rules = True

    def finish(self) -> None:
        """Append the events, as the last statements of the transaction. Raises InternalError if nothing was noted."""
        if not self._events and not self.is_noted:
            raise InternalError("A change did not say what it changed.")
        self._append()

    def _append(self) -> None:
        if self._events:
            _appender(self.connection.dialect)(self.connection.exec_driver_sql, self._events)
            self._events, self.is_noted = [], True


class Invocation:
    """One run of an operation: its transactions, for one actor. They raise InternalError if the database fails.

    `touched` grows with every change that is committed. `user_id` and `secret` are those of the request.
    """

    def __init__(self, database: Database, resources: Resources, actor: Actor, *, secret: str = "") -> None:
        """secret: the key or the access token that came with the request."""
        self.resources = resources
        self.actor = actor
        self.secret = secret
        self.touched = Touched()
        self._database = database

    @contextmanager
    def read(self) -> Iterator[Reading]:
        """A transaction that only reads."""
        with self._database.read() as connection:
            yield Reading(connection, self.resources, self.actor)

    @contextmanager
    def change(self) -> Iterator[Change]:
        """A transaction that changes something; it is undone if anything fails within."""
        with self._database.write_on_demand() as connection:
            change = Change(connection, self.resources, self.actor)
            yield change
            change.finish()
        self.touched.add(change.touched)


def differences(before: msgspec.Struct, after: msgspec.Struct, *, unsaid: tuple[str, ...] = ()) -> dict[str, Plain]:
    """The fields that differ between two records of one type, with their new values, as the detail of an event.

    unsaid: fields whose value is nobody's business, or too long.
    """
    names = [name for name in before.__struct_fields__ if getattr(before, name) != getattr(after, name)]
    return {name: "changed" if name in unsaid else plain(getattr(after, name)) for name in names}


def plain(value: object) -> Plain:
    """A field of a record, as the detail of an event can hold it."""
    if value is None or isinstance(value, str | int):
        return value
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


@functools.lru_cache(maxsize=4)
def _appender(dialect: sa.Dialect) -> Appender:
    return Appender(dialect)
