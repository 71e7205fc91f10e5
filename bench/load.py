"""Load generator: keeps connections busy and measures every answer. A separate process that reads its job from stdin.

A connection sends its next request as soon as the answer to the last is complete (a closed loop), so a slow server is
called less often than a fast one. Answers are read to their end and counted, not parsed: `verify` has checked one
of each kind before. Requests in flight are finished before a phase ends.
"""

import asyncio
import http.client
import sys
import time
from collections.abc import Iterator
from typing import cast

import msgspec
import numpy as np
import orjson
import uvloop

from bench import processes
from bench.texts import Encoding, Texts, bodies

_END_OF_HEAD = b"\r\n\r\n"
_ERRORS_KEPT = 5
_ERRORS_BEFORE_GIVING_UP = 50


class Stream(msgspec.Struct, frozen=True):
    """Connections that all send the same kind of request. min_body_bytes: an answer below that is an error."""

    label: str
    model: str
    texts: Texts
    encoding: Encoding
    connections: int
    min_body_bytes: int


class Job(msgspec.Struct, frozen=True):
    """One measurement.

    warmup_s, warmup_requests: before measuring, per stream; both must be reached. max_requests: measuring ends with
    that many, if not earlier after `seconds`. pid: of the server, for its costs. count_port: of the upstream.
    """

    port: int
    path: str
    headers: dict[str, str]
    streams: tuple[Stream, ...]
    seconds: float
    warmup_s: float = 0.5
    warmup_requests: int = 0
    max_requests: int | None = None
    pid: int | None = None
    upstream_pid: int | None = None
    count_port: int | None = None


class StreamResult(msgspec.Struct, frozen=True):
    """Result of one stream. `errors` holds the first few of `n_errors`; times are of successful answers."""

    label: str
    requests: int
    n_errors: int
    errors: tuple[str, ...]
    seconds: float
    mean_ms: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    body_bytes: int


class JobResult(msgspec.Struct, frozen=True):
    """Result of a job, over the measured phase alone. CPU times are of whole process trees."""

    streams: tuple[StreamResult, ...]
    server_cpu_s: float
    upstream_cpu_s: float
    load_cpu_s: float
    peak_bytes: int
    upstream_calls: int


class _Tally:
    """Counts of one stream in one phase, and when to stop sending."""

    def __init__(self, stream: Stream, requests: Iterator[bytes], at_least: int, at_most: int) -> None:
        self.stream = stream
        self.until_s = 0.0
        self.latencies_s: list[float] = []
        self.errors: list[str] = []
        self.body_bytes = 0
        self._requests = requests
        self._at_least = at_least
        self._at_most = at_most
        self._sent = 0

    def next_request(self) -> bytes | None:
        """The next request; None when the phase is over."""
        is_over = time.perf_counter() >= self.until_s and self._sent >= self._at_least
        if is_over or self._sent >= self._at_most or len(self.errors) >= _ERRORS_BEFORE_GIVING_UP:
            return None
        self._sent += 1
        return next(self._requests)

    def result(self, seconds: float) -> StreamResult:
        """The measurements, over the length of the phase."""
        ms = np.array(self.latencies_s or [0.0]) * 1000
        p50, p99 = np.percentile(ms, [50, 99])
        return StreamResult(
            label=self.stream.label,
            requests=len(self.latencies_s),
            n_errors=len(self.errors),
            errors=tuple(self.errors[:_ERRORS_KEPT]),
            seconds=seconds,
            mean_ms=float(ms.mean()),
            p50_ms=float(p50),
            p99_ms=float(p99),
            max_ms=float(ms.max()),
            body_bytes=self.body_bytes,
        )


class Body:
    """Finds the end of an answer, of known length or chunked, as its bytes arrive, without keeping them."""

    def __init__(self) -> None:
        """Before the head of an answer."""
        self.status = 0
        self.size_bytes = 0
        self._head = b""
        self._is_chunked = False
        self._left = 0  # of the body, or of the chunk with its line end
        self._size_line = b""
        self._is_last_chunk = False

    def feed(self, data: bytes) -> bool:
        """Take bytes off the wire. Returns whether the answer is complete. Raises ValueError if it is not HTTP."""
        if not self.status:
            data = self._read_head(data)
            if not self.status:
                return False
        if self._is_chunked:
            return self._skip_chunks(data)
        self._left -= len(data)
        return self._left <= 0

    def _read_head(self, data: bytes) -> bytes:
        self._head += data
        end = self._head.find(_END_OF_HEAD)
        if end < 0:
            return b""
        head, rest = self._head[:end].lower(), self._head[end + len(_END_OF_HEAD) :]
        self.status = int(head[9:12])
        _, found, length = head.partition(b"\r\ncontent-length:")
        if found:
            self._left = self.size_bytes = int(length.partition(b"\r\n")[0])
        elif b"\r\ntransfer-encoding: chunked" in head:
            self._is_chunked = True
        else:
            raise ValueError("an answer without a length")
        return rest

    def _skip_chunks(self, data: bytes) -> bool:
        position = 0
        while position < len(data):
            if self._left:
                step = min(self._left, len(data) - position)
                position += step
                self._left -= step
                if not self._left and self._is_last_chunk:
                    return True
                continue
            end = data.find(b"\n", position)
            if end < 0:
                self._size_line += data[position:]
                return False
            size = int((self._size_line + data[position:end]).partition(b";")[0], 16)
            self._size_line = b""
            position = end + 1
            self.size_bytes += size
            self._left = size + 2
            self._is_last_chunk = size == 0
        return False


class _Connection(asyncio.Protocol):
    """One connection in one phase. `finished` is set when it has nothing left to send."""

    def __init__(self, head: bytes, tally: _Tally) -> None:
        self._head = head
        self._tally = tally
        self._body = Body()
        self._sent_s = 0.0
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def send(self) -> None:
        """Send the next request, if there is one."""
        request = self._tally.next_request()
        if request is None:
            self._transport.close()
            return
        self._body = Body()
        self._sent_s = time.perf_counter()
        self._transport.write(self._head % len(request) + request)

    def data_received(self, data: bytes) -> None:
        body, tally = self._body, self._tally
        try:
            if not body.feed(data):
                return
        except ValueError as error:
            tally.errors.append(f"not understood: {error}")
            self._transport.close()
            return
        latency_s = time.perf_counter() - self._sent_s
        if body.status != 200:
            tally.errors.append(f"status {body.status}: {data[-200:].decode(errors='replace')}")
        elif body.size_bytes < tally.stream.min_body_bytes:
            tally.errors.append(f"an answer of {body.size_bytes} bytes, expected {tally.stream.min_body_bytes} or more")
        else:
            tally.latencies_s.append(latency_s)
            tally.body_bytes = body.size_bytes
        self._sent_s = 0.0
        self.send()

    def connection_lost(self, _error: Exception | None) -> None:
        if self._sent_s:
            self._tally.errors.append("the connection was closed before the answer was complete")
        if not self.finished.done():
            self.finished.set_result(None)


def _head(job: Job) -> bytes:
    lines = [f"POST {job.path} HTTP/1.1", f"host: 127.0.0.1:{job.port}", "content-type: application/json"]
    lines += [f"{name}: {value}".replace("%", "%%") for name, value in job.headers.items()]
    return "\r\n".join([*lines, "content-length: %d", "", ""]).encode()


async def _phase(
    job: Job, sources: list[Iterator[bytes]], seconds: float, at_least: int, at_most: int | None
) -> tuple[StreamResult, ...]:
    """Keep all streams busy for `seconds` and until each sent `at_least` requests, one per connection anyway."""
    head = _head(job)
    tallies = [
        _Tally(stream, source, max(at_least, stream.connections), sys.maxsize if at_most is None else at_most)
        for stream, source in zip(job.streams, sources, strict=True)
    ]
    connections = [
        await _connected(job.port, head, tally) for tally in tallies for _ in range(tally.stream.connections)
    ]
    started_s = time.perf_counter()
    for tally in tallies:
        tally.until_s = started_s + seconds
    for connection in connections:
        connection.send()
    await asyncio.gather(*(connection.finished for connection in connections))
    took_s = time.perf_counter() - started_s
    return tuple(tally.result(took_s) for tally in tallies)


async def _connected(port: int, head: bytes, tally: _Tally) -> _Connection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: _Connection(head, tally), "127.0.0.1", port)
    return connection


async def perform(job: Job) -> JobResult:
    """Warm up, then measure."""
    sources = [bodies(stream.texts, stream.model, stream.encoding) for stream in job.streams]
    if job.warmup_s or job.warmup_requests:
        await _phase(job, sources, job.warmup_s, job.warmup_requests, None)
    server, upstream = _family(job.pid), _family(job.upstream_pid)
    processes.forget_peak(server)
    calls = upstream_calls(job.count_port)
    server_s, upstream_s, own_s = processes.cpu_s(server), processes.cpu_s(upstream), time.process_time()
    streams = await _phase(job, sources, job.seconds, 0, job.max_requests)
    return JobResult(
        streams=streams,
        server_cpu_s=processes.cpu_s(server) - server_s,
        upstream_cpu_s=processes.cpu_s(upstream) - upstream_s,
        load_cpu_s=time.process_time() - own_s,
        peak_bytes=processes.peak_memory_bytes(server),
        upstream_calls=upstream_calls(job.count_port) - calls,
    )


def _family(pid: int | None) -> list[int]:
    return [] if pid is None else processes.family(pid)


def upstream_calls(port: int | None) -> int:
    """How many embeddings calls the upstream on `port` has had; 0 without one."""
    if port is None:
        return 0
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/count")
    calls: int = orjson.loads(connection.getresponse().read())["calls"]
    connection.close()
    return calls


def main() -> None:
    """Read a job from stdin, do it, write its result to stdout, both as JSON."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(perform(job))))


if __name__ == "__main__":
    main()
