"""Texts are cut at borders of tokens: what is left fits, is as long as it can be, and ends with a whole character."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedgate.core.errors import GatewayError, InvalidInput
from embedgate.core.models import DimRange, Route, Side
from embedgate.inference.counters import KnownTokenizers
from embedgate.inference.cutting import Cutter, CuttingTokenizer
from embedgate.inference.runtime import LocalModels
from embedgate.settings import LocalSettings

pytest.importorskip("rs_bpe", reason="the extra embedgate[tokens] is not installed")

FAMILY = "👨‍👩‍👧"
WORDS = [
    "the ",
    "antidisestablishmentarianism",
    " ",
    "\n\n",
    "日本語",
    "🙂",
    FAMILY,
    "👍🏽",
    "🇫🇷🇩🇪",
    "e\u0301",
    "naïve ",
    "12345",
    "  x",
]
LETTERS = st.characters(exclude_categories=["M", "Cf", "Cs"])
TEXTS = st.lists(st.sampled_from(WORDS) | st.text(LETTERS, max_size=8), max_size=40).map("".join)


def route(tokenizer: str, max_input_tokens: int = 256) -> Route:
    return Route("p", "all-minilm-l6-v2", DimRange(384, 384, 384), max_input_tokens, tokenizer)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> KnownTokenizers:
    return KnownTokenizers(LocalModels(LocalSettings(), tmp_path_factory.mktemp("models")), None)


@pytest.fixture(scope="module", params=["tiktoken:cl100k_base", "local"])
def tokenizer(request: pytest.FixtureRequest, known: KnownTokenizers) -> CuttingTokenizer:
    try:
        counter = known.counter(route(request.param))
    except GatewayError as error:
        pytest.skip(str(error))
    assert counter.is_exact
    return counter  # type: ignore[return-value]  # it has what a cutter needs


def test_what_is_left_fits_and_is_a_part_of_the_text(tokenizer: CuttingTokenizer) -> None:
    cutter = Cutter(tokenizer)

    @given(TEXTS, st.integers(20, 60), st.sampled_from(["start", "end"]), st.sampled_from(["", "query: "]))
    def holds(text: str, limit: int, side: Side, prefix: str) -> None:
        left = cutter.cut(text, limit, side, prefix)
        if tokenizer.count(prefix + text) <= limit:
            assert left == text
            return
        assert text.startswith(left) if side == "end" else text.endswith(left)
        assert not left or tokenizer.count(prefix + left) <= limit
        rest = text[len(left) :] if side == "end" else text[: len(text) - len(left)]
        before, after = (left, rest) if side == "end" else (rest, left)
        if before and after:
            assert after[0] != "\u200d"
            assert before[-1] != "\u200d"
            assert not unicodedata.category(after[0]).startswith("M")

    holds()


@pytest.mark.parametrize("side", ["start", "end"])
def test_no_more_is_cut_off_than_must_be(tokenizer: CuttingTokenizer, side: Side) -> None:
    text = " ".join(f"word {n}" for n in range(3_000))
    left = Cutter(tokenizer).cut(text, 200, side, "query: ")
    assert tokenizer.count("query: " + left) == 200


@pytest.mark.parametrize("side", ["start", "end"])
@pytest.mark.parametrize("character", [FAMILY, "🇫🇷", "👍🏽", "e\u0301\u0302", "🙂"])
@pytest.mark.parametrize("limit", range(18, 30))
def test_a_character_stays_whole(tokenizer: CuttingTokenizer, side: Side, character: str, limit: int) -> None:
    left = Cutter(tokenizer).cut(character * 50, limit, side)
    assert left == character * (len(left) // len(character))


def test_endless_marks_are_cut_all_the_same(tokenizer: CuttingTokenizer) -> None:
    left = Cutter(tokenizer).cut("e" + "\u0301" * 2_000, 100, "end")
    assert tokenizer.count(left) <= 100
    left.encode()


def test_nothing_is_left_where_not_even_a_character_fits(known: KnownTokenizers) -> None:
    cutter = known.cutter(route("tiktoken:cl100k_base"))
    assert cutter is not None
    assert cutter.cut(FAMILY * 3, 1, "end") == ""


def test_half_an_emoji_is_refused(tokenizer: CuttingTokenizer) -> None:
    with pytest.raises(InvalidInput, match="Unicode"):
        Cutter(tokenizer).cut("\ud83d" * 300, 10, "end")


def test_a_tokenizer_is_at_hand_for_openai_and_for_twins_of_local_models(known: KnownTokenizers) -> None:
    assert known.can_cut(route("tiktoken:cl100k_base"))
    assert not known.can_cut(route("tiktoken:cl100k_base", max_input_tokens=0))
    assert not known.can_cut(route("unknown"))
    assert known.cutter(route("unknown")) is None
    assert known.cutter(route("hf:BAAI/bge-m3")) is None
    twin = known.cutter(route("hf:sentence-transformers/all-MiniLM-L6-v2"))
    if not LocalModels(LocalSettings(), Path("unused")).models():
        pytest.skip("the embedded model is not installed")
    assert twin is not None
    assert twin.cut("one two three four", 4, "end") == "one two"
