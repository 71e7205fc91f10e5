"""What operations of administration run with: in a gateway, and in commands, whether or not a gateway runs."""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from embedgate.config import Loaded
from embedgate.core.clock import utc_ms
from embedgate.govern.providers import read_keys
from embedgate.govern.resources import GatewayAccess, Resources
from embedgate.govern.rules import read_rules
from embedgate.govern.selection import Selection, decide
from embedgate.inference.runtime import LocalModels
from embedgate.storage.database import DATABASE_FILE, Database, open_database
from embedgate.wiring.storage import open_sealer, stored_at


def open_resources(loaded: Loaded, gateway: GatewayAccess) -> Resources:
    """What operations need besides the database. Raises ConfigError."""
    settings = loaded.settings
    return Resources(
        settings.keys.prefix,
        open_sealer(loaded),
        lambda: gateway.selection().catalog,
        gateway=gateway,
        is_emergency=settings.access.is_emergency,
        accepted_prefixes=settings.keys.accepted_prefixes,
        own_keys=settings.keys.own,
        max_aliases=settings.catalog.max_aliases,
    )


def decide_within(loaded: Loaded, connection: sa.Connection, local_models: LocalModels | None = None) -> Selection:
    """What a gateway of these settings would switch on with what a transaction sees stored. Raises ConfigError."""
    keys = read_keys(connection, open_sealer(loaded))
    return decide(loaded, stored_at(read_rules(connection), keys, utc_ms()), local_models)


def decide_as_stored(loaded: Loaded) -> Selection:
    """What a gateway that started now would switch on, by its settings and by what administrators have stored.

    Makes no database where there is none. Raises ConfigError.
    """
    if not (loaded.settings.storage.data_dir.expanduser() / DATABASE_FILE).exists():
        return decide(loaded)
    with opened_database(loaded) as database, database.read() as connection:
        return decide_within(loaded, connection)


@contextmanager
def opened_database(loaded: Loaded) -> Iterator[Database]:
    """The database of the settings. Makes it if it is not there. Raises ConfigError."""
    storage = loaded.settings.storage
    database = open_database(storage.data_dir.expanduser(), storage.synchronous)
    try:
        yield database
    finally:
        database.close()
