"""Scenarios of the benchmark: each a list of loads, and the variants of the gateway that it compares.

Data only. How a scenario is run is in `runner.py`; the local model has scenarios of its own in `local.py`.
"""

from dataclasses import dataclass

from bench import upstream
from bench.load import Stream
from bench.targets import BATCHING_SETTING, CACHE_SETTING, OURS
from bench.texts import Encoding, Kind, Texts

_BASE64_BYTES_PER_VECTOR = upstream.DIM * 16 // 3
_FLOAT_BYTES_PER_VECTOR = upstream.DIM * 4
_BIG_BATCH = 2048


@dataclass(frozen=True, slots=True)
class Load:
    """Load pattern. The first stream is the one that is reported.

    only_hits: nothing may reach the upstream while a gateway is measured.
    """

    name: str
    streams: tuple[Stream, ...]
    warmup_requests: int = 0
    only_hits: bool = False

    @property
    def measured(self) -> Stream:
        """The stream whose figures are reported."""
        return self.streams[0]


@dataclass(frozen=True, slots=True)
class Variant:
    """Variant of the gateway: a set of settings.

    provider_settings: TOML lines for the provider. switch: a setting, as `section.field`, and whether it is on; a
    version that does not know the setting counts as having it off. has_rules: with policies, limits and budgets.
    """

    name: str = OURS
    provider_settings: str = ""
    switch: tuple[str, bool] | None = None
    has_rules: bool = False


@dataclass(frozen=True, slots=True)
class Scenario:
    """Loads that are measured on the same started targets.

    upstream_latency_ms: of every call. fills_cache: every text is sent once, then once more after each new start.
    runs_peers: whether peers have what is measured.
    """

    id: str
    title: str
    loads: tuple[Load, ...]
    variants: tuple[Variant, ...] = (Variant(),)
    upstream_latency_ms: float = 0.0
    fills_cache: bool = False
    runs_peers: bool = True


def _stream(
    connections: int,
    inputs: int = 1,
    encoding: Encoding = "float",
    kind: Kind = "fresh",
    *,
    distinct: int = 256,
    label: str = "",
) -> Stream:
    per_vector = _BASE64_BYTES_PER_VECTOR if encoding == "base64" else _FLOAT_BYTES_PER_VECTOR
    texts = Texts(inputs=inputs, kind=kind, distinct=distinct)
    return Stream(label, upstream.MODEL, texts, encoding, connections, inputs * per_vector)


def _levels(inputs: int, encoding: Encoding, levels: tuple[int, ...]) -> tuple[Load, ...]:
    return tuple(Load(f"{encoding}, c{level}", (_stream(level, inputs, encoding),)) for level in levels)


def _hits(encoding: Encoding, inputs: int, kind: Kind, connections: int) -> Load:
    stream = _stream(connections, inputs, encoding, kind)
    warmup_requests = stream.texts.distinct + connections
    return Load(f"{encoding}, c{connections}", (stream,), warmup_requests, only_hits=kind == "repeated")


_CACHED = (Variant(switch=(CACHE_SETTING, True)),)
_SLOW_CALLS = "max_parallel = 4\n"
_ONE_SMALL = _stream(4, encoding="base64", label="small")

SCENARIOS = (
    Scenario("S1", "One text, one vector of 1,536 as numbers", _levels(1, "float", (1, 16, 64))),
    Scenario("S2", "One text, one vector of 1,536 as base64", _levels(1, "base64", (1, 16, 64))),
    Scenario("S3", "64 texts in one request", (*_levels(64, "float", (1, 16)), *_levels(64, "base64", (1, 16)))),
    Scenario(
        "S4", "2,048 texts in one request", (*_levels(_BIG_BATCH, "float", (1,)), *_levels(_BIG_BATCH, "base64", (1,)))
    ),
    Scenario(
        "H1",
        "One text that the cache holds in memory",
        (_hits("float", 1, "repeated", 16), _hits("base64", 1, "repeated", 16)),
        _CACHED,
        runs_peers=False,
    ),
    Scenario(
        "H2",
        "One text that the cache holds on disk: the first time after a start",
        (Load("base64, c16", (_stream(16, 1, "base64", "repeated", distinct=20_000),), only_hits=True),),
        _CACHED,
        fills_cache=True,
        runs_peers=False,
    ),
    Scenario(
        "H3",
        "64 texts in one request, half of them in the cache",
        (_hits("float", 64, "half", 4), _hits("base64", 64, "half", 4)),
        _CACHED,
        runs_peers=False,
    ),
    Scenario(
        "M",
        "64 callers of one text each, an upstream that takes 50 ms and 4 calls at once",
        (Load("base64, c64", (_stream(64, encoding="base64"),)),),
        (
            Variant(f"{OURS}, not batching", _SLOW_CALLS, (BATCHING_SETTING, False)),
            Variant(f"{OURS}, batching", _SLOW_CALLS, (BATCHING_SETTING, True)),
        ),
        upstream_latency_ms=50.0,
        runs_peers=False,
    ),
    Scenario(
        "A",
        "With a policy that reads the request, limits and budgets in force",
        (*_levels(1, "float", (64,)), *_levels(1, "base64", (64,)), _hits("base64", 1, "repeated", 16)),
        (Variant(), Variant(f"{OURS}, with rules", has_rules=True)),
        runs_peers=False,
    ),
    Scenario(
        "P",
        "Small requests while 2,048 texts are asked for over and over",
        (
            Load("base64, c4, alone", (_ONE_SMALL,)),
            Load("base64, c4, beside", (_ONE_SMALL, _stream(1, _BIG_BATCH, "base64", label="big"))),
        ),
    ),
)
