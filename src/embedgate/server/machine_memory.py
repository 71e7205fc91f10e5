"""Memory that the process may use: that of the machine or of its container."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")
_CGROUPS = "sys/fs/cgroup"


def available_bytes(root: Path = _ROOT) -> int:
    """Memory of the machine in bytes, or less where a control group or a resource limit allows less.

    root: of the file system, for tests.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_of_control_groups(root)]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        limits.append(soft)
    return min(limits)


def _of_control_groups(root: Path) -> Iterator[int]:
    """The limits of the control groups that the process is in, of version 1 and 2, and of those above them."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return  # not Linux
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, name = root / _CGROUPS, "memory.max"
        elif "memory" in controllers.split(","):
            base, name = root / _CGROUPS / "memory", "memory.limit_in_bytes"
        else:
            continue
        # In a container the path is often that of the host, where only the root is seen.
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts), -1, -1):
            limit = _limit_in(base.joinpath(*parts[:depth]) / name)
            if limit is not None:
                yield limit


def _limit_in(file: Path) -> int | None:
    try:
        text = file.read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
