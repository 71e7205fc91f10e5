"""The token-table model agrees with the plain formula: mean of the token vectors, then unit length."""

import numpy as np
import pytest

from embedgate.core.errors import InvalidInput
from embedgate.core.vectors import shorten
from embedgate.inference.runtime import LoadedModel, LocalModels
from embedgate.inference.weights import WORDLLAMA
from embedgate.settings import LocalSettings

if WORDLLAMA.folder() is None:
    pytest.skip("the extra embedgate[wordllama] is not installed", allow_module_level=True)
pytest.importorskip("tokenizers", reason="the extra embedgate[local] is not installed")

import safetensors

TEXTS = ["Hello, world", "a", "Ein längerer Satz, auf Deutsch. " * 40, "数学は楽しい 🎲", "one </s> two"]


@pytest.fixture(scope="module")
def wordllama(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return LocalModels(LocalSettings(), tmp_path_factory.mktemp("data")).load("wordllama-256")


def test_vectors_are_the_unit_mean_of_the_token_rows(wordllama: LoadedModel) -> None:
    folder = WORDLLAMA.folder()
    assert folder is not None
    with safetensors.safe_open(folder / "weights" / "l2_supercat_256.safetensors", framework="numpy") as tensors:
        table = np.asarray(tensors.get_tensor("embedding.weight")).astype(np.float64)
    rows = wordllama.tokenizer.encode(TEXTS)
    vectors = wordllama.engine.embed(rows)
    means = np.stack([table[row].mean(axis=0) for row in rows])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, means / np.linalg.norm(means, axis=1, keepdims=True), atol=1e-6)
    for dim in (128, 64):
        short = means[:, :dim] / np.linalg.norm(means[:, :dim], axis=1, keepdims=True)
        np.testing.assert_allclose(shorten(vectors, dim), short, atol=1e-6)


def test_known_components_have_not_moved(wordllama: LoadedModel) -> None:
    (vector,) = wordllama.engine.embed(wordllama.tokenizer.encode(["Hello, world"]))
    np.testing.assert_allclose(vector[:3], [0.12240779, 0.04908197, 0.05827343], atol=1e-5)


def test_text_without_any_token_is_named_by_its_position(wordllama: LoadedModel) -> None:
    with pytest.raises(InvalidInput) as caught:
        wordllama.engine.embed(wordllama.tokenizer.encode(["fine", "", "fine"]))
    assert caught.value.index == 1


def test_every_text_is_run_once(wordllama: LoadedModel) -> None:
    runs = wordllama.engine.cut([3000, 3000, 10, 9000])
    assert runs == [(0,), (1, 2), (3,)]
