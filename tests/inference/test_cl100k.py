"""cl100k_base: two engines with one answer, exact, and never brought down by what a caller sends."""

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedgate.core.errors import ConfigError, DependencyMissing, InvalidInput

pytest.importorskip("rs_bpe", reason="the extra embedgate[tokens] is not installed")
pytest.importorskip("tiktoken", reason="tiktoken is not installed")

from rs_bpe.bpe import openai

from embedgate.core.models import DimRange, Route
from embedgate.inference.cl100k import VOCABULARY_SIZE, Cl100k, load_cl100k
from embedgate.inference.counters import ByteBound, KnownTokenizers
from embedgate.inference.runtime import LocalModels
from embedgate.settings import LocalSettings

KNOWN_COUNTS = {"Hello, ZIRI!": 6, "": 0, "<|endoftext|>": 7, "naïve café ☕": 6, " " * 100: 2}


@pytest.fixture(scope="module")
def rank_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published rank file, written again from the ranks inside rs-bpe; its digest is checked on loading."""
    ranks = openai.cl100k_base().bpe()
    file = tmp_path_factory.mktemp("ranks") / "cl100k_base.tiktoken"
    with file.open("wb") as stream:
        for token in range(VOCABULARY_SIZE):
            stream.write(base64.b64encode(ranks.decode_tokens([token])) + f" {token}\n".encode())
    return file


@pytest.fixture(scope="module", params=["tiktoken", "rs-bpe"])
def cl100k(request: pytest.FixtureRequest, rank_file: Path) -> Cl100k:
    engine = load_cl100k(rank_file if request.param == "tiktoken" else None)
    assert engine is not None
    return engine


def test_known_counts_are_exact(cl100k: Cl100k) -> None:
    assert cl100k.is_exact
    assert {text: cl100k.count(text) for text in KNOWN_COUNTS} == KNOWN_COUNTS


def test_both_engines_count_alike(rank_file: Path) -> None:
    first, second = load_cl100k(rank_file), load_cl100k(None)
    assert first is not None
    assert second is not None

    @given(st.text(max_size=200))
    def count_alike(text: str) -> None:
        assert first.count(text) == second.count(text)

    count_alike()


def test_decoding_gives_the_text_back(cl100k: Cl100k) -> None:
    assert cl100k.decode([9906, 11, 1901, 2871, 40, 0]) == "Hello, ZIRI!"
    assert cl100k.decode([]) == ""


@pytest.mark.parametrize("token", [-1, VOCABULARY_SIZE, 100_257, 100_276, 2**31, 2**64, -(2**64)])
def test_id_outside_the_vocabulary_is_refused_without_being_repeated(cl100k: Cl100k, token: int) -> None:
    with pytest.raises(InvalidInput, match=r"0\.\.100255") as caught:
        cl100k.decode([9906, token])
    assert str(token) not in caught.value.message


def test_every_id_of_the_vocabulary_decodes_or_is_refused(cl100k: Cl100k) -> None:
    n_refused = 0
    for token in range(VOCABULARY_SIZE):
        try:
            cl100k.decode([token])
        except InvalidInput:
            n_refused += 1
    assert 0 < n_refused < 2000


def test_bytes_that_are_not_utf8_are_refused_without_their_cause(cl100k: Cl100k) -> None:
    with pytest.raises(InvalidInput, match="not UTF-8") as caught:
        cl100k.decode([255])
    assert caught.value.__cause__ is None


def test_another_file_is_not_taken_for_the_rank_file(tmp_path: Path) -> None:
    (tmp_path / "ranks").write_bytes(b"IQ== 0\n")
    with pytest.raises(ConfigError, match="SHA-256"):
        load_cl100k(tmp_path / "ranks")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_cl100k(tmp_path / "absent")


def _route(tokenizer: str, model: str = "m") -> Route:
    return Route("p", model, DimRange(8, 8, 8), 512, tokenizer)


def test_each_route_has_the_counter_of_its_model(tmp_path: Path) -> None:
    tokenizers = KnownTokenizers(LocalModels(LocalSettings(), tmp_path), None)
    exact = tokenizers.counter(_route("tiktoken:cl100k_base"))
    assert (exact.is_exact, exact.count("Hello, ZIRI!")) == (True, 6)
    bound = tokenizers.counter(_route("unknown"))
    assert (bound.is_exact, bound.count("é")) == (False, 2 + 4)
    assert tokenizers.decoder().decode([9906]) == "Hello"


def test_local_route_is_counted_by_the_local_models_own_tokenizer(tmp_path: Path) -> None:
    models = LocalModels(LocalSettings(), tmp_path)
    tokenizers = KnownTokenizers(models, None)
    try:
        counter = tokenizers.counter(_route("local", "all-minilm-l6-v2"))
    except DependencyMissing as error:
        pytest.skip(str(error))
    assert (counter.is_exact, counter.count("Hello, world")) == (True, 5)
    assert models.loaded("all-minilm-l6-v2") is None


@given(st.text())
def test_byte_bound_is_never_below_the_exact_count(text: str) -> None:
    exact = load_cl100k(None)
    assert exact is not None
    assert ByteBound().count(text) >= exact.count(text)
