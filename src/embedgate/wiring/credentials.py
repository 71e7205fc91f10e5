"""Opens a provider over HTTP: a driver and a meter for each of its keys, one cap for all of them."""

from embedgate.core.ports import Tokenizers
from embedgate.engine.upstream.credentials import Credential, Credentials
from embedgate.engine.upstream.limits import CredentialLimits, QueueLimits
from embedgate.govern.selection import HostInUse
from embedgate.providers import hosts
from embedgate.settings import Settings
from embedgate.transport import ConcurrencyLimit, Endpoint, HttpDriver


def open_credentials(in_use: HostInUse, settings: Settings, tokenizers: Tokenizers) -> Credentials:
    """The provider, ready to be called; opens no connection. Raises DependencyMissing."""
    vendor = hosts.vendor(in_use.host)
    concurrency = ConcurrencyLimit(in_use.max_parallel)
    queue = QueueLimits(settings.upstream.max_limit_wait_s, settings.upstream.max_limit_waiting)

    def credential(endpoint: Endpoint) -> Credential:
        limits = CredentialLimits(
            endpoint.provider,
            queue,
            requests_per_minute=in_use.requests_per_minute,
            tokens_per_minute=in_use.tokens_per_minute,
        )
        return Credential(HttpDriver(vendor, endpoint, settings.transport, concurrency), limits)

    return Credentials([credential(endpoint) for endpoint in in_use.endpoints], tokenizers)
