"""Changes rules and keys in the database of a running gateway, as another process on the same folder does."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from embedgate.core.access import Period, Subject
from embedgate.core.money import usd_text
from embedgate.core.types import LedgerEntry
from embedgate.govern import audit, budgets, keys, limits, policies, prices, users
from embedgate.govern.audit import AuditQuery, Event, VerifyQuery
from embedgate.govern.budgets import NewBudget, WhichBudget
from embedgate.govern.entries import LedgerFilter
from embedgate.govern.keys import Key, KeyToMake, WhichKey
from embedgate.govern.limits import NewLimit, WhichLimit
from embedgate.govern.policies import NewPolicy, PolicyChange, WhichPolicy
from embedgate.govern.prices import NewPrice
from embedgate.govern.users import NewUser
from embedgate.govern.values import moment, price_text
from embedgate.storage.database import Database, open_database
from governing import Governing, entries_in, resources_for
from running import RunningGateway
from waiting import wait_until
from wire import call


class Administrator:
    """Operations on one data folder, from outside of the gateway."""

    def __init__(self, database: Database) -> None:
        """Use `administrator`."""
        self.call = Governing(database, resources_for(Path("unused")))
        self._database = database
        self._names = map("made for test {}".format, itertools.count())
        self._watch: tuple[Key, str] | None = None
        self._marks = itertools.count(1_000_000)

    def new_key(self) -> tuple[Key, str]:
        """A key of a new user, and its secret."""
        name = next(self._names)
        return self.add_key(self.call(users.create_user, NewUser(name)).id, name)

    def add_key(self, user: str, name: str, project: str | None = None) -> tuple[Key, str]:
        """A key of a user, and its secret."""
        made = self.call(keys.create_key, KeyToMake(user, name, project))
        return made.key, made.secret

    def find_key(self, secret: str) -> Key:
        """The key of a secret."""
        return self.call(keys.show_key, WhichKey(secret))

    def set_limit(
        self,
        subject: Subject,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        max_parallel: int | None = None,
        max_waiting: int = 0,
    ) -> None:
        """Put a limit in force, instead of the one that the subject has."""
        self.call(
            limits.set_limit,
            NewLimit(subject.kind, subject.id, requests_per_minute, tokens_per_minute, max_parallel, max_waiting),
        )

    def delete_limit(self, subject: Subject) -> None:
        """Take away the limit of a subject."""
        self.call(limits.delete_limit, WhichLimit(subject.kind, subject.id))

    def set_budget(self, subject: Subject, period: Period, cap_picodollars: int) -> None:
        """Put a budget in force, instead of the one that the subject has for that period."""
        self.call(budgets.set_budget, NewBudget(subject.kind, subject.id, period, usd_text(cap_picodollars)))

    def delete_budget(self, subject: Subject, period: Period) -> None:
        """Delete a budget of a subject."""
        self.call(budgets.delete_budget, WhichBudget(subject.kind, subject.id, period))

    def add_policy(self, text: str) -> None:
        """Put another policy in force."""
        self.call(policies.create_policy, NewPolicy(text))

    def switch_policy(self, policy_id: str, *, is_enabled: bool) -> None:
        """Put a policy in force, or out of force."""
        self.call(policies.change_policy, PolicyChange(policy_id, is_enabled=is_enabled))

    def delete_policy(self, policy_id: str) -> None:
        """Delete a policy."""
        self.call(policies.delete_policy, WhichPolicy(policy_id))

    def set_price(self, model: str, provider: str, picodollars_per_token: int) -> None:
        """A price that holds since 1970."""
        self.call(prices.add_price, NewPrice(model, provider, price_text(picodollars_per_token), moment(0)))

    def wait_until_in_force(self, running: RunningGateway) -> None:
        """Return once the gateway goes by all that was changed before."""
        self._watch = self._watch or self.new_key()
        key, secret = self._watch
        mark = next(self._marks)
        self.set_limit(Subject("key", key.id), requests_per_minute=mark)
        body = {"model": "no/model", "input": "x"}  # refused before it costs anything, with the limit in its headers

        def is_seen() -> bool:
            reply = call(running.url, "/v1/embeddings", body, {"x-api-key": secret})
            return reply.headers.get("x-ratelimit-limit-requests") == str(mark)

        wait_until("the rules are in force", is_seen)

    def entries(self, key: Key) -> Sequence[LedgerEntry]:
        """What the ledger has of a key."""
        return tuple(entries_in(self._database, LedgerFilter(key_id=key.id)))

    def every_entry(self) -> Sequence[LedgerEntry]:
        """What the ledger has."""
        return tuple(entries_in(self._database))

    def spent(self, key: Key) -> int:
        """What they cost."""
        return sum(entry.cost_picodollars for entry in self.entries(key))

    def decisions(self, key: Key) -> list[Event]:
        """What the audit trail has decided for a key."""
        return self.call.every(audit.list_events, AuditQuery(kind="decision", actor=key.id))

    def trail_is_whole(self) -> bool:
        """Whether nothing in the audit trail was changed, and nothing is missing from it."""
        return self.call(audit.verify_trail, VerifyQuery()).ok


@contextlib.contextmanager
def administrator(data_dir: Path) -> Iterator[Administrator]:
    """One who has the database of a gateway open, which may run."""
    database = open_database(data_dir)
    try:
        yield Administrator(database)
    finally:
        database.close()
