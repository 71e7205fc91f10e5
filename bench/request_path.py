"""Path length of one embeddings request: files of the package it crosses, and Python and C calls it makes.

A gateway of this process serves real sockets; the upstream is a process of its own. A thread sends plain requests of
three kinds one after the other: new texts, each a cache miss and one provider call, answered in base64 or as floats,
and one text that is in the cache. `sys.setprofile` counts on the event loop's thread, once all is warm. Counts do not
depend on machine load; `python -m bench` measures time.

    python -m bench.request_path --files

`request_path.json` beside this file has the calls of each kind, by version of Python. `--check`, which the suite runs,
fails when a request makes over 5 % more; `--store` writes what was counted in their place.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import statistics
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Literal, get_args

import orjson
import uvloop

import embedgate
from bench import targets, upstream
from bench.processes import Cores
from embedgate.server.serve import bind, serve
from embedgate.wiring import open_gateway

Kind = Literal["miss", "miss_floats", "hit"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FIGURES = Path(__file__).with_suffix(".json")
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
"""Versions differ in what is a call: from 3.12 on, comprehensions are none."""
_OURS = f"{Path(embedgate.__file__).parent}{os.sep}"
_WARMUP_REQUESTS = 50
_MOST_OF_STORED = 1.05
_CALLS_PROVIDER = "build_streamed"
"""What the connection pool calls of the HTTP library."""
_TIMEOUT_S = 60


class Calls:
    """Counts calls on one thread, between `start` and `stop`. Resuming a coroutine counts as a call."""

    def __init__(self) -> None:
        """Start at zero."""
        self.by_file: Counter[str] = Counter()
        self.by_function: Counter[str] = Counter()
        self.n_python = 0
        self.n_c = 0
        self.nested: list[str] = []
        """The functions of ours that wait for the provider, each called by the one before it."""
        self.each: list[int] = []
        """Of each request."""

    @property
    def typical(self) -> int:
        """The calls of one request that waits no more than it has to: one in ten makes fewer.

        Others resume a dozen coroutines once more, because an answer came in two pieces, or have a timer beside them.
        """
        return int(statistics.quantiles(self.each, n=10)[0])

    def start(self) -> None:
        """Count the calls of this thread from now on."""
        sys.setprofile(self._see)

    def stop(self) -> None:
        """Stop counting."""
        sys.setprofile(None)

    def _see(self, frame: FrameType, event: str, function: Any) -> None:
        if event == "call":
            code = frame.f_code
            self.n_python += 1
            self.by_file[code.co_filename] += 1
            self.by_function[f"{code.co_filename}:{code.co_qualname}"] += 1
        elif event == "c_call":
            self.n_c += 1
            if not self.nested and function.__name__ == _CALLS_PROVIDER:
                self.nested = _functions_of_ours(frame)
            self.by_function[f"{frame.f_code.co_filename}:{frame.f_code.co_name} -> {function.__qualname__}"] += 1


def _functions_of_ours(frame: FrameType | None) -> list[str]:
    """Our functions on the stack, the outermost first, each with its file."""
    found: list[str] = []
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(_OURS):
            found.insert(0, f"{code.co_filename.removeprefix(_OURS)}:{code.co_qualname}")
        frame = frame.f_back
    return found


def count(requests: int, kinds: tuple[Kind, ...] = KINDS) -> dict[Kind, Calls]:
    """The calls that so many requests of each kind make, one after the other."""
    calls = {kind: Calls() for kind in kinds}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="embedgate-path-")))
        running = stack.enter_context(targets.running_upstream(Cores.all_for_everyone(), folder))
        file = folder / "embedgate.toml"
        file.write_text(targets.forwarding(running.port), encoding="utf-8")
        uvloop.run(_serve(folder, file, requests, calls))
    return calls


def stored() -> Mapping[Kind, int] | None:
    """The calls of each kind that are stored for this version of Python; None if there are none."""
    found: Mapping[Kind, int] | None = orjson.loads(FIGURES.read_bytes()).get(PYTHON)
    return found


def store(calls: Mapping[Kind, Calls]) -> None:
    """Store what was counted in place of the figures of this version of Python."""
    figures = orjson.loads(FIGURES.read_bytes())
    figures[PYTHON] = {kind: counted.typical for kind, counted in calls.items()}
    FIGURES.write_bytes(orjson.dumps(figures, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + b"\n")


def faults(calls: Mapping[Kind, Calls]) -> list[str]:
    """What is wrong with what was counted, in a line each: calls that are over 5 % more than is stored."""
    known = stored()
    if known is None:
        return []
    return [
        f"{kind}: a request makes {counted.typical} calls, over 5 % more than the {known[kind]} that are stored for "
        f"Python {PYTHON}. `python -m bench.request_path --functions` says where they are. If what they do is worth "
        "its cost to every request, store the new figures with `python -m bench.request_path --store`."
        for kind, counted in calls.items()
        if counted.typical > known[kind] * _MOST_OF_STORED
    ]


async def _serve(folder: Path, file: Path, requests: int, calls: Mapping[Kind, Calls]) -> None:
    gateway = await open_gateway(targets.settings_of(folder, file), is_server=True)
    listener = bind("127.0.0.1", 0)
    loop = asyncio.get_running_loop()
    failures: list[BaseException] = []

    def drive() -> None:
        try:
            key = (folder / "data" / "user.key").read_text(encoding="utf-8").strip()
            for kind, counted in calls.items():
                _send(listener.getsockname()[1], key, kind, requests, counted, loop)
        except BaseException as fault:  # noqa: BLE001 - raised again below, on the main thread
            failures.append(fault)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=drive)
    await serve(gateway, listener, None, lambda _: thread.start())
    thread.join()
    if failures:
        raise failures[0]


def _send(port: int, key: str, kind: Kind, requests: int, calls: Calls, loop: asyncio.AbstractEventLoop) -> None:
    """Send requests over one connection: first those that warm up, then those that are counted."""
    with socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_S) as connection:
        before = 0
        for number in range(_WARMUP_REQUESTS + requests):
            if number == _WARMUP_REQUESTS:
                loop.call_soon_threadsafe(calls.start)
            _ask(connection, key, kind, number)
            if number >= _WARMUP_REQUESTS:
                seen = calls.n_python + calls.n_c
                calls.each.append(seen - before)
                before = seen
        loop.call_soon_threadsafe(calls.stop)


def _ask(connection: socket.socket, key: str, kind: Kind, number: int) -> None:
    """One request, in one piece as clients send it, and its whole answer."""
    text = f"{kind} {number}, never sent before" if kind != "hit" else "sent again and again"
    encoding = "float" if kind == "miss_floats" else "base64"
    body = orjson.dumps({"model": upstream.MODEL, "input": text, "encoding_format": encoding})
    connection.sendall(
        b"POST %s HTTP/1.1\r\nhost: localhost\r\naccept-encoding: identity\r\nauthorization: Bearer %s\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
        % (targets.PATH.encode(), key.encode(), len(body), body)
    )
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += _received(connection)
    head, _, content = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(f"the gateway answered {answer[:400]!r}")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(content) < length:
        content += _received(connection)


def _received(connection: socket.socket) -> bytes:
    received = connection.recv(1 << 16)
    if not received:
        raise RuntimeError("the gateway closed the connection")
    return received


def main() -> int:
    """Count, and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m bench.request_path", description="The way of one request.")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--kinds", default=",".join(KINDS), help="those to count: miss, miss_floats, hit")
    parser.add_argument("--files", action="store_true", help="list the files, with the calls in each")
    parser.add_argument("--functions", action="store_true", help="list the functions, with the calls of each")
    parser.add_argument("--nested", action="store_true", help="list the functions that wait for the provider")
    parser.add_argument("--check", action="store_true", help="fail if a request makes over 5 %% more than is stored")
    parser.add_argument("--store", action="store_true", help="store the figures that the test compares with")
    options = parser.parse_args()
    wanted = options.kinds.split(",")
    found = count(options.requests, tuple(kind for kind in KINDS if options.store or kind in wanted))
    for kind, calls in found.items():
        _report(kind, calls, options)
    if options.store:
        store(found)
    wrong = faults(found) if options.check else []
    for fault in wrong:
        print(fault)
    return 1 if wrong else 0


def _report(kind: Kind, calls: Calls, options: argparse.Namespace) -> None:
    requests = options.requests
    # At least half of the requests: what happens once a second is not part of the path.
    ours = {name: n for name, n in calls.by_file.items() if name.startswith(_OURS) and n > requests / 2}
    print(f"{kind}")
    print(f"  files of ours   {len(ours)}")
    print(f"  Python calls    {calls.n_python / requests:.0f}, of ours {sum(ours.values()) / requests:.0f}")
    print(f"  C calls         {calls.n_c / requests:.0f}")
    print(f"  calls           {calls.typical}")
    if options.nested:
        print("\n".join(f"nested {function}" for function in calls.nested))
    if options.files:
        for name, n in sorted(ours.items(), key=lambda pair: -pair[1]):
            print(f"{n / requests:8.1f}  {name.removeprefix(_OURS)}")
    if options.functions:
        for name, n in calls.by_function.most_common():
            if n > requests / 2:
                print(f"{n / requests:8.1f}  {name.removeprefix(_OURS)}")


if __name__ == "__main__":
    sys.exit(main())
