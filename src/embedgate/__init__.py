"""embedgate: one OpenAI-compatible door to every text-embedding model."""

from typing import TYPE_CHECKING

from embedgate.core.version import VERSION

if TYPE_CHECKING:
    from embedgate.client import Client

__all__ = ["Client", "__version__"]

__version__ = VERSION


def __getattr__(name: str) -> object:
    """`Client`, imported when it is first asked for: the package itself loads no HTTP code."""
    if name != "Client":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from embedgate.client import Client

    return Client
