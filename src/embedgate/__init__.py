"""embedgate: self-hosted, OpenAI-compatible gateway to every text-embedding model.

The public names of the package. Each is imported when it is first used: `import embedgate` loads no numpy and no HTTP
code.
"""

import importlib
from typing import TYPE_CHECKING

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

__all__ = [
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
    "__version__",
]

__version__ = VERSION

_HOMES = {
    "CallLimits": "embedgate.core.ports",
    "Client": "embedgate.client",
    "ClientEmbedder": "embedgate.toolkit.embedders",
    "Embedder": "embedgate.core.ports",
    "FakeEmbedder": "embedgate.toolkit.embedders",
    "LocalEmbedder": "embedgate.toolkit.embedders",
    "OpenAIEmbedder": "embedgate.toolkit.embedders",
}


if not TYPE_CHECKING:  # a type checker that saw this would take any name for a public one

    def __getattr__(name: str) -> object:
        """A public name, imported when it is first used (PEP 562). What is not in `_HOMES` is an error class."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(_HOMES.get(name, "embedgate.core.errors")), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted({*globals(), *__all__})
