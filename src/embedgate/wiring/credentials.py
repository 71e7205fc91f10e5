"""Opens a provider over HTTP: a driver and a meter for each of its keys, one cap for all of them."""

from embedgate.core.ports import Tokenizers
from embedgate.engine.upstream.credentials import Credential, Credentials
from embedgate.engine.upstream.limits import CredentialLimits, QueueLimits
from embedgate.govern.selection import HostInUse
from embedgate.providers import hosts
from embedgate.settings import Settings
from embedgate.transport import CallTimeouts, ConcurrencyLimit, Endpoint, HttpDriver, QueueBounds


def open_credentials(in_use: HostInUse, settings: Settings, tokenizers: Tokenizers) -> Credentials:
    """The provider, ready to be called; opens no connection. Raises DependencyMissing."""
    vendor = hosts.vendor(in_use.host)
    upstream = settings.upstream
    concurrency = ConcurrencyLimit(
        in_use.max_parallel, QueueBounds(upstream.max_queued_calls, upstream.max_queued_bytes)
    )
    queue = QueueLimits(upstream.max_limit_wait_s, upstream.max_limit_waiting)
    timeouts = CallTimeouts(upstream.attempt_timeout_s, upstream.completion_timeout_s, upstream.stream_idle_timeout_s)

    def credential(endpoint: Endpoint) -> Credential:
        limits = CredentialLimits(
            endpoint.provider,
            queue,
            requests_per_minute=in_use.requests_per_minute,
            tokens_per_minute=in_use.tokens_per_minute,
        )
        return Credential(HttpDriver(vendor, endpoint, settings.transport, concurrency, timeouts), limits)

    each = [credential(endpoint) for endpoint in in_use.endpoints]
    return Credentials(each, tokenizers, max_retry_after_s=upstream.max_retry_after_s)
