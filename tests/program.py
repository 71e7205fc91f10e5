"""One run of the command line, as the tests see it. The fixture that runs it is in `cli/conftest.py`."""

from collections.abc import Callable
from dataclasses import dataclass

FAKE_ONLY = """
    [providers.local]
    enabled = false
    [providers.fake]
    enabled = true
    [local]
    default_model = "fake/deterministic"
"""


@dataclass(frozen=True)
class Ended:
    """How a run of the program ended."""

    code: int
    output: bytes
    errors: str

    @property
    def text(self) -> str:
        """Standard output."""
        return self.output.decode()


Program = Callable[..., Ended]
"""Runs `embedgate` with arguments; `stdin=b"..."` is what is piped into it."""

AddEntries = Callable[..., None]
"""Writes entries into the ledger, each given as a dict of the fields that differ from those of a small request."""
