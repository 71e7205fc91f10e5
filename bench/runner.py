"""Scenario runner: starts the processes, drives every target in turns, and takes the median of the rounds.

The speed of a shared machine varies, so each round drives all targets one after the other.
"""

import contextlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import msgspec

from bench import targets, upstream
from bench.load import Job, JobResult, Stream
from bench.peers import PEERS
from bench.processes import Cores, NotStarted, Program, family, memory_bytes, on_cores
from bench.scenarios import Load, Scenario, Variant
from bench.targets import DIRECT, Target, WrongAnswer

_JOB_TIMEOUT_S = 240
_NUMBERS_PER_JOB = 10_000_000
"""More than any job sends, so that no two jobs have a fresh text in common."""
_jobs = count(1)

Say = Callable[[str], None]


class NotMeasured(Exception):
    """A load could not be completed; the message says why."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long and how often to measure."""

    seconds: float
    warmup_s: float
    rounds: int


class Sample(msgspec.Struct, frozen=True):
    """Figures of one round, or the medians of several. None where a figure does not apply.

    load_busy_share: utilisation of the core that load and upstream share; near 1, they were the limit.
    """

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us_per_request: float | None
    peak_bytes: int | None
    upstream_calls_per_request: float | None
    load_busy_share: float


class Row(msgspec.Struct, frozen=True):
    """Result of one target under one load: the medians of its rounds; `note` says why they are missing.

    idle_bytes: resident memory of a gateway before its first request.
    """

    scenario: str
    load: str
    target: str
    version: str
    idle_bytes: int | None = None
    median: Sample | None = None
    rounds: tuple[Sample, ...] = ()
    note: str = ""


def run(
    scenario: Scenario, peers: Sequence[str], cores: Cores, effort: Effort, say: Say, against: Path | None = None
) -> list[Row]:
    """Measure one scenario on the upstream itself, the gateway, and the named peers.

    say: takes lines of progress. against: checkout of another version of the gateway, measured beside this one.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="embedgate-bench-")))
        running = stack.enter_context(targets.running_upstream(cores, folder, scenario.upstream_latency_ms))
        stage = _Stage(cores, effort, running, folder)
        entries = [_Entry(DIRECT, lambda: contextlib.nullcontext(targets.direct(running)))]
        entries += [stage.ours(variant, position) for position, variant in enumerate(scenario.variants)]
        if against is not None:
            entries += [stage.ours(variant, position, against) for position, variant in enumerate(scenario.variants)]
        entries += [stage.peer(name) for name in (peers if scenario.runs_peers else ())]
        if scenario.fills_cache:
            return [row for load in scenario.loads for row in stage.measure_restarted(scenario.id, load, entries, say)]
        for entry in entries:
            entry.start(stack)
        return [row for load in scenario.loads for row in stage.measure(scenario.id, load, entries, say)]


class _Entry:
    """A target of one scenario, started on demand. After a failure it is not tried again under that load."""

    def __init__(
        self, name: str, starting: Callable[[], contextlib.AbstractContextManager[Target]], absent: str = ""
    ) -> None:
        """absent: why it cannot be started at all."""
        self.name = name
        self.absent = absent
        self._starting = starting
        self.target: Target | None = None
        self.idle_bytes: int | None = None

    def start(self, stack: contextlib.ExitStack) -> None:
        """Start it, until the stack is closed; or note why it does not."""
        self.target = None
        if self.absent:
            return
        try:
            self.target = stack.enter_context(self._starting())
        except NotStarted as error:
            self.absent = f"did not start: {error}"
            return
        if self.target.program is not None:
            self.idle_bytes = memory_bytes(family(self.target.program.pid))


class _Stage:
    """The upstream of one scenario, and how its targets are driven."""

    def __init__(self, cores: Cores, effort: Effort, running: Program, folder: Path) -> None:
        self._cores = cores
        self._effort = effort
        self._upstream = running
        self._folder = folder

    def ours(self, variant: Variant, position: int, checkout: Path | None = None) -> _Entry:
        """The gateway with the settings of a variant. checkout: of another version; this one if absent."""
        name = f"{variant.name} of {checkout.name}" if checkout else variant.name
        folder = self._folder / name.replace(" ", "-") / str(position)
        settings = targets.forwarding(self._upstream.port, variant.provider_settings, variant.switch)
        absent = ""
        if variant.switch is not None and variant.switch[1] and not targets.has_setting(variant.switch[0]):
            absent = f"not available: this version has no setting {variant.switch[0]}"
        return _Entry(
            name,
            lambda: targets.embedgate(
                folder,
                self._cores,
                settings,
                upstream.MODEL,
                name,
                has_rules=variant.has_rules,
                checkout=checkout,
            ),
            absent,
        )

    def peer(self, name: str) -> _Entry:
        """Another gateway."""
        return _Entry(name, lambda: PEERS[name](self._folder / name, self._cores, self._upstream.port))

    def measure(self, scenario: str, load: Load, entries: Sequence[_Entry], say: Say) -> list[Row]:
        """Started targets under one load, in turns."""
        collected = _Collected(entries)
        for turn in range(self._effort.rounds):
            for entry in collected.left():
                assert entry.target is not None
                say(f"{scenario}  {load.name}  {entry.name}, round {turn + 1}")
                with collected.noting(entry):
                    if turn == 0:
                        verify(entry.target, load.measured)
                    collected.add(entry, load, self._sample(entry.target, load, warmup_s=self._effort.warmup_s))
        return collected.rows(scenario, load)

    def measure_restarted(self, scenario: str, load: Load, entries: Sequence[_Entry], say: Say) -> list[Row]:
        """Targets that are sent every text once, and again once after each start."""
        collected = _Collected(entries)
        each_once = load.measured.texts.distinct
        for turn in range(self._effort.rounds + 1):
            for entry in collected.left():
                say(f"{scenario}  {load.name}  {entry.name}, " + (f"round {turn}" if turn else "filling the cache"))
                with collected.noting(entry), contextlib.ExitStack() as stack:
                    entry.start(stack)
                    if entry.target is None:
                        raise NotMeasured(entry.absent)
                    sample = self._sample(
                        entry.target, load, warmup_s=0, max_requests=each_once, seconds=_JOB_TIMEOUT_S
                    )
                    if turn:
                        collected.add(entry, load, sample)
        return collected.rows(scenario, load)

    def _sample(
        self,
        target: Target,
        load: Load,
        *,
        warmup_s: float,
        max_requests: int | None = None,
        seconds: float | None = None,
    ) -> Sample:
        job = Job(
            port=target.port,
            path=targets.PATH,
            headers=dict(target.headers),
            streams=tuple(fresh(stream, target.model) for stream in load.streams),
            seconds=self._effort.seconds if seconds is None else seconds,
            warmup_s=warmup_s,
            warmup_requests=load.warmup_requests,
            max_requests=max_requests,
            pid=target.program.pid if target.program else None,
            upstream_pid=self._upstream.pid,
            count_port=self._upstream.port,
        )
        return sample_of(perform(job, self._cores), has_gateway=target.program is not None)


class _Collected:
    """The samples of one load, and who has failed."""

    def __init__(self, entries: Sequence[_Entry]) -> None:
        self._entries = entries
        self._samples: dict[str, list[Sample]] = {entry.name: [] for entry in entries}
        self._notes = {entry.name: entry.absent for entry in entries if entry.absent}

    def left(self) -> list[_Entry]:
        """Those that have not failed."""
        return [entry for entry in self._entries if entry.name not in self._notes]

    @contextlib.contextmanager
    def noting(self, entry: _Entry) -> Iterator[None]:
        """Note a failure inside instead of raising it."""
        try:
            yield
        except (NotMeasured, WrongAnswer) as error:
            self._notes[entry.name] = str(error)

    def add(self, entry: _Entry, load: Load, sample: Sample) -> None:
        """One more round of a target. Raises NotMeasured if it asked the upstream for what it should have known."""
        calls = sample.upstream_calls_per_request
        if load.only_hits and entry.name != DIRECT and calls:
            raise NotMeasured(f"not only hits: {calls:.2f} calls per request reached the upstream")
        self._samples[entry.name].append(sample)

    def rows(self, scenario: str, load: Load) -> list[Row]:
        """One row per target."""
        rows = []
        for entry in self._entries:
            samples = tuple(self._samples[entry.name])
            rows.append(
                Row(
                    scenario=scenario,
                    load=load.name,
                    target=entry.name,
                    version=entry.target.version if entry.target else "",
                    idle_bytes=entry.idle_bytes,
                    median=median(samples) if samples else None,
                    rounds=samples,
                    note=self._notes.get(entry.name, ""),
                )
            )
        return rows


def fresh_number() -> int:
    """First number of fresh texts, far from those of every other call."""
    return next(_jobs) * _NUMBERS_PER_JOB


def verify(target: Target, stream: Stream) -> None:
    """One request of the kind that a stream sends, compared number by number. Raises WrongAnswer."""
    targets.verify(target, stream.texts.inputs, stream.encoding, fresh_number())


def fresh(stream: Stream, model: str) -> Stream:
    """The same stream for a model, with texts that no call before has sent."""
    texts = msgspec.structs.replace(stream.texts, first_number=fresh_number())
    return msgspec.structs.replace(stream, model=model, texts=texts)


def perform(job: Job, cores: Cores) -> JobResult:
    """Run a job in a process of its own. Raises NotMeasured."""
    with on_cores(cores.load):
        worker = subprocess.Popen(
            [sys.executable, "-m", "bench.load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    try:
        output, faults = worker.communicate(msgspec.json.encode(job), timeout=_JOB_TIMEOUT_S + job.seconds)
    except subprocess.TimeoutExpired as error:
        raise NotMeasured(f"no end after {_JOB_TIMEOUT_S + job.seconds:g} s") from error
    finally:
        worker.kill()
        worker.communicate()
    if worker.returncode:
        lines = faults.decode(errors="replace").strip().splitlines()
        raise NotMeasured(lines[-1] if lines else f"the load ended with status {worker.returncode}")
    return msgspec.json.decode(output, type=JobResult)


def sample_of(result: JobResult, *, has_gateway: bool) -> Sample:
    """The figures of the first stream. Raises NotMeasured if anything went wrong in any stream."""
    for stream in result.streams:
        if stream.n_errors:
            raise NotMeasured(f"{stream.n_errors} of {stream.requests + stream.n_errors} failed: {stream.errors[0]}")
    first = result.streams[0]
    # Costs cannot be told apart between streams that run at once.
    is_alone = len(result.streams) == 1
    return Sample(
        requests_per_s=first.requests / first.seconds,
        p50_ms=first.p50_ms,
        p99_ms=first.p99_ms,
        cpu_us_per_request=result.server_cpu_s / first.requests * 1e6 if has_gateway and is_alone else None,
        peak_bytes=result.peak_bytes if has_gateway else None,
        upstream_calls_per_request=result.upstream_calls / first.requests if is_alone else None,
        load_busy_share=(result.load_cpu_s + result.upstream_cpu_s) / first.seconds,
    )


def median(samples: Sequence[Sample]) -> Sample:
    """The median of every figure; None where a figure does not apply."""
    columns = {name: [getattr(sample, name) for sample in samples] for name in Sample.__struct_fields__}
    middle = {name: None if None in values else statistics.median(values) for name, values in columns.items()}
    return msgspec.convert(middle, Sample, strict=False)
