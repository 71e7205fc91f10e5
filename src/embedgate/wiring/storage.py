"""The gateway's persistent stores, opened together and closed together."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from embedgate.catalog import Catalog
from embedgate.config import Loaded
from embedgate.core.access import RecentRequest, Rules
from embedgate.core.errors import ConfigError, InternalError
from embedgate.govern.change import COMMAND_LINE, Invocation
from embedgate.govern.first_start import FirstKeys, ensure_first_keys
from embedgate.govern.providers import read_keys
from embedgate.govern.resources import Resources
from embedgate.govern.rules import read_rules
from embedgate.govern.selection import Stored
from embedgate.storage.answers import AnswerStore
from embedgate.storage.cache import TieredCache, open_cache
from embedgate.storage.database import Database, open_database
from embedgate.storage.folder import claim
from embedgate.storage.intents import INTENTS_FOLDER, IntentJournal, recover
from embedgate.storage.key_lookup import SqlKeyStore
from embedgate.storage.ledger import SqlLedger
from embedgate.storage.recent import recent_requests
from embedgate.storage.sealing import Sealer
from embedgate.storage.spending import LedgerSpending, newest_entry_ms

_WINDOW_MS = 60_000


@dataclass(frozen=True, slots=True)
class Storage:
    """The open stores."""

    database: Database
    keys: SqlKeyStore
    ledger: SqlLedger
    spending: LedgerSpending
    sealer: Sealer
    answers: AnswerStore
    intents: IntentJournal
    cache: TieredCache | None
    first_keys: FirstKeys | None
    data_dir: Path
    newest_entry_ms: int
    claims: list[int] = field(default_factory=list)

    def claim(self) -> bool:
        """Claim the data folder for the one server on it. False if another process has it. Raises ConfigError."""
        files = claim(self.data_dir)
        if files is not None:
            self.claims.extend(files)
        return files is not None

    def recover(self) -> None:
        """Book the open intents of other processes that have ended. Blocks. Raises InternalError."""
        recover(self.data_dir, self.database)

    def watch(self) -> None:
        """Watch from now on whether the ledger can be written. Blocks."""
        if self.ledger.watch is not None:
            self.ledger.watch.start()

    def recent_requests(self, now_ms: int) -> Sequence[RecentRequest]:
        """The requests of the last minute. Blocks. Raises InternalError if the database fails."""
        with self.database.read() as connection:
            return recent_requests(connection, now_ms - _WINDOW_MS)

    def rules(self) -> Rules:
        """Every rule, as it is stored now. Blocks. Raises InternalError if the database fails."""
        with self.database.read() as connection:
            return read_rules(connection)

    def stored(self, rules: Rules, now_ms: int) -> Stored:
        """What administrators have set of providers and prices, as it is now. Blocks. Raises ConfigError."""
        with self.database.read() as connection:
            keys = read_keys(connection, self.sealer)
        return stored_at(rules, keys, now_ms)

    def close(self) -> None:
        """Write what is pending, and close files and threads. Blocks."""
        self.ledger.close()
        self.intents.close(is_ledger_lost=self.ledger.is_lost)
        if self.cache is not None:
            self.cache.close()
        self.keys.close()
        self.answers.close()
        self.spending.close()
        self.database.close()
        self.ledger.release()
        for file in self.claims:
            os.close(file)


def stored_at(rules: Rules, keys: Mapping[str, str], now_ms: int) -> Stored:
    """What the rules say of providers, prices, models and aliases at a time. keys: of providers, by name."""
    prices = sorted((price for price in rules.prices if price.from_ms <= now_ms), key=lambda price: price.from_ms)
    return Stored(
        providers={record.name: record for record in rules.providers},
        keys=keys,
        prices=tuple(prices),
        cleared=dict(rules.cleared),
        added=tuple(rules.added),
        aliases=tuple(rules.aliases),
    )


def master_key(loaded: Loaded) -> str | None:
    """The key that provider keys are sealed with, if the environment has it; None for the file in the data folder."""
    variable = loaded.settings.access.master_key_env
    return loaded.secrets.variable(variable) if variable else None


def open_sealer(loaded: Loaded) -> Sealer:
    """What seals the keys of providers. Raises ConfigError."""
    return Sealer(loaded.settings.storage.data_dir.expanduser(), master_key(loaded))


def open_storage(loaded: Loaded) -> Storage:
    """Open everything, making what is missing. Raises ConfigError."""
    settings = loaded.settings
    data_dir = settings.storage.data_dir.expanduser()
    database = open_database(data_dir, settings.storage.synchronous)
    try:
        sealer = open_sealer(loaded)
        resources = Resources(settings.keys.prefix, sealer, Catalog.builtin)  # no catalogue is in force yet
        first_keys = ensure_first_keys(Invocation(database, resources, COMMAND_LINE), data_dir)
        recover(data_dir, database)
        with database.read() as connection:
            newest_ms = newest_entry_ms(connection)
    except InternalError as error:
        database.close()
        raise ConfigError(
            [
                f"what a killed process left in {data_dir / INTENTS_FOLDER} cannot be booked: {error.message}; "
                "start again when the database can be written"
            ]
        ) from error
    except BaseException:
        database.close()
        raise
    bounds = settings.storage
    intents = IntentJournal(data_dir, syncs=bounds.synchronous == "full")
    return Storage(
        database,
        SqlKeyStore(database, max_cached=settings.keys.max_cached),
        SqlLedger(
            database,
            max_pending=bounds.ledger_max_pending,
            patience_s=bounds.ledger_patience_s,
            check_s=bounds.ledger_check_s,
            beside=(lambda: None) if bounds.intents == "off" else intents.look,
        ),
        LedgerSpending(database),
        sealer,
        AnswerStore(data_dir, settings.idempotency),
        intents,
        open_cache(settings.cache, data_dir) if settings.cache.enabled else None,
        first_keys,
        data_dir,
        newest_ms,
    )
