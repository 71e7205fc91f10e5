"""What is no encoder of texts, leads out of its folder, or is damaged, is refused in a sentence that names the file."""

import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from embedgate.core.errors import ConfigError, InternalError
from embedgate.inference.runtime import LocalModels
from embedgate.inference.trial import Tried, try_once
from embedgate.settings import LocalModelSettings, LocalSettings

pytest.importorskip("onnx", reason="the extra embedgate[local] is not installed")
pytest.importorskip("onnxruntime", reason="the extra embedgate[local] is not installed")

import onnx
from onnx import TensorProto, helper
from onnx.external_data_helper import convert_model_to_external_data

from onnx_folders import BERT, DIM, POOLED, Shape, graph, modules, pass_trial, write_dense, write_folder


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def load(folder: Path, data_dir: Path, **entry: Any) -> None:
    pass_trial(folder, data_dir)
    settings = LocalSettings(models={"tiny": LocalModelSettings(path=folder, **entry)}, threads=1)
    LocalModels(settings, data_dir).load("tiny")


def refused(folder: Path, data_dir: Path, **entry: Any) -> str:
    """The one sentence with which a folder is refused."""
    with pytest.raises(ConfigError) as caught:
        load(folder, data_dir, **entry)
    (sentence,) = caught.value.mistakes
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"architectures": ["GemmaForCausalLM"], "model_type": "gemma"}, "GemmaForCausalLM, decoder-only"),
        ({"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}, "an encoder-decoder"),
        ({"architectures": ["CLIPModel"], "vision_config": {}}, "CLIPModel, a model of images"),
        ({"hidden_size": None}, "hidden_size is None"),
        ({"hidden_size": -4}, "hidden_size is -4"),
    ],
)
def test_other_kinds_of_models_are_named(tmp_path: Path, data_dir: Path, config: dict[str, Any], words: str) -> None:
    sentence = refused(write_folder(tmp_path / "tiny", Shape("other", config=config)), data_dir)
    assert words in sentence
    assert "tiny/config.json" in sentence


def test_encoder_of_an_encoder_decoder_is_one(tmp_path: Path, data_dir: Path) -> None:
    config = {"architectures": ["T5EncoderModel"], "is_encoder_decoder": True, "hidden_size": None, "d_model": DIM}
    load(write_folder(tmp_path / "tiny", Shape("t5", config=config)), data_dir)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"inputs": ("pixel_values",)}, "a model of images (it takes pixel_values)"),
        ({"inputs": ("past_key_values.0.key",)}, "a decoder"),
        ({"inputs": ("decoder_input_ids",)}, "an encoder-decoder"),
        ({"inputs": ("task_id",)}, "takes task_id"),
        ({"axes": ["batch", 512]}, "fixed size of 512"),
        ({"axes": [1, "tokens"]}, "fixed size of 1"),
        ({"axes": ["batch", "tokens", "more"]}, "3 axes"),
        ({"opset": 90}, "opset"),
        (
            {"outputs": [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", "tokens", "tokens"])]},
            "gives scores; an encoder gives one of last_hidden_state",
        ),
        (
            {
                "nodes": [helper.make_node("Magic", ["embedded"], ["more"], domain="com.example")],
                "opsets": [helper.make_opsetid("com.example", 1)],
            },
            "operators that are not built in (com.example.Magic)",
        ),
        ({"nodes": [helper.make_node("Magic", ["embedded"], ["more"])]}, "operators that are not built in (Magic)"),
        (
            {"nodes": [helper.make_node("Magic", ["embedded"], ["more"], domain="com.microsoft")]},
            "cannot be loaded",
        ),
    ],
)
def test_graph_that_is_no_encoder_is_refused(
    tmp_path: Path, data_dir: Path, changes: dict[str, Any], words: str
) -> None:
    sentence = refused(write_folder(tmp_path / "tiny", BERT, model=graph(BERT, **changes)), data_dir)
    assert words in sentence
    assert "tiny/onnx/model.onnx" in sentence


def test_operators_in_an_inner_graph_are_looked_at(tmp_path: Path, data_dir: Path) -> None:
    inner = helper.make_graph(
        [helper.make_node("Magic", ["embedded"], ["inside"], domain="com.example")],
        "inner",
        [],
        [helper.make_tensor_value_info("inside", TensorProto.FLOAT, None)],
    )
    node = helper.make_node("If", ["flag"], ["chosen"], then_branch=inner, else_branch=inner)
    folder = write_folder(tmp_path / "tiny", BERT, model=graph(BERT, nodes=[node]))
    assert "com.example.Magic" in refused(folder, data_dir)


def test_shapes_that_do_not_fit_the_files_are_refused(tmp_path: Path, data_dir: Path) -> None:
    wide = write_folder(tmp_path / "wide", Shape(BERT.model_type, BERT.inputs, "counted", config={"hidden_size": 9}))
    assert "has 8 components; by config.json and modules.json they are 9" in refused(wide, data_dir)
    prompt = {"pooling_mode": "mean", "include_prompt": False}
    pooled = write_folder(tmp_path / "pooled", POOLED, pooling=prompt)
    assert "pools by itself; include_prompt false" in refused(pooled, data_dir)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "2_Dense" / "config.json").unlink(), "2_Dense/config.json does not exist"),
        (lambda folder: (folder / "2_Dense" / "model.safetensors").unlink(), "a file of pickles is not read"),
        (lambda folder: (folder / "2_Dense" / "model.safetensors").write_bytes(b"x" * 90), "2_Dense/model.safetensors"),
        (lambda folder: write_dense(folder, DIM, 5, "Mish"), "activation_function Mish"),
        (lambda folder: write_dense(folder, DIM, 5, use_residual=True), "use_residual"),
        (lambda folder: write_dense(folder, DIM, 5, module_input_name="token_embeddings"), "sentence_embedding"),
        (lambda folder: write_dense(folder, DIM, 5, out_features=-1), "in_features and out_features are 8 and -1"),
        (lambda folder: write_dense(folder, DIM, 5, out_features=6), "linear.weight has shape (5, 8)"),
        (lambda folder: (folder / "modules.json").write_text('[{"path": "", "type": "x.CNN"}]'), "CNN cannot be run"),
        (lambda folder: (folder / "modules.json").write_text('[{"path": "", "type": "x.Dense"}]'), "Transformer comes"),
        (
            lambda folder: (folder / "modules.json").write_text(
                '[{"path": "", "type": "x.Transformer"}, {"path": "../../etc", "type": "x.Pooling"}]'
            ),
            "leads out of the folder",
        ),
        (
            lambda folder: (folder / "modules.json").write_text(
                '[{"path": "", "type": "x.Transformer"}, {"path": "/etc", "type": "x.Dense"}]'
            ),
            "leads out of the folder",
        ),
    ],
)  # fmt: skip
def test_layers_that_cannot_be_run_are_refused(
    tmp_path: Path, data_dir: Path, spoil: Callable[[Path], object], words: str
) -> None:
    folder = write_folder(tmp_path / "tiny", BERT, modules=modules("Transformer", "Pooling", "Dense", "Normalize"))
    write_dense(folder, DIM, 5)
    spoil(folder)
    assert words in refused(folder, data_dir)


def _external(folder: Path, location: str) -> None:
    """Have the graph's weights in a file of that name, whether it is there or not."""
    model = graph(BERT)
    convert_model_to_external_data(model, location="data", size_threshold=100)
    onnx.save(model, folder / "onnx" / "model.onnx")
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    (folder / "onnx" / "model.onnx").write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    "location",
    [
        "../data",
        "../../../../etc/passwd",
        "/etc/passwd",
        "absent",
        "",
        "..",
        "a/../../b",
        "*/_ORT_MEM_ADDR_/*",
        "\\\\x\\y",
    ],
)
def test_external_data_elsewhere_are_refused(tmp_path: Path, data_dir: Path, location: str) -> None:
    folder = write_folder(tmp_path / "tiny", BERT)
    _external(folder, location)
    (folder / "data").write_bytes(b"\0" * 4096)
    assert "tiny" in refused(folder, data_dir)


def test_external_data_that_are_a_link_or_cut_short_are_refused(tmp_path: Path, data_dir: Path) -> None:
    folder = write_folder(tmp_path / "tiny", BERT)
    _external(folder, "data")
    data = folder / "onnx" / "data"
    whole = data.read_bytes()
    data.write_bytes(whole[: len(whole) // 2])
    assert "onnx/model.onnx cannot be loaded" in refused(folder, data_dir)
    (tmp_path / "outside").write_bytes(whole)
    data.unlink()
    data.symlink_to(tmp_path / "outside")
    assert "is a link that leads out of the folder" in refused(folder, data_dir)


def test_files_that_are_links_or_too_large_are_refused(tmp_path: Path, data_dir: Path) -> None:
    folder = write_folder(tmp_path / "tiny", BERT)
    file = folder / "onnx" / "model.onnx"
    settings = LocalSettings(models={"tiny": LocalModelSettings(path=folder)}, max_model_bytes=500)
    with pytest.raises(ConfigError, match=r"onnx/model\.onnx has \d+ bytes; at most 500 are read"):
        LocalModels(settings, data_dir).load("tiny")
    file.rename(tmp_path / "outside.onnx")
    file.symlink_to(tmp_path / "outside.onnx")
    assert "leads out of the folder" in refused(folder, data_dir)
    file.unlink()
    assert "leads out of the folder" in refused(folder, data_dir, file="../outside.onnx")
    assert "only files of safetensors and ONNX" in refused(folder, data_dir, file="pytorch_model.bin")
    file.symlink_to(file)
    with pytest.raises(ConfigError, match="has no onnx/model.onnx"):
        LocalModels(LocalSettings(models={"tiny": LocalModelSettings(path=folder, file="onnx/model.onnx")}), data_dir)


def test_pinned_and_changed_files_are_refused(tmp_path: Path, data_dir: Path) -> None:
    folder = write_folder(tmp_path / "tiny", BERT)
    assert "has SHA-256" in refused(folder, data_dir, sha256="0" * 64)
    models = LocalModels(LocalSettings(models={"tiny": LocalModelSettings(path=folder)}), data_dir)
    (before,) = (model.revision for model in models.models() if model.name == "tiny")
    (folder / "onnx" / "model.onnx_data").write_bytes(b"new beside it")
    with pytest.raises(ConfigError, match="was changed since the start"):
        models.load("tiny")
    again = LocalModels(LocalSettings(models={"tiny": LocalModelSettings(path=folder)}), data_dir)
    assert before not in [model.revision for model in again.models()]


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_graph_ends_in_a_sentence(tmp_path: Path, data_dir: Path, seed: int, capfd: Any) -> None:
    folder = write_folder(tmp_path / "tiny", BERT)
    file = folder / "onnx" / "model.onnx"
    dice = random.Random(seed)
    content = bytearray(file.read_bytes())
    if seed % 4 == 0:
        content = content[: dice.randrange(len(content))]
    else:
        for _ in range(seed % 4):
            content[dice.randrange(len(content))] = dice.choice([0, 1, 127, 128, 255])
    file.write_bytes(content)
    try:
        load(folder, data_dir)
    except (ConfigError, InternalError) as error:
        assert "model.onnx" in str(error)
    assert capfd.readouterr().out == ""


def test_a_file_is_tried_once_in_a_process_of_its_own(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "tiny", BERT)
    models = LocalModels(LocalSettings(models={"tiny": LocalModelSettings(path=folder)}, threads=1), tmp_path / "data")
    assert models.load("tiny").engine.dim == DIM
    (mark,) = (tmp_path / "data" / "models").iterdir()
    assert mark.suffix == ".tried"
    tried = Tried(str(folder), "onnx/model.onnx", 1, 10**9)
    try_once(tried, mark, program=("no such program",))


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", r"ended the process that tried it \(SIGSEGV\)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", r"ended the process that tried it \(SIGKILL\)"),
        ("import sys; sys.stderr.write('one\\ntwo'); sys.exit(3)", r"^one\ntwo$"),
        ("raise MemoryError('too much')", "could not be tried: MemoryError: too much"),
    ],
)
def test_a_file_that_ends_its_trial_is_refused_and_tried_again(tmp_path: Path, code: str, words: str) -> None:
    tried = Tried("/models/tiny", "model.onnx", 0, 10**9)
    with pytest.raises(ConfigError, match=words):
        try_once(tried, tmp_path / "mark", program=(sys.executable, "-S", "-c", code))
    assert not (tmp_path / "mark").exists()


def test_a_trial_that_never_ends_is_ended(tmp_path: Path) -> None:
    program = (sys.executable, "-S", "-c", "import time; time.sleep(3600)")
    with pytest.raises(ConfigError, match=r"did not finish a trial run in 0\.05 s"):
        try_once(Tried("/models/tiny", "model.onnx", 0, 1), tmp_path / "mark", timeout_s=0.05, program=program)
