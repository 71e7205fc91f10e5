"""Scenario C: latency that the gateway adds to the first token of a streamed chat, and its memory for a long one.

The upstream streams as a model does, an event every two milliseconds. The same call is made to it and through the
gateway, one at a time, over a kept connection each. They take turns like the targets of other scenarios; the figure is
the difference of the medians.
"""

import contextlib
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import orjson

from bench import chat_upstream, processes, targets
from bench.processes import Cores, NotStarted, Program, free_port, program
from bench.runner import Effort, NotMeasured, Say

_PATH = "/v1/chat/completions"
_PACED_EVENTS, _GAP_US = 5, 2_000
_DIRECT_SHARE = 0.25
"""Of the time of a round: the upstream alone varies little."""
_LONG_EVENTS_PER_S = 100_000
"""Events of the long stream, for each second of the effort: some 20 MB."""
_TIMEOUT_S = 120
_RECEIVE_BYTES = 1 << 18


class Chat(msgspec.Struct, frozen=True):
    """Result of scenario C; `note` says why it is missing. Milliseconds are to the first event of an answer.

    added_ms: by the gateway, the median of the rounds. grown_bytes: peak resident memory during a stream
    of long_bytes, minus that before.
    """

    calls: int = 0
    direct_p50_ms: float = 0.0
    gateway_p50_ms: float = 0.0
    added_ms: float = 0.0
    added_p99_ms: float = 0.0
    rounds: tuple[float, ...] = ()
    long_bytes: int = 0
    long_bytes_per_s: float = 0.0
    before_bytes: int = 0
    grown_bytes: int = 0
    note: str = ""


class _Caller:
    """Caller with one keep-alive connection."""

    def __init__(self, port: int, headers: Mapping[str, str], model: str) -> None:
        self._connection = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_S)
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._model = model

    def close(self) -> None:
        """Close it."""
        self._connection.close()

    def first_event_ms(self) -> float:
        """Time from a call to the first event of its answer, which is then read to its end. Raises NotMeasured."""
        request = self._request(_PACED_EVENTS, _GAP_US)
        began_s = time.perf_counter()
        self._connection.sendall(request)
        received = b""
        while b"\ndata: " not in received:
            received += self._receive()
        spent_s = time.perf_counter() - began_s
        if not received.startswith(b"HTTP/1.1 200 "):
            raise NotMeasured(f"answered with {received[:200].decode(errors='replace')}")
        while not received.endswith(b"0\r\n\r\n"):
            received = received[-5:] + self._receive()
        return spent_s * 1000

    def read_long(self, events: int) -> int:
        """Read a long stream and discard it. Returns its bytes. Raises NotMeasured."""
        self._connection.sendall(self._request(events, 0))
        n_bytes, end = 0, b""
        while not end.endswith(b"0\r\n\r\n"):
            piece = self._receive()
            n_bytes += len(piece)
            end = (end + piece)[-5:]
        return n_bytes

    def _receive(self) -> bytes:
        piece = self._connection.recv(_RECEIVE_BYTES)
        if not piece:
            raise NotMeasured("the connection ended in the middle of an answer")
        return piece

    def _request(self, events: int, gap_us: int) -> bytes:
        messages = [{"role": "user", "content": "Say as many words as you can, one after the other, and then stop."}]
        asked = {"model": self._model, "messages": messages, "stream": True, "max_tokens": events, "seed": gap_us}
        body = orjson.dumps(asked)
        head = f"POST {_PATH} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n{self._headers}"
        return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


@contextlib.contextmanager
def _upstream(cores: Cores, folder: Path) -> Iterator[Program]:
    port = free_port()
    command = [sys.executable, "-m", "bench.chat_upstream", "--port", str(port)]
    with program(
        command, port, folder / "upstream.log", cores=cores.upstream, timeout_s=targets.START_TIMEOUT_S
    ) as running:
        yield running


def run(cores: Cores, effort: Effort, say: Say) -> Chat:
    """Measure the gateway beside its upstream. say: takes lines of progress."""
    try:
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="embedgate-bench-")))
            upstream = stack.enter_context(_upstream(cores, folder))
            settings = targets.forwarding(upstream.port)
            model = f"openai/{chat_upstream.MODEL}"
            gateway = stack.enter_context(targets.embedgate(folder / "embedgate", cores, settings, model))
            direct = stack.enter_context(contextlib.closing(_Caller(upstream.port, {}, chat_upstream.MODEL)))
            through = stack.enter_context(contextlib.closing(_Caller(gateway.port, gateway.headers, model)))
            stack.enter_context(processes.on_cores(cores.load))
            assert gateway.program is not None
            return _measured(direct, through, processes.family(gateway.program.pid), effort, say)
    except (NotStarted, NotMeasured, OSError) as error:
        return Chat(note=str(error))


def _measured(direct: _Caller, through: _Caller, gateway_pids: list[int], effort: Effort, say: Say) -> Chat:
    plain: list[float] = []
    served: list[float] = []
    rounds: list[float] = []
    _times_ms(through, effort.warmup_s)
    for turn in range(effort.rounds):
        say(f"C  first token, round {turn + 1}")
        plain_now = _times_ms(direct, effort.seconds * _DIRECT_SHARE)
        served_now = _times_ms(through, effort.seconds)
        rounds.append(statistics.median(served_now) - statistics.median(plain_now))
        plain += plain_now
        served += served_now
    say("C  long stream")
    through.read_long(int(_LONG_EVENTS_PER_S * effort.warmup_s))
    before_bytes = processes.memory_bytes(gateway_pids)
    processes.forget_peak(gateway_pids)
    began_s = time.perf_counter()
    long_bytes = through.read_long(int(_LONG_EVENTS_PER_S * effort.seconds))
    spent_s = time.perf_counter() - began_s
    return Chat(
        calls=len(served),
        direct_p50_ms=statistics.median(plain),
        gateway_p50_ms=statistics.median(served),
        added_ms=statistics.median(rounds),
        added_p99_ms=_p99(served) - _p99(plain),
        rounds=tuple(rounds),
        long_bytes=long_bytes,
        long_bytes_per_s=long_bytes / spent_s,
        before_bytes=before_bytes,
        grown_bytes=processes.peak_memory_bytes(gateway_pids) - before_bytes,
    )


def _times_ms(caller: _Caller, seconds: float) -> list[float]:
    """Times to the first event, of calls one after the other."""
    times_ms: list[float] = []
    until_s = time.perf_counter() + seconds
    while not times_ms or time.perf_counter() < until_s:
        times_ms.append(caller.first_event_ms())
    return times_ms


def _p99(times_ms: list[float]) -> float:
    return sorted(times_ms)[len(times_ms) * 99 // 100]
