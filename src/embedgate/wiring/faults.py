"""Whether a gateway could go on with rules that an administrator is about to store. Opens nothing, stores nothing."""

from collections.abc import Sequence

from embedgate.administration import FindFaults
from embedgate.config import Loaded
from embedgate.core.access import Rules
from embedgate.core.clock import utc_ms
from embedgate.core.errors import ConfigError, DependencyMissing
from embedgate.inference.runtime import LocalModels
from embedgate.providers import hosts
from embedgate.storage.providers import SqlProviders
from embedgate.wiring.decide import decide
from embedgate.wiring.storage import stored_at


def fault_finder(loaded: Loaded, local_models: LocalModels | None = None) -> FindFaults:
    """Finds what would keep a gateway of these settings from starting. local_models: those that are open already."""

    def find(rules: Rules, providers: SqlProviders) -> Sequence[str]:
        try:
            decided = decide(loaded, stored_at(utc_ms(), rules, providers), local_models)
        except ConfigError as error:
            return error.mistakes
        if not decided.switched_on:
            return ("no provider would be on",)
        return [fault for name, in_use in decided.hosts.items() if (fault := _missing(name, in_use.host))]

    return find


def _missing(name: str, host: hosts.Host) -> str | None:
    try:
        hosts.vendor(host)
    except DependencyMissing as error:
        return f"providers.{name}: {error.message}"
    return None
