"""What operations need besides the database: the clock, the catalogue, what seals and hashes secrets.

Each is made once for a process, by whoever puts it together.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from embedgate.catalog import Catalog
from embedgate.core.clock import utc_ms
from embedgate.govern.failed_logins import FailedLogins
from embedgate.govern.passwords import PasswordHashes
from embedgate.storage.sealing import Sealer


@dataclass(frozen=True, slots=True)
class Resources:
    """Safe to share between threads.

    key_prefix: start of new keys. sealer: for the keys of providers. catalog: gives the one in force, with the prices
    of administrators. now_ms: UTC milliseconds.
    """

    key_prefix: str
    sealer: Sealer
    catalog: Callable[[], Catalog]
    now_ms: Callable[[], int] = utc_ms
    passwords: PasswordHashes = field(default_factory=PasswordHashes)
    failed_logins: FailedLogins = field(default_factory=FailedLogins)
