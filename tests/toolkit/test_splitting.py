"""Splitting: sizes, offsets, reproduction, and where texts are cut."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedgate import LocalEmbedder
from embedgate.core.errors import InvalidInput
from embedgate.core.ports import Embedder, TokenCounter
from embedgate.core.types import InputType
from embedgate.core.vectors import Vectors
from embedgate.inference.cl100k import load_cl100k
from embedgate.inference.counters import ByteBound
from embedgate.toolkit.meaning import drift_of
from embedgate.toolkit.outline import Kind
from embedgate.toolkit.records import Origin, Record
from embedgate.toolkit.splitting import Piece, Splitter, as_records

MINILM = LocalEmbedder().tokenizer
CL100K = load_cl100k(None)
assert CL100K is not None
COUNTERS: list[TokenCounter] = [MINILM, CL100K, ByteBound()]
ROOT = Path(__file__).parents[2]

MARKDOWN = """# Handbook

Intro. It has two sentences.

## Pay

### Salary

Paid on the last day.

- first item
- second item

```python
# not a heading

x = 1
```

Leave
-----

Thirty days. Ask early.
"""


def check(pieces: Sequence[Piece], text: str, counter: TokenCounter, size: int) -> None:
    """What every split promises."""
    assert "".join(piece.text[piece.overlap :] for piece in pieces) == text
    for piece in pieces:
        assert piece.text == text[piece.start : piece.end]
        assert piece.n_tokens == counter.count(piece.text) <= size
    ends = [piece.end for piece in pieces]
    assert ends == sorted(set(ends))
    assert all(one.start < other.start + other.overlap == one.end for one, other in pairwise(pieces))


@pytest.mark.parametrize("counter", COUNTERS)
@pytest.mark.parametrize("overlap", [0, 20])
def test_our_own_files_are_split_within_the_size(counter: TokenCounter, overlap: int) -> None:
    splitter = Splitter(counter, 8_192, size=128, overlap=overlap)
    files = [ROOT / "README.md", ROOT / "src/embedgate/client.py", ROOT / "LICENSE", ROOT / "docs/routing.md"]
    records = [Record(path.name, path.read_text(encoding="utf-8"), Origin(str(path)), 0) for path in files]
    for record, pieces in splitter.split_records(records):
        check(pieces, record.text, counter, 128)


_SCRIPTS = st.sampled_from(
    ["word", "Ünïcode", "日本語。", "e\u0301", "👨‍👩‍👧", "x" * 300, "don't", "....", "1,000.5", "\u200b"]
)
_SPACES = st.sampled_from([" ", "  ", "\n", "\n\n", "\r\n", "\t", "\n\n\n", " \n ", "\x0b", "\u00a0", ". "])
_MARKS = st.sampled_from(["# ", "## ", "- ", "```\n", "| ", "    ", "===\n", "---\n", "}", "def f():"])
_TEXTS = st.lists(st.one_of(_SCRIPTS, _SPACES, _MARKS, st.text(max_size=5)), max_size=60).map("".join)
_KINDS: st.SearchStrategy[Kind] = st.sampled_from(["prose", "markdown", "code"])


@given(_TEXTS, st.sampled_from(COUNTERS), _KINDS, st.integers(12, 60), st.integers(0, 4))
def test_any_text_is_put_together_again(text: str, counter: TokenCounter, kind: Kind, size: int, overlap: int) -> None:
    pieces = Splitter(counter, 8_192, size=size, overlap=overlap).split(text, kind)
    check(pieces, text if text.strip() else "", counter, size)


def test_a_text_that_fits_is_one_piece() -> None:
    (piece,) = Splitter(MINILM, 256).split(MARKDOWN, "markdown")
    assert (piece.start, piece.end, piece.headings) == (0, len(MARKDOWN), ("Handbook",))


def test_markdown_is_cut_at_its_sections_and_each_piece_knows_its_headings() -> None:
    pieces = Splitter(MINILM, 256, size=32).split(MARKDOWN, "markdown")
    assert [(piece.text.splitlines()[0], piece.headings) for piece in pieces] == [
        ("# Handbook", ("Handbook",)),
        ("## Pay", ("Handbook", "Pay")),
        ("```python", ("Handbook", "Pay", "Salary")),
        ("Leave", ("Handbook", "Leave")),
    ]
    marked = Splitter(MINILM, 256).split("## C# and F# ##\n\ntext\n", "markdown")
    assert marked[0].headings == ("C# and F#",)


def test_code_is_cut_before_definitions() -> None:
    code = "".join(
        f"def number_{n}(value):\n    if value:\n        return {n}\n\n    return None\n\n\n" for n in range(9)
    )
    pieces = Splitter(MINILM, 256, size=64).split(code, "code")
    assert len(pieces) > 2
    assert all(piece.text.startswith("def ") for piece in pieces)


def test_prose_is_cut_between_sentences() -> None:
    text = " ".join(f"This is sentence number {n}, and it ends here." for n in range(30))
    pieces = Splitter(MINILM, 256, size=64).split(text)
    assert len(pieces) > 4
    assert all(piece.text.startswith("This") and piece.text.rstrip().endswith("here.") for piece in pieces)


def test_a_piece_begins_with_the_sentence_before_it_if_they_overlap() -> None:
    text = " ".join(f"This is sentence number {n}, and it ends here." for n in range(30))
    _, second, *_ = Splitter(MINILM, 256, size=64, overlap=20).split(text)
    assert second.overlap > 0
    assert second.text.startswith("This")


def test_pieces_become_records_with_their_place() -> None:
    record = Record("doc", MARKDOWN, Origin("doc.md"), 3, {"lang": "en"})
    records = as_records(record, Splitter(MINILM, 256, size=32).split(MARKDOWN, "markdown"))
    assert [each.id for each in records] == ["doc#1", "doc#2", "doc#3", "doc#4"]
    assert records[1].metadata == {
        "lang": "en", "file": "doc.md", "start": MARKDOWN.index("## Pay"), "end": MARKDOWN.index("```python"),
        "headings": "Handbook > Pay",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("size", "overlap", "said"), [(300, 0, "10 to 256"), (4, 0, "10 to 256"), (64, 40, "overlap of 40")]
)
def test_sizes_that_are_not_possible_are_refused(size: int, overlap: int, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        Splitter(MINILM, 256, size=size, overlap=overlap)


class Topics(Embedder):
    """The vector of a text says which animal it speaks of."""

    def embed(self, texts: Sequence[str], input_type: InputType | None = None) -> Vectors:
        rows = [[1.0, 0.0] if "cat" in text else [0.0, 1.0] for text in texts]
        return np.array(rows, dtype=np.float32)


def test_by_meaning_a_text_is_cut_where_its_subject_changes() -> None:
    cats = " ".join(f"The cat number {n} is asleep on its mat." for n in range(8))
    dogs = " ".join(f"The dog number {n} runs across the field." for n in range(8))
    text = f"{cats} {dogs}"
    pieces = Splitter(MINILM, 256, embedder=Topics()).split(text)
    assert [piece.start for piece in pieces] == [0, text.index("The dog")]
    check(pieces, text, MINILM, 256)


@given(_TEXTS, st.integers(12, 60))
def test_by_meaning_any_text_is_put_together_again(text: str, size: int) -> None:
    pieces = Splitter(MINILM, 256, size=size, embedder=Topics()).split(text, "markdown")
    check(pieces, text if text.strip() else "", MINILM, size)


def test_the_drift_is_one_minus_the_cosine_of_neighbouring_means() -> None:
    vectors = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    for place, drift in enumerate(drift_of(vectors), start=1):
        before = vectors[max(0, place - 3) : place].mean(axis=0, dtype=np.float64)
        after = vectors[place : place + 3].mean(axis=0, dtype=np.float64)
        assert drift == pytest.approx(1 - before @ after / np.linalg.norm(before) / np.linalg.norm(after), abs=1e-9)


@pytest.mark.parametrize(
    "part", [".", " ", "\n", "x", "# ", "- ", "|", "`", "```\n", "}", ";", ". ", "。", "\u0301", "#"]
)
@pytest.mark.parametrize("kind", ["prose", "markdown", "code"])
def test_long_rows_of_anything_are_split_in_one_pass(part: str, kind: Kind) -> None:
    """A pattern that tries each place again would take hours for these."""
    text = f"# a{part * 10_000}b"
    check(Splitter(MINILM, 256).split(text, kind), text, MINILM, 256)
