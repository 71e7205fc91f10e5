"""Large bodies: how long one request of 36 MB, or one large answer, holds the event loop.

    python -m bench.large_bodies [--kinds texts,one] [--where]

A gateway of this process serves real sockets; provider and caller are processes of their own. A task that wakes every
half millisecond sees what else the loop did meanwhile: `held` is the most processor time that the loop's thread used
between two of its turns, `late` the longest pause between them, which counts other threads that keep the interpreter,
and other work of the machine, too. Medians of the requests of each kind. `--where` lists the calls that took longer
than two milliseconds on the loop's thread, in themselves; counting makes them slower.
"""

import argparse
import asyncio
import contextlib
import http.client
import multiprocessing
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import orjson
import uvloop

from bench import targets, upstream
from bench.processes import Cores
from embedgate.server.serve import bind, serve
from embedgate.wiring import open_gateway

N_TEXTS = 2_048
TEXT_BYTES = 17_000
BODY_BYTES = 36_000_000
_TICK_S = 0.0005
_TIMEOUT_S = 300
_LONG_S = 0.002
_FREE = "BAAI/bge-m3"
_SETTINGS = """
[limits]
max_tokens = 100000000
[providers.tei]
enabled = true
base_url = "http://127.0.0.1:{port}"
models = ["BAAI/bge-m3"]
"""
Asked = tuple[str, dict[str, Any]]
"""The path and the body of a request."""


def _texts(filling: str, number: int) -> list[str]:
    n = TEXT_BYTES // len(filling.encode())
    return [f"~{number}.{position} " + filling * n for position in range(N_TEXTS)]


def _embed(given: Any, **others: Any) -> Asked:
    return targets.PATH, {"model": upstream.MODEL, "input": given, "encoding_format": "base64"} | others


KINDS: Mapping[str, Callable[[int], Asked]] = {
    "small": lambda number: _embed(f"~{number}"),
    "texts": lambda number: _embed(_texts("word ", number)),
    "wide": lambda number: _embed(_texts("word word word \N{GRINNING FACE} ", number)),
    "escaped": lambda number: _embed(_texts("a line of text\n", number)),
    "options": lambda number: _embed(_texts("word ", number), allow_space_change=False),
    "one": lambda number: _embed(f"~{number} " + "word " * (BODY_BYTES // 5)),
    "one wide": lambda number: _embed(f"~{number} " + "word \N{GRINNING FACE}" * (BODY_BYTES // 9)),
    "ids": lambda number: _embed([number, *range(299_999)]),
    "lists": lambda number: _embed([[number, *range(145)] for _ in range(N_TEXTS)]),
    "rerank": lambda number: (
        "/v1/rerank",
        {"model": "BAAI/bge-reranker-v2-m3", "query": f"{number}", "documents": _texts("word ", number)[:1000]},
    ),
    "chat": lambda number: (
        "/v1/chat/completions",
        {
            "model": "openai/gpt-4o-mini",
            "messages": [{"role": "user", "content": f"{number} " + "word " * 1_000_000} for _ in range(7)],
        },
    ),
    "answer": lambda number: _embed([f"~{number}.{position}" for position in range(N_TEXTS)]),
    "kept answer": lambda _: _embed([f"~0.{position}" for position in range(N_TEXTS)]),
    "numbers": lambda number: _embed([f"~{number}.{at}" for at in range(N_TEXTS)], encoding_format="float"),
}


class Probe:
    """Watches the loop that it runs on."""

    def __init__(self) -> None:
        """Nothing seen yet."""
        self.held_s = self.late_s = 0.0

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            used_s, began_s = time.thread_time(), time.perf_counter()
            await asyncio.sleep(_TICK_S)
            self.held_s = max(self.held_s, time.thread_time() - used_s)
            self.late_s = max(self.late_s, time.perf_counter() - began_s - _TICK_S)

    def begin(self) -> None:
        """Forget what was seen."""
        self.held_s = self.late_s = 0.0


class Where:
    """Calls that take long in themselves, on the thread that starts it."""

    def __init__(self) -> None:
        """Nothing seen yet."""
        self.found: Counter[str] = Counter()
        self._open: list[list[float]] = []

    def see(self, frame: FrameType, event: str, function: Any) -> None:
        """For `sys.setprofile`."""
        now_s = time.thread_time()
        if event in ("call", "c_call"):
            self._open.append([now_s, 0.0])
            return
        if not self._open:
            return
        began_s, inside_s = self._open.pop()
        if self._open:
            self._open[-1][1] += now_s - began_s
        if (own_s := now_s - began_s - inside_s) > _LONG_S:
            code = frame.f_code
            name = f"{Path(code.co_filename).name}:{frame.f_lineno} {code.co_qualname}"
            if event == "c_return":
                name += f" -> {getattr(function, '__qualname__', function)}"
            self.found[name] = max(self.found[name], int(own_s * 1e6))


async def _serve(folder: Path, file: Path, kinds: list[str], requests: int, *, where: bool) -> None:
    gateway = await open_gateway(targets.settings_of(folder, file), is_server=True)
    listener = bind("127.0.0.1", 0)
    loop = asyncio.get_running_loop()
    probe, tracer = Probe(), Where()
    watching = loop.create_task(probe.run())
    ours, theirs = multiprocessing.get_context("spawn").Pipe()

    def drive() -> None:
        key = (folder / "data" / "user.key").read_text(encoding="utf-8").strip()
        context = multiprocessing.get_context("spawn")
        caller = context.Process(target=_call, args=(theirs, listener.getsockname()[1], key), daemon=True)
        caller.start()
        try:
            if where:
                loop.call_soon_threadsafe(sys.setprofile, tracer.see)
            for kind in kinds:
                held, late, took, status = [], [], [], 0
                for number in range(requests + 1):
                    ours.send((kind, number))
                    ours.recv()
                    probe.begin()
                    if number < 2:
                        tracer.found.clear()
                    ours.send("go")
                    status, took_s = ours.recv()
                    if number:
                        held.append(probe.held_s)
                        late.append(probe.late_s)
                        took.append(took_s)
                figures = " | ".join(f"{statistics.median(each) * 1e3:.1f}" for each in (held, late, took))
                print(f"| {kind} | {status} | {figures} |", flush=True)
                if where:
                    for name, took_us in tracer.found.most_common(12):
                        print(f"    {took_us / 1e3:8.1f} ms  {name}")
        finally:
            ours.send(None)
            caller.join()
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=drive)
    try:
        await serve(gateway, listener, None, lambda _: thread.start())
    finally:
        watching.cancel()
        thread.join()


def _call(pipe: Any, port: int, key: str) -> None:
    """Prepare and send the requests that are asked for."""
    while (asked := pipe.recv()) is not None:
        kind, number = asked
        path, fields = KINDS[kind](number)
        body = orjson.dumps(fields)
        pipe.send(len(body))
        pipe.recv()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
        headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
        began_s = time.perf_counter()
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200 and number == 0:
            print(kind, answer.status, content[:300], file=sys.stderr)
        pipe.send((answer.status, time.perf_counter() - began_s))
        connection.close()


def main() -> int:
    """Measure as the command line says. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.large_bodies", description="Holds of the event loop.")
    parser.add_argument("--requests", type=int, default=5, help="of each kind, after one that warms up; 5 by default")
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"of {', '.join(KINDS)}")
    parser.add_argument("--where", action="store_true", help="list the calls that took long")
    options = parser.parse_args()
    print("| kind | status | held, ms | late, ms | took, ms |\n|---|---|---|---|---|")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="embedgate-bodies-")))
        running = stack.enter_context(targets.running_upstream(Cores.all_for_everyone(), folder))
        file = folder / "embedgate.toml"
        file.write_text(targets.forwarding(running.port) + _SETTINGS.format(port=running.port), encoding="utf-8")
        uvloop.run(_serve(folder, file, options.kinds.split(","), options.requests, where=options.where))
    return 0


if __name__ == "__main__":
    sys.exit(main())
