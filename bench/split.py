"""Splitting Markdown: ours beside other libraries, with the same tokenizer and size, each in a process of its own.

The texts are the descriptions of the packages that are installed here and our own documentation. Every process starts
cold: what it remembers of a text, it has seen in this run.

    python -m bench.split
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from email import message_from_string
from pathlib import Path

import orjson
import semantic_text_splitter
import tokenizers
from semchunk.semchunk import chunkerify

from embedgate.inference.tokenizer import Tokenizer
from embedgate.inference.weights import MINILM
from embedgate.toolkit.splitting import Splitter

_ROOT = Path(__file__).parents[1]
_SIZE, _SPECIAL = 256, 2
_MAX_BYTES = 1_500_000

Cut = Callable[[str], Sequence[str]]


def texts() -> list[str]:
    """Markdown of many hands, up to a size."""
    found = [page.read_text(encoding="utf-8") for page in sorted((_ROOT / "docs").rglob("*.md"))]
    for file in sorted(Path(tokenizers.__file__).parents[1].glob("*.dist-info/METADATA")):
        message = message_from_string(file.read_text(encoding="utf-8", errors="replace"))
        if "markdown" in str(message["Description-Content-Type"]):
            found.append(str(message.get_payload()))
    kept: list[str] = []
    for text in found:
        if sum(map(len, kept)) + len(text) <= _MAX_BYTES:
            kept.append(text)
    return kept


def _ours() -> Cut:
    splitter = Splitter(Tokenizer(_tokenizer_file()), _SIZE)
    return lambda text: [piece.text for piece in splitter.split(text, "markdown")]


def _semantic_text_splitter() -> Cut:
    splitter = semantic_text_splitter.MarkdownSplitter.from_huggingface_tokenizer(
        _tokenizer(), _SIZE - _SPECIAL, trim=False
    )
    return splitter.chunks


def _semchunk() -> Cut:
    tokenizer = _tokenizer()

    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    chunker = chunkerify(count, _SIZE - _SPECIAL)
    return lambda text: [str(piece) for piece in chunker(text)]


LIBRARIES: dict[str, Callable[[], Cut]] = {
    "embedgate": _ours,
    "semantic-text-splitter, Markdown": _semantic_text_splitter,
    "semchunk": _semchunk,
}


def _tokenizer_file() -> Path:
    return MINILM.file("model/tokenizer.json")


def _tokenizer() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer.from_file(str(_tokenizer_file()))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def measure(name: str) -> dict[str, float]:
    """Split every text with one library. CPU time, because the machine may be busy with other work."""
    every = texts()
    cut = LIBRARIES[name]()
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    pieces = [cut(text) for text in every]
    wall_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    counter = Tokenizer(_tokenizer_file())
    sizes = counter.count_many([piece for found in pieces for piece in found])
    return {
        "mb": sum(map(len, every)) / 1e6,
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "pieces": len(sizes),
        "median": statistics.median(sizes),
        "over": sum(size > _SIZE for size in sizes),
        "whole": sum("".join(found) == text for found, text in zip(pieces, every, strict=True)) / len(every),
    }


def main() -> None:
    """Measure each library in a process of its own, in turns, and print a table of medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=LIBRARIES, help="measure this one here, and print numbers as JSON")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.only:
        print(orjson.dumps(measure(options.only)).decode())
        return
    found: dict[str, list[dict[str, float]]] = {name: [] for name in LIBRARIES}
    for _ in range(options.rounds):
        for name, runs in found.items():
            command = [sys.executable, "-m", "bench.split", "--only", name]
            done = subprocess.run(command, capture_output=True, check=True, cwd=_ROOT)
            runs.append(orjson.loads(done.stdout))
    print("| library | MB/s | MB per CPU second | pieces | median tokens | over the size | texts put together again |")
    print("|---|---|---|---|---|---|---|")
    for name, runs in found.items():
        one = runs[0]
        wall = statistics.median(run["mb"] / run["wall_s"] for run in runs)
        cpu = statistics.median(run["mb"] / run["cpu_s"] for run in runs)
        print(
            f"| {name} | {wall:.2f} | {cpu:.2f} | {one['pieces']:,.0f} | {one['median']:.0f} | {one['over']:.0f} "
            f"| {one['whole']:.0%} |"
        )
    print(f"\n{runs[0]['mb']:.1f} MB of Markdown, pieces of {_SIZE} tokens of all-MiniLM-L6-v2.")


if __name__ == "__main__":
    main()
