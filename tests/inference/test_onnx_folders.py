"""Folders with an ONNX file give the vectors of a slow reference, whatever the family, the pooling and the layers."""

import asyncio
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedgate.core.errors import InvalidInput
from embedgate.core.models import DimRange, Route
from embedgate.core.types import Batch
from embedgate.core.vectors import Vectors
from embedgate.inference.runtime import LoadedModel, LocalModels
from embedgate.providers.local import LocalProvider
from embedgate.settings import LocalModelSettings, LocalSettings

pytest.importorskip("onnx", reason="the extra embedgate[local] is not installed")
pytest.importorskip("onnxruntime", reason="the extra embedgate[local] is not installed")

import onnx
from onnx import TensorProto, helper
from onnx.external_data_helper import convert_model_to_external_data

from bert_reference import TINY_CONFIG, write_tiny_folder
from onnx_folders import (
    BERT,
    DIM,
    MODERNBERT,
    MPNET,
    PAD,
    POOLED,
    POSITIONED,
    XLM_R,
    Shape,
    graph,
    hidden,
    modules,
    pass_trial,
    pooled,
    unit,
    write_dense,
    write_folder,
)

TEXTS = ["one two three four five six", "seven", "eight eight one", "two one three four", "five six"]
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
FLAGS = {
    "cls": "pooling_mode_cls_token", "max": "pooling_mode_max_tokens", "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens", "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}  # fmt: skip


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all."""
    return tmp_path_factory.mktemp("data")


def load(folder: Path, data_dir: Path, **entry: Any) -> LoadedModel:
    settings = LocalSettings(models={"tiny": LocalModelSettings(path=folder, **entry)}, threads=1)
    pass_trial(folder, data_dir)
    return LocalModels(settings, data_dir).load("tiny")


def embed(model: LoadedModel, texts: list[str] = TEXTS) -> Vectors:
    rows = model.tokenizer.encode(texts)
    vectors = np.empty((len(rows), model.engine.dim), dtype=np.float32)
    for run in model.engine.cut([len(row) for row in rows]):
        vectors[list(run)] = model.engine.embed([rows[place] for place in run])
    return vectors


def expected(model: LoadedModel, shape: Shape, mode: str = "mean") -> list[Any]:
    return [unit(pooled(hidden(shape, row.tolist()), mode)) for row in model.tokenizer.encode(TEXTS)]


@pytest.mark.parametrize(
    "shape", [BERT, XLM_R, MPNET, MODERNBERT, POSITIONED], ids=["bert", "xlm-r", "mpnet", "modernbert", "positions"]
)
def test_any_family_agrees_with_the_reference(tmp_path: Path, data_dir: Path, shape: Shape) -> None:
    model = load(write_folder(tmp_path / "tiny", shape), data_dir)
    np.testing.assert_allclose(embed(model), expected(model, shape), atol=1e-6)
    assert model.max_input_tokens == 16 - shape.first_position


def test_every_pooling_in_both_formats_agrees_with_the_reference(tmp_path: Path, data_dir: Path) -> None:
    folder = write_folder(tmp_path / "tiny", BERT)
    for mode in MODES:
        for config in ({FLAGS[mode]: True}, {"pooling_mode": mode, "embedding_dimension": DIM}):
            write_folder(folder, BERT, pooling=config)
            model = load(folder, data_dir)
            np.testing.assert_allclose(embed(model), expected(model, BERT, mode), atol=1e-6, err_msg=str(config))


def test_vectors_of_several_poolings_are_joined(tmp_path: Path, data_dir: Path) -> None:
    write_folder(tmp_path / "tiny", BERT, pooling={FLAGS["max"]: True, FLAGS["cls"]: True})
    model = load(tmp_path / "tiny", data_dir)
    rows = [hidden(BERT, row.tolist()) for row in model.tokenizer.encode(TEXTS)]
    joined = [unit(np.concatenate([pooled(row, "cls"), pooled(row, "max")])) for row in rows]
    assert model.engine.dim == 2 * DIM
    np.testing.assert_allclose(embed(model), joined, atol=1e-6)


@pytest.mark.parametrize("activation", ["Tanh", "ReLU", "Sigmoid", "Identity"])
@pytest.mark.parametrize("order", [("Dense", "Normalize"), ("Normalize", "Dense")], ids=" then ".join)
def test_dense_layers_and_scaling_follow_in_their_order(
    tmp_path: Path, data_dir: Path, activation: str, order: tuple[str, str]
) -> None:
    listed = [
        *modules("Transformer", "Pooling"),
        *({"path": f"2_{kind}", "type": f"sentence_transformers.models.{kind}"} for kind in order),
    ]
    folder = write_folder(tmp_path / "tiny", BERT, modules=listed)
    layer = write_dense(folder, DIM, 5, activation)
    model = load(folder, data_dir)
    assert model.engine.dim == 5
    functions: dict[str, Callable[[Any], Any]] = {
        "Tanh": np.tanh,
        "ReLU": lambda x: np.maximum(x, 0),
        "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    }
    active = functions.get(activation, lambda x: x)
    rows = [pooled(hidden(BERT, row.tolist()), "mean") for row in model.tokenizer.encode(TEXTS)]
    rows = [unit(row) for row in rows] if order[0] == "Normalize" else rows
    np.testing.assert_allclose(
        embed(model), [unit(active(layer @ np.append(row, 1))) for row in rows], atol=1e-6, err_msg=activation
    )


def test_vectors_that_the_graph_has_pooled_are_taken_as_they_are(tmp_path: Path, data_dir: Path) -> None:
    model = load(write_folder(tmp_path / "tiny", POOLED), data_dir)
    np.testing.assert_allclose(embed(model), expected(model, POOLED, "cls"), atol=1e-6)


def test_prompt_that_is_not_pooled_is_left_out_for_its_type_only(tmp_path: Path, data_dir: Path) -> None:
    prompts = {"prompts": {"query": "one two "}}
    folder = write_folder(
        tmp_path / "tiny",
        BERT,
        pooling={FLAGS["mean"]: True, "include_prompt": False},
        config_sentence_transformers=prompts,
    )
    settings = LocalSettings(models={"tiny": LocalModelSettings(path=folder)}, threads=1)
    pass_trial(folder, data_dir)
    models = LocalModels(settings, data_dir)
    (record,) = (model for model in models.models() if model.name == "tiny")
    assert record.routes[0].query_prefix == "one two "

    async def ask(input_type: Any) -> Vectors:
        provider = LocalProvider(models)
        route = Route("local", "tiny", DimRange(DIM, DIM, DIM), 16, "local")
        batch = Batch(("one two three four",), expected_dim=DIM, input_type=input_type)
        reply = await provider.embed(batch, route, time.monotonic() + 600)
        await provider.aclose()
        return reply.vectors

    (row,) = models.tokenizer("tiny").encode(["one two three four"])
    for input_type, n_prompt in (("query", 3), ("document", 0), (None, 0)):
        (vector,) = asyncio.run(ask(input_type))
        np.testing.assert_allclose(vector, unit(pooled(hidden(BERT, row.tolist()), "mean", n_prompt)), atol=1e-6)


def test_texts_of_a_model_that_pads_left_run_in_groups_of_equal_length(tmp_path: Path, data_dir: Path) -> None:
    tokenizer = {"pad_token": {"content": "[PAD]"}, "padding_side": "left"}
    folder = write_folder(tmp_path / "tiny", MODERNBERT, tokenizer_config=tokenizer, pooling={FLAGS["lasttoken"]: True})
    model = load(folder, data_dir)
    assert all(len({[8, 3, 5, 6, 4, 3][row] for row in run}) == 1 for run in model.engine.cut([8, 3, 5, 6, 4, 3]))
    np.testing.assert_allclose(embed(model), expected(model, MODERNBERT, "lasttoken"), atol=1e-6)
    together = model.engine.embed(model.tokenizer.encode(TEXTS))  # padded all the same, where positions do not count
    np.testing.assert_allclose(together, expected(model, MODERNBERT, "lasttoken"), atol=1e-6)


def test_texts_of_a_dynamically_quantized_graph_run_alone(tmp_path: Path, data_dir: Path) -> None:
    nodes = [helper.make_node("DynamicQuantizeLinear", ["embedded"], ["small", "scale", "point"])]
    folder = write_folder(tmp_path / "tiny", BERT, model=graph(BERT, nodes=nodes), file="onnx/model_quantized.onnx")
    model = load(folder, data_dir)
    assert sorted(model.engine.cut([3, 3, 3])) == [(0,), (1,), (2,)]
    np.testing.assert_allclose(embed(model), expected(model, BERT), atol=1e-6)


def test_external_data_beside_the_file_is_read(tmp_path: Path, data_dir: Path) -> None:
    folder = write_folder(tmp_path / "tiny", BERT)
    model = graph(BERT)
    convert_model_to_external_data(model, location="model.onnx_data", size_threshold=100)
    onnx.save(model, folder / "onnx" / "model.onnx")
    loaded = load(folder, data_dir)
    np.testing.assert_allclose(embed(loaded), expected(loaded, BERT), atol=1e-6)
    whole = (folder / "onnx" / "model.onnx").read_bytes() + (folder / "onnx" / "model.onnx_data").read_bytes()

    assert load(folder, data_dir, sha256=hashlib.sha256(whole).hexdigest()).engine.dim == DIM


def test_folder_of_a_hubs_cache_is_read_through_its_links(tmp_path: Path, data_dir: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    plain = write_folder(tmp_path / "plain", BERT)
    blobs.mkdir()
    for number, file in enumerate(sorted(path for path in plain.rglob("*") if path.is_file())):
        (blobs / str(number)).write_bytes(file.read_bytes())
        link = snapshot / file.relative_to(plain)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blobs / str(number))
    model = load(snapshot, data_dir)
    np.testing.assert_allclose(embed(model), expected(model, BERT), atol=1e-6)


def test_safetensors_of_a_bert_come_first_and_an_onnx_file_steps_in(tmp_path: Path, data_dir: Path) -> None:
    both = write_tiny_folder(tmp_path / "both")
    (both / "onnx").mkdir()
    (both / "onnx" / "model.onnx").write_bytes(b"not looked at")
    assert load(both, data_dir).engine.dim == TINY_CONFIG["hidden_size"]
    other = write_folder(tmp_path / "other", XLM_R, architectures=None)
    (other / "model.safetensors").write_bytes(b"not looked at")
    assert load(other, data_dir).engine.dim == DIM
    named = write_folder(tmp_path / "named", XLM_R, file="onnx/model_fp16.onnx")
    assert load(named, data_dir, file="onnx/model_fp16.onnx").engine.dim == DIM


def test_prefixes_and_limits_come_from_the_files(tmp_path: Path) -> None:
    folder = write_folder(
        tmp_path / "tiny",
        XLM_R,
        config_sentence_transformers={"prompts": {"query": "query: ", "all": "text: "}, "default_prompt_name": "all"},
        sentence_bert_config={"max_seq_length": 12, "do_lower_case": True},
        tokenizer_config={"model_max_length": 1e30, "pad_token": "[PAD]"},
    )
    models = LocalModels(LocalSettings(models={"tiny": LocalModelSettings(path=folder)}), tmp_path)
    (record,) = (model for model in models.models() if model.name == "tiny")
    assert (record.routes[0].query_prefix, record.routes[0].document_prefix) == ("query: ", "text: ")
    assert record.max_input_tokens == 12
    assert models.tokenizer("tiny").padding_id("[PAD]", None) == PAD
    assert models.tokenizer("tiny").count("ONE Two") == 4


def test_text_without_a_token_is_named(tmp_path: Path, data_dir: Path) -> None:
    model = load(write_folder(tmp_path / "tiny", BERT), data_dir)
    rows = [*model.tokenizer.encode(["one"]), np.empty(0, dtype=np.int32)]
    with pytest.raises(InvalidInput, match=r"input\[1\]"):
        model.engine.embed(rows)


def test_half_precision_is_widened(tmp_path: Path, data_dir: Path) -> None:
    half = Shape("bert", ("input_ids", "attention_mask"), output="last_hidden_state")
    nodes = [helper.make_node("Cast", ["wide"], ["last_hidden_state"], to=TensorProto.FLOAT16)]
    model = graph(Shape("bert", output="wide"), nodes=nodes, outputs=[
        helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT16, ["batch", "tokens", DIM])
    ])  # fmt: skip
    loaded = load(write_folder(tmp_path / "tiny", half, model=model), data_dir)
    np.testing.assert_allclose(embed(loaded), expected(loaded, half), atol=2e-3)
