"""What operations need besides the database: the clock, what seals and hashes secrets, and the gateway around them.

Each is made once for a process, by whoever puts it together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Never

import sqlalchemy as sa

from embedgate.catalog import Catalog
from embedgate.core.access import AuditEvent, BudgetState
from embedgate.core.clock import utc_ms
from embedgate.core.errors import InternalError
from embedgate.core.models import Model
from embedgate.core.types import CacheStats, EmbedResult
from embedgate.engine.routing.compare import Verdict
from embedgate.govern.failed_logins import FailedLogins
from embedgate.govern.found_models import ModelsThere, Probed
from embedgate.govern.passwords import PasswordHashes
from embedgate.govern.selection import Selection
from embedgate.settings import OwnKeySettings
from embedgate.storage.sealing import Sealer


def _no_gateway(*_: object) -> Never:
    raise InternalError("There is no gateway yet.")


@dataclass(frozen=True, slots=True)
class CacheAccess:
    """The vector cache. stats: what it holds, None without one. clear: forgets all of it, and raises InternalError."""

    stats: Callable[[], CacheStats | None]
    clear: Callable[[], None]
    max_memory_bytes: int
    max_disk_bytes: int


@dataclass(frozen=True, slots=True)
class GatewayAccess:
    """What operations need a gateway for: the one that they run in, or one on the same data folder.

    selection: what is in force; in a command, what a gateway would have on. Raises ConfigError where none could start.
    decide: what a gateway would have on with what a transaction sees stored. Raises ConfigError with every mistake.
    try_provider: embeds a word with a provider, and with a model if one is named. Raises a GatewayError. It may take
    as long as any request. budget_states: where the budgets in use stand; none in a command, which serves nobody.
    list_models: those of a provider's server. probe_model: what a model of it is like. Both raise a GatewayError.
    is_summed: whether a failed login is counted in an event of others like it; else it needs one of its own.
    verify: the verdicts on the routes of each model; it takes two requests for each route.
    """

    selection: Callable[[], Selection]
    decide: Callable[[sa.Connection], Selection]
    try_provider: Callable[[str, str | None], EmbedResult]
    cache: CacheAccess
    budget_states: Callable[[], Sequence[BudgetState]] = tuple
    list_models: Callable[[str], ModelsThere] = _no_gateway
    probe_model: Callable[[str, str], Probed] = _no_gateway
    is_summed: Callable[[AuditEvent], bool] = lambda _: False
    verify: Callable[[Sequence[Model]], Sequence[Sequence[Verdict]]] = _no_gateway


NO_GATEWAY = GatewayAccess(_no_gateway, _no_gateway, _no_gateway, CacheAccess(_no_gateway, _no_gateway, 0, 0))
"""Where operations run before a gateway can be: none of them may need it."""


@dataclass(frozen=True, slots=True)
class Resources:
    """Safe to share between threads.

    key_prefix: start of new keys; accepted_prefixes: of other keys that can be imported whole. sealer: for the keys of
    providers. catalog: gives the one in force, with the prices of administrators. now_ms: UTC milliseconds.
    is_emergency: as setting access.is_emergency says. own_keys: what users who log in may make for
    themselves. max_aliases: of models, as catalog.max_aliases says.
    """

    key_prefix: str
    sealer: Sealer
    catalog: Callable[[], Catalog]
    now_ms: Callable[[], int] = utc_ms
    passwords: PasswordHashes = field(default_factory=PasswordHashes)
    failed_logins: FailedLogins = field(default_factory=FailedLogins)
    gateway: GatewayAccess = NO_GATEWAY
    is_emergency: bool = False
    accepted_prefixes: tuple[str, ...] = ()
    own_keys: OwnKeySettings = field(default_factory=OwnKeySettings)
    max_aliases: int = 1_000
