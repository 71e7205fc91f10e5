"""Copies of a program that begin their work at the same moment, each in a process of its own."""

import subprocess
import sys
from pathlib import Path


def run_together(folder: Path, program: str, n: int) -> list[str]:
    """Run `n` copies of a program, with `folder` as argument. Returns what each printed.

    A program prints `ready`, and goes on when it has read a line: all are ready by then.
    """
    command = [sys.executable, "-c", program, str(folder)]
    children = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(n)]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    printed = [child.communicate()[0] for child in children]
    assert [child.returncode for child in children] == [0] * n
    return printed
