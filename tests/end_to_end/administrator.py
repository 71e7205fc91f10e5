"""Changes rules and keys in the database of a running gateway, as another process on the same folder does."""

import contextlib
import functools
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from embedgate.core.access import AuditEvent, KeyRecord, LimitRule, Subject
from embedgate.core.types import LedgerEntry
from embedgate.govern.entries import LedgerFilter
from embedgate.storage.audit import AuditFilter, SqlAudit
from embedgate.storage.database import Database, open_database
from embedgate.storage.key_management import SqlKeys
from embedgate.storage.limits import SqlLimits
from embedgate.storage.paging import every
from embedgate.storage.policies import SqlPolicies
from embedgate.storage.projects import SqlProjects
from embedgate.storage.users import SqlUsers
from governing import entries_in
from running import RunningGateway
from waiting import wait_until
from wire import call


class Administrator:
    """The stores of one data folder, from outside of the gateway."""

    def __init__(self, database: Database) -> None:
        """Use `administrator`."""
        self.keys = SqlKeys(database, "eg")
        self.users = SqlUsers(database)
        self.projects = SqlProjects(database)
        self.policies = SqlPolicies(database)
        self.rules = SqlLimits(database)
        self._audit = SqlAudit(database)
        self._database = database
        self._names = map("made for test {}".format, itertools.count())
        self._watch: tuple[KeyRecord, str] | None = None
        self._marks = itertools.count(1_000_000)

    def new_key(self) -> tuple[KeyRecord, str]:
        """A key of a new user, and its secret."""
        name = next(self._names)
        return self.keys.create(self.users.create(name).id, name)

    def wait_until_in_force(self, running: RunningGateway) -> None:
        """Return once the gateway goes by all that was changed before."""
        self._watch = self._watch or self.new_key()
        key, secret = self._watch
        mark = next(self._marks)
        self.rules.set_limit(LimitRule(Subject("key", key.id), requests_per_minute=mark))
        body = {"model": "no/model", "input": "x"}  # refused before it costs anything, with the limit in its headers

        def is_seen() -> bool:
            reply = call(running.url, "/v1/embeddings", body, {"x-api-key": secret})
            return reply.headers["x-ratelimit-limit-requests"] == str(mark)

        wait_until("the rules are in force", is_seen)

    def entries(self, key: KeyRecord) -> Sequence[LedgerEntry]:
        """What the ledger has of a key."""
        return entries_in(self._database, LedgerFilter(key_id=key.id))

    def every_entry(self) -> Sequence[LedgerEntry]:
        """What the ledger has."""
        return entries_in(self._database)

    def spent(self, key: KeyRecord) -> int:
        """What they cost."""
        return sum(entry.cost_picodollars for entry in self.entries(key))

    def decisions(self, key: KeyRecord) -> list[AuditEvent]:
        """What the audit trail has decided for a key."""
        of_key = functools.partial(self._audit.events, AuditFilter(kind="decision", actor=key.id))
        return [stored.event for stored in every(of_key)]

    def trail_is_whole(self) -> bool:
        """Whether nothing in the audit trail was changed, and nothing is missing from it."""
        return self._audit.verify().is_intact


@contextlib.contextmanager
def administrator(data_dir: Path) -> Iterator[Administrator]:
    """One who has the database of a gateway open, which may run."""
    database = open_database(data_dir)
    try:
        yield Administrator(database)
    finally:
        database.close()
