"""Metrics in the Prometheus text format: counters, histograms, gauges. Labels are bounded by the catalogue.

Counting happens on the event loop's thread, many times per request, so it is plain arithmetic on dictionaries; the
library's own counters take a lock each time. The library writes the text for each scrape. Names follow the
Prometheus conventions: base units, `_total` for counters.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from embedgate.core.access import Period
from embedgate.core.money import PICODOLLARS_PER_DOLLAR
from embedgate.core.types import CacheStats, LedgerEntry

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_LATENCY_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)


class _Counter:
    """Counter: a number per label values that only grows."""

    def __init__(self, name: str, text: str, *labels: str) -> None:
        self.name, self._text, self._labels = f"embedgate_{name}", text, labels
        self.values: defaultdict[tuple[str, ...], float] = defaultdict(float)
        _kept.append(self)

    def family(self) -> Metric:
        family = CounterMetricFamily(self.name, self._text, labels=self._labels)
        for labels, value in list(self.values.items()):
            family.add_metric(labels, value)
        return family


class _Histogram:
    """Histogram: counts per bucket, and the sum of values, per label value."""

    def __init__(self, name: str, text: str, label: str, buckets: Sequence[float]) -> None:
        self._name, self._text, self._label = f"embedgate_{name}", text, label
        self._buckets = buckets
        self._counts: defaultdict[str, list[int]] = defaultdict(lambda: [0] * (len(buckets) + 1))
        self._sums: defaultdict[str, float] = defaultdict(float)
        _kept.append(self)

    def observe(self, *values: tuple[str, float]) -> None:
        """values: each with its label."""
        for label, value in values:
            self._counts[label][bisect_left(self._buckets, value)] += 1
            self._sums[label] += value

    def family(self) -> Metric:
        family = HistogramMetricFamily(self._name, self._text, labels=[self._label])
        for label, counts in list(self._counts.items()):
            total = 0
            buckets: list[tuple[str, float]] = []
            for limit, count in zip((*map(str, self._buckets), "+Inf"), counts, strict=True):
                total += count
                buckets.append((limit, total))
            family.add_metric([label], buckets, self._sums[label])
        return family


_kept: list[_Counter | _Histogram] = []
"""Every counter and histogram, in the order in which they are written."""
_requests = _Counter("requests", "Requests, by API and how they ended.", "dialect", "outcome")
_request_s = _Histogram("request_seconds", "Seconds of a request, up to its ledger entry.", "dialect", _LATENCY_S)
_stage_s = _Histogram("stage_seconds", "Seconds of a request by stage.", "stage", _LATENCY_S)
_inputs = _Counter("inputs", "Inputs of answered requests.", "model")
_tokens = _Counter("tokens", "Tokens of answered requests: billed input, reused input, output.", "source")
_looked_up = _Counter("cache_lookups", "Inputs looked up in the cache.", "result")
_joined = _Counter("joined_inputs", "Inputs that shared another request's call (single flight).")
_calls = _Counter("provider_calls", "Calls to providers, by how they ended.", "provider", "outcome")
_call_s = _Histogram("provider_call_seconds", "Seconds of a provider call.", "provider", _LATENCY_S)
_call_inputs = _Histogram("provider_call_inputs", "Inputs of a provider call.", "provider", _SIZES)
_bad_answers = _Counter("bad_answers", "Invalid answers of providers, which were not used.", "provider")
_hedges = _Counter("hedged_calls", "Hedged calls, by which route answered first.", "result")
_idempotent = _Counter("idempotent_requests", "Requests with an idempotency key, by what came of it.", "result")
_estimated = _Counter("estimated_dollars", "Dollars charged by estimate: no bill came back for a call.", "provider")
_works: dict[tuple[str, str], bool] = {}
_drifted: dict[tuple[str, str], bool] = {}
_credential_blocks = _Counter("credential_blocks", "Times a credential was taken out of use.", "credential", "reason")
_credential_refusals = _Counter("credential_refusals", "Calls refused by the limits of a credential.", "credential")
_credential_waiting: defaultdict[str, int] = defaultdict(int)
_dropped = _Counter("dropped_calls", "Calls and requests that left a queue with their callers.", "queue")
_queue_refusals = _Counter("provider_queue_refusals", "Calls refused as too many waited for a place.", "provider")
_provider_waiting: defaultdict[str, int] = defaultdict(int)
_provider_waiting_bytes: defaultdict[str, int] = defaultdict(int)
_summed_refusals = _Counter("summed_refusals", "Refusals that are counted in an event of the audit trail.")
_reloads = _Counter("reloads", "Reloads of the settings (SIGHUP), by how they ended.", "result")
_shed = _Counter("shed_requests", "Requests refused because the event loop was late.")
_lag = {"s": 0.0, "sheds": 0, "waiting": 0}
_doubted = _Counter("doubted_usage", "Calls of which the provider reported more than they can have used.", "provider")
_running = {"now": 0}
_ledger = {"writable": 1}
_lost = _Counter("lost_records", "Entries and events that could not be stored; the log has them.", "record")
_retired = _Counter("retired_records", "Records that were deleted because of their age.", "record")
_disk: dict[str, int] = {}
_budgets_near_cap: dict[str, int] = {}
_connections: dict[str, int] = {}
_policy_failures = _Counter("policy_failures", "Policies that could not be evaluated for a request.", "effect")
_memory = {"used": 0, "limit": 0}
_memory_cut = _Counter("memory_cuts", "Slow callers who were cut because memory was short.")
_memory_share_refused = _Counter("memory_share_refusals", "Requests refused because their user held its share.")
_memory_refused = _Counter("memory_refusals", "Requests refused because others held the memory budget.")
_admin_refused = _Counter("administration_refusals", "Requests to the administration API refused as too many waited.")
_turned_away = _Counter("connections_turned_away", "Connections that were refused or cut, by the reason.", "reason")


def request_began() -> None:
    """Count a request as in progress."""
    _running["now"] += 1


def request_ended(dialect: str, outcome: str, total_s: float) -> None:
    """Count the end of a request. outcome: `ok` or an error code."""
    _running["now"] -= 1
    _requests.values[dialect, outcome] += 1
    _request_s.observe((dialect, total_s))


def answered(entry: LedgerEntry, authenticate_s: float, admit_s: float, upstream_s: float) -> None:
    """Count the usage and stage durations of an answered request. Its model is an id of the catalogue."""
    _inputs.values[entry.model,] += entry.items
    _tokens.values["billed",] += entry.tokens
    _tokens.values["reused",] += entry.reused_tokens
    if entry.output_tokens:
        _tokens.values["output",] += entry.output_tokens
    _stage_s.observe(("authenticate", authenticate_s), ("admit", admit_s), ("upstream", upstream_s))


def looked_up(hits: int, misses: int) -> None:
    """Count cache hits and misses."""
    _looked_up.values["hit",] += hits
    _looked_up.values["miss",] += misses


def joined() -> None:
    """Count an input that shared another request's call (single flight)."""
    _joined.values[()] += 1


def provider_call(provider: str, outcome: str, n_inputs: int, spent_s: float) -> None:
    """Count a provider call that ended. outcome: `ok`, `bad_answer` or an error code."""
    _calls.values[provider, outcome] += 1
    _call_s.observe((provider, spent_s))
    _call_inputs.observe((provider, n_inputs))
    if outcome == "bad_answer":
        _bad_answers.values[provider,] += 1


def hedged(is_won: bool) -> None:
    """Count a hedged call. is_won: the second route answered first."""
    _hedges.values["won" if is_won else "lost",] += 1


def estimated(provider: str, cost_picodollars: int) -> None:
    """Count what is charged for a provider call by estimate."""
    _estimated.values[provider,] += cost_picodollars / PICODOLLARS_PER_DOLLAR


def route_works(model: str, provider: str, *, works: bool) -> None:
    """Set whether a route gets requests, or is bypassed because it fails."""
    _works[model, provider] = works


def route_forgotten(model: str, provider: str) -> None:
    """Remove a route whose state is not known any more."""
    _works.pop((model, provider), None)


def routes_checked(drifted: Mapping[tuple[str, str], bool]) -> None:
    """Set the drift state of the routes that were checked last, by model and provider."""
    _drifted.clear()
    _drifted.update(drifted)


def policies_failed(*, forbids: int, permits: int) -> None:
    """Count policies that could not be evaluated: forbids, which refuse then, and permits, which do not apply."""
    for effect, n in (("forbid", forbids), ("permit", permits)):
        if n:
            _policy_failures.values[effect,] += n


def credential_blocked(credential: str, reason: str) -> None:
    """Count a credential of a provider that is not used for a while. reason: `limit` or `key`."""
    _credential_blocks.values[credential, reason] += 1


def credential_waits(credential: str, change: int) -> None:
    """Change the number of calls that wait for the rate limit of a credential."""
    _credential_waiting[credential] += change


def credential_refused(credential: str) -> None:
    """Count a call refused by the rate limits of a credential."""
    _credential_refusals.values[credential,] += 1


def idempotent(result: str) -> None:
    """Count a request with an idempotency key. result: `new`, `replayed`, `in_progress`, `reused` or `not_kept`."""
    _idempotent.values[result,] += 1


def ledger_writable(*, is_writable: bool) -> None:
    """Set whether the ledger can be written."""
    _ledger["writable"] = int(is_writable)


def record_lost(record: str) -> None:
    """Count an entry that could not be stored, and is only in the log. record: `ledger` or `audit`."""
    _lost.values[record,] += 1


def records_retired(record: str, n: int) -> None:
    """Count what was deleted because of its age. record: `audit`."""
    _retired.values[record,] += n


def disk_now(free_bytes: int, database_bytes: int) -> None:
    """Set how much is free on the disk of the data folder, and how much the database takes, its log included."""
    _disk.update(free=free_bytes, database=database_bytes)


def budgets_now(near_cap: Mapping[Period, int]) -> None:
    """Set how many budgets are nearly used up, by their period."""
    _budgets_near_cap.update(near_cap.items())


def connections_now(by_state: Mapping[str, int]) -> None:
    """Set how many connections of callers are in each state."""
    _connections.clear()
    _connections.update(by_state)


def turns_now(waiting: int) -> None:
    """Set how much of what callers sent waits for its turn on the event loop."""
    _lag["waiting"] = waiting


def memory_now(used_bytes: int, limit_bytes: int) -> None:
    """Set how much of the memory budget requests hold."""
    _memory.update(used=used_bytes, limit=limit_bytes)


def memory_cut() -> None:
    """Count a slow caller who was cut because memory was short."""
    _memory_cut.values[()] += 1


def memory_share_refused() -> None:
    """Count a request that was refused because its user held its share of the memory budget."""
    _memory_share_refused.values[()] += 1


def memory_refused() -> None:
    """Count a request that was refused because others held the memory budget."""
    _memory_refused.values[()] += 1


def administration_refused() -> None:
    """Count a request to the administration API that was refused because too many wait."""
    _admin_refused.values[()] += 1


def connections_turned_away(reason: str, n: int) -> None:
    """Count connections that were refused or cut."""
    _turned_away.values[reason,] += n


def call_dropped(queue: str) -> None:
    """Count what left a queue because nobody waits for it any more. queue: admission, batch, credential or place."""
    _dropped.values[queue,] += 1


def provider_waits(provider: str, calls: int, size_bytes: int) -> None:
    """Change the number and the bytes of the calls that wait for a place at a provider."""
    _provider_waiting[provider] += calls
    _provider_waiting_bytes[provider] += size_bytes


def provider_queue_refused(provider: str) -> None:
    """Count a call that was refused because too many wait for a place at its provider."""
    _queue_refusals.values[provider,] += 1


def refusal_summed() -> None:
    """Count a refusal that has no event of its own in the audit trail."""
    _summed_refusals.values[()] += 1


def reloaded(result: str) -> None:
    """Count a reload of the settings. result: `ok` or `failed`."""
    _reloads.values[result,] += 1


def request_shed() -> None:
    """Count a request that was refused because the event loop was late."""
    _shed.values[()] += 1


def loop_lag(lag_s: float) -> None:
    """Set how late the event loop is."""
    _lag["s"] = lag_s


def shedding(*, is_shedding: bool) -> None:
    """Set whether new requests are refused because the event loop is late."""
    _lag["sheds"] = int(is_shedding)


def usage_doubted(provider: str) -> None:
    """Count a call of which the provider reports more than it can have used."""
    _doubted.values[provider,] += 1


class _Now(Collector):
    """Collector of the current values."""

    def __init__(self, cache: CacheStats | None) -> None:
        self._cache = cache

    def collect(self) -> Iterator[Metric]:
        return families(self._cache)


def families(cache: CacheStats | None) -> Iterator[Metric]:
    """Every metric with its current values. cache: its statistics, None without a cache."""
    for kept in _kept:
        yield kept.family()
    yield GaugeMetricFamily("embedgate_requests_running", "Requests in progress.", value=_running["now"])
    yield GaugeMetricFamily("embedgate_loop_lag_seconds", "How late the event loop is.", value=_lag["s"])
    yield GaugeMetricFamily("embedgate_turns_waiting", "Requests waiting for a turn.", value=_lag["waiting"])
    yield GaugeMetricFamily("embedgate_shedding", "1 while new requests are refused as it is.", value=_lag["sheds"])
    writable = _ledger["writable"]
    yield GaugeMetricFamily("embedgate_ledger_writable", "1 while the ledger can be written.", value=writable)
    yield _by("what", "embedgate_disk_bytes", "Disk of the data folder: free, and the database.", _disk)
    yield _by("period", "embedgate_budgets_near_cap", "Budgets used to 80 % or more.", _budgets_near_cap)
    yield _by("what", "embedgate_memory_bytes", "Memory budget of requests.", _memory)
    yield _by("state", "embedgate_connections", "Connections of callers.", _connections)
    yield _by("credential", "embedgate_credential_waiting", "Calls waiting for room.", _credential_waiting)
    yield from _before_the_rename()
    yield _by("provider", "embedgate_provider_waiting", "Calls waiting for a place.", _provider_waiting)
    yield _by("provider", "embedgate_provider_waiting_bytes", "Bytes of these calls.", _provider_waiting_bytes)
    yield _of_routes("embedgate_route_works", "1 for a route that gets requests.", _works)
    yield _of_routes("embedgate_route_drift", "1 for a route with drift.", _drifted)
    if cache is not None:
        yield from _cache_families(cache)


def _before_the_rename() -> Iterator[Metric]:
    """The metrics of credentials under the names of the release before, for dashboards; gone with the next release."""
    yield _by("account", "embedgate_account_waiting", "Now embedgate_credential_waiting.", _credential_waiting)
    for name, labels, now in (
        ("account_blocks", ["account", "reason"], _credential_blocks),
        ("limit_refusals", ["account"], _credential_refusals),
    ):
        text = f"Now {now.name}_total."
        family = CounterMetricFamily(f"embedgate_{name}", text, labels=labels)
        for values, n in list(now.values.items()):
            family.add_metric(values, n)
        yield family


def _by(label: str, name: str, text: str, values: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for each, n in list(values.items()):
        family.add_metric([each], n)
    return family


def _of_routes(name: str, text: str, values: Mapping[tuple[str, str], bool]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["model", "provider"])
    for place, value in list(values.items()):
        family.add_metric(place, value)
    return family


def _cache_families(cache: CacheStats) -> Iterator[Metric]:
    entries = GaugeMetricFamily("embedgate_cache_entries", "Vectors in the cache.", labels=["tier"])
    size = GaugeMetricFamily("embedgate_cache_bytes", "Bytes of the vectors in the cache.", labels=["tier"])
    hits = CounterMetricFamily("embedgate_cache_hits", "Inputs found, by tier.", labels=["tier"])
    for name, tier in (("memory", cache.memory), ("disk", cache.disk)):
        entries.add_metric([name], tier.entries)
        size.add_metric([name], tier.size_bytes)
        hits.add_metric([name], tier.hits)
    yield from (entries, size, hits)
    yield GaugeMetricFamily("embedgate_cache_json_bytes", "Bytes of the JSON of vectors.", cache.texts.size_bytes)
    yield CounterMetricFamily("embedgate_cache_json_hits", "Vectors whose JSON was there.", cache.texts.hits)


def text(cache: CacheStats | None) -> bytes:
    """The metrics in the Prometheus text format. cache: its statistics, None without a cache."""
    registry = CollectorRegistry()
    registry.register(_Now(cache))
    return generate_latest(registry)
