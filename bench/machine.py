"""Environment of a measurement: the machine, the versions, the state of the source."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import msgspec

from bench.processes import Cores
from embedgate.core.version import VERSION

_PACKAGES = ("uvicorn", "uvloop", "httptools", "pyreqwest", "msgspec", "orjson", "numpy", "onnxruntime", "tokenizers")


class Machine(msgspec.Struct, frozen=True):
    """Facts that a reader needs to judge the numbers. load_average: of the minute before the run, per machine."""

    processor: str
    cores: int
    memory_gib: float
    system: str
    python: str
    load_average: float
    pinned: str
    embedgate: str
    commit: str
    packages: dict[str, str]


def describe(cores: Cores) -> Machine:
    """This machine now."""
    return Machine(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        system=f"{platform.system()} {platform.release()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        load_average=round(os.getloadavg()[0], 2),
        pinned=_pinned(cores),
        embedgate=VERSION,
        commit=_commit(),
        packages={name: _version(name) for name in _PACKAGES},
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _pinned(cores: Cores) -> str:
    if not cores.are_apart:
        return "nothing: there is one core for everything"
    shared = cores.load == cores.upstream
    others = f"load and upstream on core {min(cores.load)}"
    if not shared:
        others = f"load on core {min(cores.load)}, upstream on core {min(cores.upstream)}"
    return f"each gateway on core {min(cores.gateway)}, {others}; nothing in scenario L"


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        done = subprocess.run(command, capture_output=True, check=True, text=True, cwd=Path(__file__).parent)
    except (OSError, subprocess.CalledProcessError):
        return "not a git checkout"
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
