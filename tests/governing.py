"""Operations of administration, run in tests straight on a database."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import argon2
import msgspec
from msgspec import Struct

from embedgate.catalog import Catalog
from embedgate.core.access import AuditEvent, Rules
from embedgate.core.clock import utc_ms
from embedgate.core.types import LedgerEntry
from embedgate.govern.audit import TrailEnd, Verified, VerifyQuery, verify_trail
from embedgate.govern.change import COMMAND_LINE, Actor, Invocation, Plain
from embedgate.govern.entries import EVERY_ENTRY, LedgerFilter, every_entry
from embedgate.govern.lists import MAX_PAGE_ITEMS, Listed, ListQuery
from embedgate.govern.operation import Operation
from embedgate.govern.passwords import PasswordHashes
from embedgate.govern.resources import Resources
from embedgate.govern.rules import read_rules
from embedgate.storage import schema
from embedgate.storage.chain import AuditRow, event_of
from embedgate.storage.database import Database
from embedgate.storage.sealing import Sealer


@dataclass
class Clock:
    """The time, which passes when it is told to: Saturday, 21 November 2026, noon, UTC."""

    now_s: float = 1_795_262_400.0

    def ms(self) -> int:
        """UTC milliseconds."""
        return int(self.now_s * 1000)

    def s(self) -> float:
        """Seconds."""
        return self.now_s


P = TypeVar("P", bound=Struct)
Q = TypeVar("Q", bound=ListQuery)
R = TypeVar("R")

CHEAP_HASHES = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


def resources_for(data_dir: Path, now_ms: Callable[[], int] = utc_ms) -> Resources:
    """What operations need, over a data folder: passwords are cheap to hash, the catalogue is the built-in one."""
    return Resources("eg", Sealer(data_dir), Catalog.builtin, now_ms, PasswordHashes(CHEAP_HASHES))


@dataclass(frozen=True)
class Governing:
    """Runs operations as one actor. `with_actor` gives another's."""

    database: Database
    resources: Resources
    actor: Actor = field(default=COMMAND_LINE)
    secret: str = ""

    def with_actor(self, actor: Actor) -> "Governing":
        """The same for somebody else."""
        return replace(self, actor=actor)

    def with_secret(self, secret: str) -> "Governing":
        """The same with a key or an access token, as it comes with a request."""
        return replace(self, secret=secret)

    def invocation(self) -> Invocation:
        """What one operation runs with."""
        return Invocation(self.database, self.resources, self.actor, secret=self.secret)

    def __call__(self, operation: Operation[P, R], parameters: P) -> R:
        """The result of an operation."""
        return operation.run(self.invocation(), parameters)

    def events(self) -> list[AuditEvent]:
        """The whole audit trail, oldest first."""
        return events_in(self.database)

    def last_event(self) -> tuple[str, str, Mapping[str, Plain]]:
        """Action, target and detail of the newest event."""
        event = self.events()[-1]
        return event.action, event.target, event.detail

    def every(self, operation: Operation[Q, Listed[R]], query: Q) -> list[R]:
        """A whole list."""
        items: list[R] = []
        while True:
            page = self(operation, msgspec.structs.replace(query, offset=len(items), limit=MAX_PAGE_ITEMS))
            items += page.items
            if not page.items or len(items) >= page.total:
                return items


def entries_in(database: Database, filter_by: LedgerFilter = EVERY_ENTRY) -> list[LedgerEntry]:
    """The entries of a ledger, in the order of writing."""
    return list(every_entry(Governing(database, resources_for(Path("unused"))).invocation(), filter_by))


def rules_in(database: Database) -> Rules:
    """The rules that are stored."""
    with database.read() as connection:
        return read_rules(connection)


def events_in(database: Database) -> list[AuditEvent]:
    """The whole audit trail of a database, oldest first."""
    with database.read() as connection:
        rows = connection.execute(schema.audit.select().order_by(schema.audit.c.seq)).all()
    return [event_of(AuditRow._make(row)) for row in rows]


def verified(database: Database, kept: TrailEnd | None = None) -> Verified:
    """What verifying the audit trail of a database finds. kept: an end that must still be there."""
    query = VerifyQuery() if kept is None else VerifyQuery(kept.seq, kept.digest)
    return Governing(database, resources_for(Path("unused")))(verify_trail, query)
