"""Tries one SDK against a gateway: `python answer.py llama_index_embeddings < job.json > answer.json`.

The job says where the gateway is, the texts and the models. Every program has `WAYS`: functions that take an address, a
key, a model and texts, and return the vectors of the texts as the SDK gives them. Each is called for each model, then
with mistakes. Nothing is judged here but in the test: the answer holds, for each way, the vectors and the names of the
errors, and all hosts but this machine that were asked for.
"""

import base64
import importlib
import json
import sys
from collections.abc import Callable, Sequence

import numpy as np

from loopback_only import stay_on_loopback, strangers

Way = Callable[[str, str, str, list[str]], Sequence[Sequence[float]]]
"""From base_url, key, model and texts to one vector for each text."""


def packed(vectors: Sequence[Sequence[float]]) -> str:
    """The vectors as base64 of little-endian float32, row after row."""
    return base64.b64encode(np.asarray(vectors, dtype="<f4").tobytes()).decode()


def failure(way: Way, base_url: str, key: str, model: str) -> str:
    """The class of the error that a call ends with, its package, and the code that the gateway gave."""
    try:
        way(base_url, key, model, ["text"])
    except Exception as error:  # noqa: BLE001  # which one it is, is the question
        package = type(error).__module__.partition(".")[0]
        return f"{package}.{type(error).__name__} {getattr(error, 'code', None)}"
    return "no error"


def main() -> None:
    """Read the job, answer it."""
    stay_on_loopback()
    ways: dict[str, Way] = importlib.import_module(sys.argv[1]).WAYS
    job = json.load(sys.stdin)
    base_url, key, models = job["base_url"], job["key"], job["models"]
    vectors = {
        name: {model: packed(way(base_url, key, model, job["texts"])) for model in models} for name, way in ways.items()
    }
    failures = {
        name: {
            "unknown model": failure(way, base_url, key, "nobody/nothing"),
            "wrong key": failure(way, base_url, "wrong", models[0]),
        }
        for name, way in ways.items()
    }
    json.dump({"vectors": vectors, "failures": failures, "strangers": strangers}, sys.stdout)


if __name__ == "__main__":
    main()
