"""Profile of the gateway's own CPU time: requests driven through the application in this process, without sockets.

Prints the CPU per request without a profiler, and the shares in a deterministic profile of the parts of the
program and its functions. A profiler slows calls down, so its shares are useful and its absolute times are not.

    python -m bench.own_time --texts new
"""

import argparse
import asyncio
import cProfile
import pstats
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import orjson
import uvloop
from rich.console import Console
from rich.table import Table

from embedgate import config
from embedgate.server.app import Application
from embedgate.wiring import open_gateway

CALLERS = 64
_MODEL = "fake/deterministic"
_WARMUP_REQUESTS = 20
_FUNCTIONS_SHOWN = 30
_SETTINGS = {"EMBEDGATE_PROVIDERS__FAKE__ENABLED": "true", "EMBEDGATE_PROVIDERS__LOCAL__ENABLED": "false"}


async def drive(texts: str, requests: int, profiler: cProfile.Profile | None) -> float:
    """Serve that many requests for CALLERS at once. texts: `new`, `uncached` or `repeated`. Returns CPU µs for each."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **_SETTINGS,
            "EMBEDGATE_DATA_DIR": folder,
            "EMBEDGATE_LOG__LEVEL": "error",
            "EMBEDGATE_CACHE__ENABLED": str(texts != "uncached").lower(),
        }
        gateway = await open_gateway(config.load(environment=environment))
        application = Application(gateway)
        key = (await asyncio.to_thread(Path(folder, "user.key").read_text, encoding="utf-8")).strip().encode()
        headers = [(b"authorization", b"Bearer " + key), (b"content-type", b"application/json")]

        async def caller(number: int, n: int) -> None:
            for position in range(n):
                text = (
                    "the same text" if texts == "repeated" else f"text {position} of caller {number}, never sent before"
                )
                await _ask(application, headers, text)

        await asyncio.gather(*(caller(CALLERS + number, _WARMUP_REQUESTS) for number in range(CALLERS)))
        if profiler is not None:
            profiler.enable()
        begun_s = time.process_time()
        await asyncio.gather(*(caller(number, requests // CALLERS) for number in range(CALLERS)))
        spent_s = time.process_time() - begun_s
        if profiler is not None:
            profiler.disable()
        await gateway.aclose()
    return spent_s / (requests // CALLERS * CALLERS) * 1e6


async def _ask(application: Application, headers: list[tuple[bytes, bytes]], text: str) -> None:
    body = orjson.dumps({"model": _MODEL, "input": text, "encoding_format": "base64"})
    arriving: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return arriving.pop()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/embeddings", "headers": headers, "client": ("127.0.0.1", 1)}
    await application(scope, receive, send)
    if sent[0]["status"] != 200:
        raise RuntimeError(f"the gateway answered {sent[0]['status']}")


def shares(profiler: cProfile.Profile) -> tuple[dict[str, float], dict[str, float]]:
    """Own time by part of the program, and by function, each as a share of all."""
    by_part: dict[str, float] = defaultdict(float)
    by_function: dict[str, float] = defaultdict(float)
    statistics = pstats.Stats(profiler).stats  # type: ignore[attr-defined]  # it is there, the stubs leave it out
    total_s = sum(own_s for _, _, own_s, _, _ in statistics.values())
    for (file, _, name), (_, _, own_s, _, _) in statistics.items():
        part = _part_of(file, name)
        by_part[part] += own_s / total_s
        by_function[f"{part}: {name}"] += own_s / total_s
    return by_part, by_function


def _part_of(file: str, name: str) -> str:
    """The package of ours, the library, or what is written in C."""
    path = Path(file)
    if "embedgate" in path.parts and path.suffix == ".py":
        inside = path.parts[path.parts.index("embedgate", path.parts.index("src") if "src" in path.parts else 0) + 1 :]
        return f"embedgate {inside[0].removesuffix('.py')}"
    if "sqlite3" in name:
        return "SQLite"
    if file == "~":
        return "built-in functions"
    return f"library {path.parts[path.parts.index('site-packages') + 1]}" if "site-packages" in path.parts else "Python"


def main() -> int:
    """Measure, and print the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.own_time", description="Where the gateway's own time goes.")
    parser.add_argument("--texts", choices=("new", "uncached", "repeated"), default="new")
    parser.add_argument("--requests", type=int, default=12_800)
    options = parser.parse_args()
    cost_us = min(uvloop.run(drive(options.texts, options.requests, None)) for _ in range(3))
    profiler = cProfile.Profile()
    uvloop.run(drive(options.texts, options.requests, profiler))
    by_part, by_function = shares(profiler)
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(
        f"{options.texts} texts, {CALLERS} callers, no sockets: {cost_us:.0f} µs of CPU per request, least of 3\n"
    )
    for title, found, shown in (("part", by_part, len(by_part)), ("function", by_function, _FUNCTIONS_SHOWN)):
        table = Table(title, "share of own time", "that is, µs", box=None)
        for name, share in sorted(found.items(), key=lambda pair: -pair[1])[:shown]:
            if share >= 0.005:
                table.add_row(name, f"{share:.1%}", f"{share * cost_us:.1f}")
        console.print(table)
        console.print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
