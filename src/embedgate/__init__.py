"""embedgate: self-hosted, OpenAI-compatible gateway to every text-embedding model.

The public names of the package. Each is imported when it is first used: `import embedgate` loads no numpy and no HTTP
code.
"""

from typing import TYPE_CHECKING

from embedgate.core.lazy import imported_on_use
from embedgate.core.version import VERSION

if TYPE_CHECKING:
    from embedgate.client import Client
    from embedgate.core.errors import (
        ConfigError,
        GatewayError,
        GatewayRefused,
        InvalidInput,
        MalformedRequest,
        UpstreamError,
        UpstreamFailed,
        UpstreamGarbled,
        UpstreamTimeout,
    )
    from embedgate.core.ports import CallLimits, Embedder
    from embedgate.toolkit.embedders import ClientEmbedder, FakeEmbedder, LocalEmbedder, OpenAIEmbedder
    from embedgate.user_sdk import AsyncUserSDK, UserSDK

__all__ = [
    "AsyncUserSDK",
    "CallLimits",
    "Client",
    "ClientEmbedder",
    "ConfigError",
    "Embedder",
    "FakeEmbedder",
    "GatewayError",
    "GatewayRefused",
    "InvalidInput",
    "LocalEmbedder",
    "MalformedRequest",
    "OpenAIEmbedder",
    "UpstreamError",
    "UpstreamFailed",
    "UpstreamGarbled",
    "UpstreamTimeout",
    "UserSDK",
    "__version__",
]

__version__ = VERSION

_HOMES = {
    **dict.fromkeys(__all__, "embedgate.core.errors"),
    "AsyncUserSDK": "embedgate.user_sdk",
    "CallLimits": "embedgate.core.ports",
    "Client": "embedgate.client",
    "ClientEmbedder": "embedgate.toolkit.embedders",
    "Embedder": "embedgate.core.ports",
    "FakeEmbedder": "embedgate.toolkit.embedders",
    "LocalEmbedder": "embedgate.toolkit.embedders",
    "OpenAIEmbedder": "embedgate.toolkit.embedders",
    "UserSDK": "embedgate.user_sdk",
}
"""Where each is defined: error classes, but for those that are named here."""

if not TYPE_CHECKING:  # a type checker that saw this would take any name for a public one
    __getattr__ = imported_on_use(__name__, _HOMES)


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted({*globals(), *__all__})
