"""Large requests: what looks at all of their bytes is done on a worker, and they are cut, joined and kept as others."""

import asyncio
import threading
from collections.abc import Sequence

import numpy as np

from doubles import Bench, DictCache, ScriptedProvider, Words, model, vector_of, weight
from embedgate.core.models import Route
from embedgate.core.ports import TokenCounter
from embedgate.core.types import EmbedRequest
from embedgate.engine.ledger.tokens import LARGE_CHARACTERS, size_bytes, total_bound

N_TEXTS = 40
TEXT_BYTES = 2 * LARGE_CHARACTERS // N_TEXTS


class Watched:
    """Words, which remembers on which threads they were counted."""

    is_exact = True

    def __init__(self) -> None:
        self.threads: set[threading.Thread] = set()

    def count(self, text: str) -> int:
        self.threads.add(threading.current_thread())
        return weight(text)


class WatchedWords(Words):
    """Tokenizers of one such counter."""

    def __init__(self) -> None:
        self.counted = Watched()

    def counter(self, route: Route) -> TokenCounter:
        return self.counted


def texts_of(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{name} of {'é' * TEXT_BYTES}" for name in names)


async def test_a_large_request_is_counted_and_cut_off_the_event_loop() -> None:
    tokenizers, provider = WatchedWords(), ScriptedProvider()
    bench = Bench([model("p", max_tokens=30)], {"p": provider}, tokenizers=tokenizers)
    texts = texts_of([f"text{number}" for number in range(N_TEXTS)])
    result = await bench.embed(EmbedRequest(model="acme/m", inputs=texts))
    np.testing.assert_allclose(result.vectors, np.stack([vector_of(text) for text in texts]), rtol=1e-5)
    assert len(provider.batches) == N_TEXTS * 3 // 30
    assert all(sum(map(weight, batch.inputs)) <= 30 for batch in provider.batches)
    assert tokenizers.counted.threads
    assert threading.main_thread() not in tokenizers.counted.threads


async def test_large_requests_at_the_same_time_ask_for_each_text_once() -> None:
    provider = ScriptedProvider()
    bench = Bench([model("p", max_tokens=30)], {"p": provider}, cache=DictCache())
    names = [f"text{number}" for number in range(N_TEXTS)]
    first, second = texts_of(names), texts_of([*names[N_TEXTS // 2 :], *["new", "new", "newer"]])
    results = await asyncio.gather(
        *[bench.embed(EmbedRequest(model="acme/m", inputs=each)) for each in (first, second)]
    )
    for texts, result in zip((first, second), results, strict=True):
        np.testing.assert_allclose(result.vectors, np.stack([vector_of(text) for text in texts]), rtol=1e-5)
    asked = [text for batch in provider.batches for text in batch.inputs]
    assert sorted(asked) == sorted({*first, *second})
    assert sum(entry.tokens for entry in bench.memory.entries) == 3 * len(asked)


async def test_a_single_large_text_has_the_same_key_as_ever() -> None:
    provider = ScriptedProvider()
    bench = Bench([model("p")], {"p": provider}, cache=DictCache())
    (text,) = texts_of(["x" * LARGE_CHARACTERS])
    for inputs in ((text,), (text, "other"), (text,)):
        await bench.embed(EmbedRequest(model="acme/m", inputs=inputs))
    assert [batch.inputs for batch in provider.batches] == [(text,), ("other",)]


def test_bytes_that_are_counted_in_pieces_are_those_of_the_whole() -> None:
    text = "aé漢\U0001f600" * LARGE_CHARACTERS
    assert size_bytes(text) == len(text.encode())
    assert total_bound((text, "a", (1, 2))) == len(text.encode()) + 4 + 1 + 4 + 2
