"""Path length of one embeddings request: files of the package it crosses, and Python and C calls it makes.

A gateway of this process serves real sockets; the upstream is a process of its own. A thread sends new texts one after
the other, so each is a cache miss and one provider call. `sys.setprofile` counts on the event loop's thread, once all
is warm. Counts do not depend on machine load; `python -m bench` measures time.

    python -m bench.request_path --files
"""

import argparse
import asyncio
import contextlib
import http.client
import os
import signal
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import orjson
import uvloop

import embedgate
from bench import targets, upstream
from bench.processes import Cores
from embedgate import config
from embedgate.server.serve import bind, serve
from embedgate.wiring import open_gateway

_OURS = f"{Path(embedgate.__file__).parent}{os.sep}"
_WARMUP_REQUESTS = 50


class Calls:
    """Counts calls on one thread, between `start` and `stop`. Resuming a coroutine counts as a call."""

    def __init__(self) -> None:
        """Start at zero."""
        self.by_file: Counter[str] = Counter()
        self.by_function: Counter[str] = Counter()
        self.n_c = 0

    def start(self) -> None:
        """Count the calls of this thread from now on."""
        sys.setprofile(self._see)

    def stop(self) -> None:
        """Stop counting."""
        sys.setprofile(None)

    def _see(self, frame: FrameType, event: str, function: Any) -> None:
        if event == "call":
            code = frame.f_code
            self.by_file[code.co_filename] += 1
            self.by_function[f"{code.co_filename}:{code.co_qualname}"] += 1
        elif event == "c_call":
            self.n_c += 1
            self.by_function[f"{frame.f_code.co_filename}:{frame.f_code.co_name} -> {function.__qualname__}"] += 1


def count(requests: int) -> Calls:
    """The calls that so many requests make, one after the other."""
    calls = Calls()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="embedgate-path-")))
        running = stack.enter_context(targets.running_upstream(Cores.all_for_everyone(), folder))
        file = folder / "embedgate.toml"
        file.write_text(targets.forwarding(running.port), encoding="utf-8")
        uvloop.run(_serve(folder, file, requests, calls))
    return calls


async def _serve(folder: Path, file: Path, requests: int, calls: Calls) -> None:
    environment = {
        "EMBEDGATE_DATA_DIR": str(folder / "data"),
        "EMBEDGATE_CONFIG": str(file),
        "EMBEDGATE_LOG__LEVEL": "error",
        "OPENAI_API_KEY": targets.UPSTREAM_KEY,
    }
    gateway = await open_gateway(config.load(environment=environment), is_server=True)
    listener = bind("127.0.0.1", 0)
    loop = asyncio.get_running_loop()
    faults: list[BaseException] = []

    def drive() -> None:
        try:
            _send(listener.getsockname()[1], folder / "data", requests, calls, loop)
        except BaseException as fault:  # noqa: BLE001 - raised again below, on the main thread
            faults.append(fault)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=drive)
    await serve(gateway, listener, None, lambda _: thread.start())
    thread.join()
    if faults:
        raise faults[0]


def _send(port: int, data_dir: Path, requests: int, calls: Calls, loop: asyncio.AbstractEventLoop) -> None:
    """Send requests over one connection: first those that warm up, then those that are counted."""
    key = (data_dir / "user.key").read_text(encoding="utf-8").strip()
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for number in range(_WARMUP_REQUESTS + requests):
        if number == _WARMUP_REQUESTS:
            loop.call_soon_threadsafe(calls.start)
        body = {"model": upstream.MODEL, "input": f"text {number}, never sent before", "encoding_format": "base64"}
        connection.request("POST", targets.PATH, orjson.dumps(body), headers)
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise RuntimeError(f"the gateway answered {response.status}: {answer[:200]!r}")
    loop.call_soon_threadsafe(calls.stop)
    connection.close()


def main() -> int:
    """Count, and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m bench.request_path", description="The way of one request.")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--files", action="store_true", help="list the files, with the calls in each")
    parser.add_argument("--functions", action="store_true", help="list the functions, with the calls of each")
    options = parser.parse_args()
    requests = options.requests
    calls = count(requests)
    # At least half of the requests: what happens once a second is not part of the path.
    ours = {name: n for name, n in calls.by_file.items() if name.startswith(_OURS) and n > requests / 2}
    n_python = sum(calls.by_file.values()) / requests
    print(f"files of ours   {len(ours)}")
    print(f"Python calls    {n_python:.0f}, of ours {sum(ours.values()) / requests:.0f}")
    print(f"C calls         {calls.n_c / requests:.0f}")
    print(f"all calls       {n_python + calls.n_c / requests:.0f}")
    if options.files:
        for name, n in sorted(ours.items(), key=lambda pair: -pair[1]):
            print(f"{n / requests:8.1f}  {name.removeprefix(_OURS)}")
    if options.functions:
        for name, n in calls.by_function.most_common():
            if n > requests / 2:
                print(f"{n / requests:8.1f}  {name.removeprefix(_OURS)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
