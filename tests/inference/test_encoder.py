"""The engine gives the vectors of the model's authors: compared with a slow reference and with stored numbers."""

import json
from pathlib import Path

import numpy as np
import pytest

from embedgate.core.errors import ConfigError
from embedgate.inference.runtime import LoadedModel, LocalModels
from embedgate.inference.weights import MINILM
from embedgate.settings import LocalModelSettings, LocalSettings

pytest.importorskip("onnx", reason="the extra embedgate[local] is not installed")
pytest.importorskip("onnxruntime", reason="the extra embedgate[local] is not installed")

from bert_reference import TINY_CONFIG, embed_one, read_weights, write_tiny_folder

needs_minilm = pytest.mark.skipif(MINILM.folder() is None, reason="the extra embedgate[minilm] is not installed")

TEXTS = [
    "Hello, world",
    "a",
    "My API calls keep returning 429 errors",
    "Der schnelle braune Fuchs springt über den faulen Hund.",
    "数学は楽しい 🎲",
    "one word after another " * 30,
]


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return LocalModels(LocalSettings(), tmp_path_factory.mktemp("data")).load("all-minilm-l6-v2")


@needs_minilm
def test_minilm_agrees_with_the_reference(minilm: LoadedModel) -> None:
    folder = MINILM.folder()
    assert folder is not None
    weights = read_weights(folder / "model" / "model.safetensors")
    config = json.loads((folder / "model" / "config.json").read_text())
    rows = minilm.tokenizer.encode(TEXTS)
    vectors = minilm.engine.embed(rows)
    assert vectors.dtype == np.float32
    assert vectors.flags.c_contiguous
    for row, vector in zip(rows, vectors, strict=True):
        np.testing.assert_allclose(vector, embed_one(weights, config, row.tolist(), "mean"), atol=1e-6)


@needs_minilm
def test_known_components_have_not_moved(minilm: LoadedModel) -> None:
    stored = json.loads((Path(__file__).parent / "minilm_components.json").read_text(encoding="utf-8"))
    for text, components in stored.items():
        (vector,) = minilm.engine.embed(minilm.tokenizer.encode([text]))
        np.testing.assert_allclose(vector[: len(components)], components, atol=1e-5)


@needs_minilm
def test_vector_does_not_depend_on_its_neighbours(minilm: LoadedModel) -> None:
    rows = minilm.tokenizer.encode(TEXTS)
    alone = np.concatenate([minilm.engine.embed([row]) for row in rows])
    np.testing.assert_allclose(minilm.engine.embed(rows), alone, atol=1e-6)
    np.testing.assert_allclose(minilm.engine.embed(rows[::-1] * 3)[: len(rows)], alone[::-1], atol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("prefix", ["", "bert."])
@pytest.mark.parametrize("half", [False, True])
def test_any_bert_in_a_folder_agrees_with_the_reference(tmp_path: Path, pooling: str, prefix: str, half: bool) -> None:
    folder = write_tiny_folder(tmp_path / "tiny", pooling=pooling, prefix=prefix, half=half)
    settings = LocalSettings(models={"tiny": LocalModelSettings(path=folder)})
    model = LocalModels(settings, tmp_path / "data").load("tiny")
    rows = model.tokenizer.encode(["one two three four five six", "seven", "eight eight one"])
    weights = read_weights(folder / "model.safetensors", prefix)
    expected = [embed_one(weights, TINY_CONFIG, row.tolist(), pooling) for row in rows]
    np.testing.assert_allclose(model.engine.embed(rows), expected, atol=1e-5)


def test_prepared_graph_is_reused_and_mended(tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path / "tiny")
    settings = LocalSettings(models={"tiny": LocalModelSettings(path=folder)})

    def embed() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        model = LocalModels(settings, tmp_path / "data").load("tiny")
        return model.engine.embed(model.tokenizer.encode(["one two"]))

    first = embed()
    (kept,) = (tmp_path / "data" / "models").iterdir()
    written = kept.stat().st_mtime_ns
    np.testing.assert_array_equal(embed(), first)
    assert kept.stat().st_mtime_ns == written
    kept.write_bytes(kept.read_bytes()[:1000])
    np.testing.assert_array_equal(embed(), first)


def test_weights_that_are_not_what_the_config_says_are_refused(tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path / "tiny", num_hidden_layers=3)
    models = LocalModels(LocalSettings(models={"tiny": LocalModelSettings(path=folder)}), tmp_path / "data")
    with pytest.raises(ConfigError, match=r"encoder\.layer\.2\.attention\.self\.query\.weight is missing"):
        models.load("tiny")
    (folder / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ConfigError, match="cannot be read"):
        models.load("tiny")
