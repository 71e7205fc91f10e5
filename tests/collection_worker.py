"""A program whose children work on a collection until they are killed; an embedder that keeps a bill of every text."""

import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from embedgate.core.ports import CallLimits
from embedgate.core.types import InputType
from embedgate.core.vectors import Vectors
from embedgate.toolkit import Collections, FakeEmbedder, Reindexing
from embedgate.toolkit.collections.store import Item

IN_A_CALL = 4
PARALLEL = 2
AHEAD = (2 * PARALLEL + 1) * IN_A_CALL
"""Texts that are being embedded, wait to be put, or are being put, at any moment."""


def items(n: int) -> list[Item]:
    """The texts that are added."""
    return [Item(f"id {number}", f"text {number}", "a.txt", {"n": number}) for number in range(n)]


class Billing(FakeEmbedder):
    """Writes each text that it embeds on a line of a file, before it answers."""

    def __init__(self, bill: Path, dim: int = 16, model: str = "fake/deterministic") -> None:
        """dim: of the vectors, by which two models differ."""
        super().__init__(dim)
        self._bill = os.open(bill, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._model = model

    @property
    def model(self) -> str:
        """As given."""
        return self._model

    @property
    def call_limits(self) -> CallLimits:
        """Small calls, so that a kill comes between them."""
        return CallLimits(max_inputs=IN_A_CALL, parallel=PARALLEL)

    def embed(self, texts: Sequence[str], input_type: InputType | None = None) -> Vectors:
        """Bills first."""
        if input_type == "document":
            os.write(self._bill, "".join(f"{text}\n" for text in texts).encode())
        return super().embed(texts, input_type)


def main(folder: Path, place: str, work: str, n_texts: int, calls_left: int) -> None:
    """Do the work at a place, with the bill in a folder.

    The process kills itself, without any warning, in the middle of a call of the embedder.
    """
    lock = threading.Lock()

    class Dying(Billing):
        def embed(self, texts: Sequence[str], input_type: InputType | None = None) -> Vectors:
            nonlocal calls_left
            vectors = super().embed(texts, input_type)
            with lock:
                calls_left -= 1
                if calls_left == 0:
                    os.kill(os.getpid(), 9)
            return vectors

    def report(done: int, _: int) -> None:
        os.write(1, f"{done}\n".encode())

    shelf = Collections(place)
    if work == "add":
        with shelf.open("c", Dying(folder / "bill")) as collection:
            collection.add(items(n_texts), on_progress=report)
    else:
        with shelf.open("c") as collection:
            reindexing = Reindexing(collection, Dying(folder / "bill", 24, "fake/other"))
            reindexing.embed(on_progress=report)
            reindexing.switch()


def serve() -> None:
    """For each line of work, fork a process that does it, and print how it ended and what it last reported.

    A fork has the libraries already, which take longer to import than the work takes.
    """
    for line in sys.stdin:
        folder, place, work, n_texts, calls_left = line.rstrip("\n").split("\t")
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.dup2(writer, 1)
            main(Path(folder), place, work, int(n_texts), int(calls_left))
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as reports:
            lines = reports.read().split()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        sys.stdout.write(f"{status} {(lines or ['0'])[-1]}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
