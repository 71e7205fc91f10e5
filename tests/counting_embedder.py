"""An embedder that keeps what it was asked for, and records to ask it with."""

from collections.abc import Sequence

from embedgate.core.errors import InvalidInput, UpstreamFailed
from embedgate.core.ports import CallLimits
from embedgate.core.types import InputType
from embedgate.core.vectors import Vectors
from embedgate.toolkit import FakeEmbedder, Origin, Record


class Counting(FakeEmbedder):
    """Keeps what it was asked for; fails at a text named `fail`."""

    def __init__(self, dim: int = 16, limits: CallLimits | None = None) -> None:
        super().__init__(dim)
        self.limits = limits or CallLimits()
        self.asked: list[str] = []
        self.kinds: set[InputType | None] = set()

    @property
    def call_limits(self) -> CallLimits:
        return self.limits

    def embed(self, texts: Sequence[str], input_type: InputType | None = None) -> Vectors:
        if "fail" in texts:
            raise UpstreamFailed("it failed")
        if "bad" in texts:
            raise InvalidInput("is bad", index=list(texts).index("bad"))
        self.asked += texts
        self.kinds.add(input_type)
        return super().embed(texts, input_type) * 3  # not of unit length


def records(*texts: str, source: str = "a.txt") -> list[Record]:
    """Lines of a file, numbered by their metadata."""
    return [
        Record(f"{source}:{number}", text, Origin(source, number), number - 1, {"n": number})
        for number, text in enumerate(texts, start=1)
    ]
