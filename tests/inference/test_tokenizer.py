"""A model's own tokenizer: no silent truncation, no padding, special tokens kept when a text is cut."""

from pathlib import Path

import pytest

from embedgate.core.errors import ConfigError, InvalidInput

pytest.importorskip("tokenizers", reason="the extra embedgate[local] is not installed")

from bert_reference import TINY_WORDS, write_tiny_folder
from embedgate.inference.tokenizer import Tokenizer

CLS, SEP = TINY_WORDS.index("[CLS]"), TINY_WORDS.index("[SEP]")
ONE, TWO, THREE, FOUR, FIVE = (TINY_WORDS.index(word) for word in ("one", "two", "three", "four", "five"))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_folder(tmp_path_factory.mktemp("tiny")) / "tokenizer.json"


def test_truncation_and_padding_of_the_file_are_switched_off(file: Path) -> None:
    long, short = Tokenizer(file).encode(["one two three four five", "one"])
    assert long.tolist() == [CLS, ONE, TWO, THREE, FOUR, FIVE, SEP]
    assert short.tolist() == [CLS, ONE, SEP]


def test_count_includes_special_tokens(file: Path) -> None:
    assert Tokenizer(file).count("one two") == 4
    assert Tokenizer(file, adds_special_tokens=False).count("one two") == 2
    assert Tokenizer(file).n_special_tokens == 2


def test_cutting_keeps_special_tokens_and_the_side_asked_for(file: Path) -> None:
    tokenizer = Tokenizer(file)
    (row,) = tokenizer.encode(["one two three four five"])
    assert tokenizer.cut(row, 5, "end").tolist() == [CLS, ONE, TWO, THREE, SEP]
    assert tokenizer.cut(row, 5, "start").tolist() == [CLS, THREE, FOUR, FIVE, SEP]
    assert tokenizer.cut(row, 7, "end") is row
    bare = Tokenizer(file, adds_special_tokens=False)
    (row,) = bare.encode(["one two three four five"])
    assert bare.cut(row, 2, "start").tolist() == [FOUR, FIVE]
    assert bare.cut(row, 2, "end").tolist() == [ONE, TWO]


def test_lower_casing_is_done_where_the_model_asks_for_it(file: Path) -> None:
    assert Tokenizer(file, lowercases=True).encode(["ONE"])[0].tolist() == [CLS, ONE, SEP]
    assert Tokenizer(file).encode(["ONE"])[0].tolist() != [CLS, ONE, SEP]


def test_half_a_surrogate_pair_is_refused_with_its_position(file: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        Tokenizer(file).encode(["one", "two \ud800"])
    assert caught.value.index == 1


def test_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="tokenizer file"):
        Tokenizer(tmp_path / "tokenizer.json")
