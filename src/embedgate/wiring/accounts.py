"""Opens a provider over HTTP: a driver and a meter for each of its keys, one cap for all of them."""

from embedgate.core.ports import Tokenizers
from embedgate.engine.upstream.credentials import Account, Accounts
from embedgate.engine.upstream.limits import AccountMeter, LineLimits
from embedgate.providers import hosts
from embedgate.settings import Settings
from embedgate.transport import Endpoint, HttpDriver, Places
from embedgate.wiring.decide import HostInUse


def open_accounts(in_use: HostInUse, settings: Settings, tokenizers: Tokenizers) -> Accounts:
    """The provider, ready to be called; opens no connection. Raises DependencyMissing."""
    vendor = hosts.vendor(in_use.host)
    places = Places(in_use.max_parallel)
    line = LineLimits(settings.upstream.max_limit_wait_s, settings.upstream.max_limit_waiting)

    def account(endpoint: Endpoint) -> Account:
        meter = AccountMeter(
            endpoint.provider,
            line,
            requests_per_minute=in_use.requests_per_minute,
            tokens_per_minute=in_use.tokens_per_minute,
        )
        return Account(HttpDriver(vendor, endpoint, settings.transport, places), meter)

    return Accounts([account(endpoint) for endpoint in in_use.endpoints], tokenizers)
