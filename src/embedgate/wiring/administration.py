"""Administration without a gateway: opens the database for the command line, whether or not a gateway runs on it."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from embedgate.administration import COMMAND_LINE, Administration, Stores, open_stores
from embedgate.catalog import Catalog
from embedgate.config import Loaded
from embedgate.core.clock import utc_ms
from embedgate.govern import change
from embedgate.govern.change import Invocation
from embedgate.govern.resources import Resources
from embedgate.storage.database import DATABASE_FILE, open_database
from embedgate.wiring.decide import Decided, decide
from embedgate.wiring.faults import fault_finder
from embedgate.wiring.storage import master_key, open_sealer, stored_at


@contextmanager
def open_administration(loaded: Loaded) -> Iterator[Administration]:
    """All that an administrator can do, as `command line`. Makes the database if it is not there. Raises ConfigError.

    A gateway that runs on the same folder has a change within a second.
    """
    with _open_stores(loaded) as stores:

        @functools.cache
        def catalog() -> Catalog:
            return _decide(loaded, stores).catalog

        yield Administration(stores, COMMAND_LINE, catalog, fault_finder(loaded))


@contextmanager
def open_operations(loaded: Loaded) -> Iterator[Callable[[], Invocation]]:
    """What operations run with, as `command line`, one for each call. Makes the database if it is not there.

    A gateway that runs on the same folder has a change within a second. Raises ConfigError.
    """
    settings = loaded.settings
    database = open_database(settings.storage.data_dir.expanduser(), settings.storage.synchronous)
    try:

        @functools.cache
        def catalog() -> Catalog:
            return decide_as_stored(loaded).catalog

        resources = open_resources(loaded, catalog)
        yield lambda: Invocation(database, resources, change.COMMAND_LINE)
    finally:
        database.close()


def open_resources(loaded: Loaded, catalog: Callable[[], Catalog]) -> Resources:
    """What operations need besides the database. catalog: gives the one in force. Raises ConfigError."""
    return Resources(loaded.settings.keys.prefix, open_sealer(loaded), catalog)


def decide_as_stored(loaded: Loaded) -> Decided:
    """What a gateway that started now would have on: by the settings, and by what administrators have stored.

    Makes no database where there is none. Raises ConfigError.
    """
    if not (loaded.settings.storage.data_dir.expanduser() / DATABASE_FILE).exists():
        return decide(loaded)
    with _open_stores(loaded) as stores:
        return _decide(loaded, stores)


def _decide(loaded: Loaded, stores: Stores) -> Decided:
    return decide(loaded, stored_at(utc_ms(), stores.rules.load(), stores.providers))


@contextmanager
def _open_stores(loaded: Loaded) -> Iterator[Stores]:
    settings = loaded.settings
    data_dir = settings.storage.data_dir.expanduser()
    database = open_database(data_dir, settings.storage.synchronous)
    try:
        yield open_stores(database, data_dir, settings.keys.prefix, master_key(loaded))
    finally:
        database.close()
