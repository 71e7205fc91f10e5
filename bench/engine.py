"""Runs all-MiniLM-L6-v2 on another engine, inside that engine's own environment. Imports nothing of this project.

    <environment>/bin/python bench/engine.py fastembed|sentence-transformers <folder of the model>

Prints {"version", "load_s"}, then for each line {"texts": [...]} a line {"seconds"}, until stdin ends.
"""

import importlib
import importlib.metadata
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

_BATCH = 256


def _fastembed(_folder: str) -> Callable[[Sequence[str]], Any]:
    model = importlib.import_module("fastembed").TextEmbedding("sentence-transformers/all-MiniLM-L6-v2")
    return lambda texts: list(model.embed(texts, batch_size=_BATCH))


def _sentence_transformers(folder: str) -> Callable[[Sequence[str]], Any]:
    model = importlib.import_module("sentence_transformers").SentenceTransformer(folder, device="cpu")
    return lambda texts: model.encode(list(texts), batch_size=_BATCH)


_ENGINES = {"fastembed": _fastembed, "sentence-transformers": _sentence_transformers}


def main() -> None:
    """Load the engine that the command line names, then time it on what comes in."""
    name, folder = sys.argv[1:]
    started_s = time.perf_counter()
    embed = _ENGINES[name](folder)
    embed(["warm up"])
    print(
        json.dumps({"version": importlib.metadata.version(name), "load_s": time.perf_counter() - started_s}), flush=True
    )
    for line in sys.stdin:
        texts = json.loads(line)["texts"]
        started_s = time.perf_counter()
        embed(texts)
        print(json.dumps({"seconds": time.perf_counter() - started_s}), flush=True)


if __name__ == "__main__":
    main()
