"""Tiny encoders as ONNX files in model folders, and the same computed slowly in float64. For comparison only."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing

Doubles = npt.NDArray[np.float64]

WORDS = ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "one", "two", "three", "four", "five", "six", "seven", "eight")
PAD = 1
DIM = 8
MAX_POSITIONS = 16
_LOW = -1e4


@dataclass(frozen=True)
class Shape:
    """How the graphs of a family differ: what they take, and where positions come from."""

    model_type: str
    inputs: tuple[str, ...] = ("input_ids", "attention_mask")
    positions: Literal["none", "counted", "after padding", "given"] = "none"
    integer: int = TensorProto.INT64
    output: str = "last_hidden_state"
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def first_position(self) -> int:
        """The position of a text's first token."""
        return PAD + 1 if self.positions == "after padding" or self.model_type == "xlm-roberta" else 0


BERT = Shape("bert", ("input_ids", "attention_mask", "token_type_ids"), "counted")
XLM_R = Shape("xlm-roberta", positions="after padding")
MPNET = Shape("mpnet", positions="after padding", integer=TensorProto.INT32)
MODERNBERT = Shape("modernbert")
POSITIONED = Shape("xlm-roberta", ("input_ids", "attention_mask", "position_ids"), "given")
POOLED = Shape("bert", output="sentence_embedding")


def weights() -> dict[str, npt.NDArray[np.float32]]:
    """The encoder's numbers, always the same."""
    random = np.random.default_rng(11)
    shapes = {"words": (len(WORDS), DIM), "positions": (MAX_POSITIONS, DIM), "segments": (2, DIM)}
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def hidden(shape: Shape, ids: Sequence[int]) -> Doubles:
    """The vectors of the tokens of one text, (t, DIM), by the book."""
    table = {name: values.astype(np.float64) for name, values in weights().items()}
    rows = []
    for place, token in enumerate(ids):
        row = table["words"][token].copy()
        if shape.positions != "none":
            row += table["positions"][place + shape.first_position]
        if "token_type_ids" in shape.inputs:
            row += table["segments"][0]
        rows.append(row)
    mixed = []
    for row in rows:
        shares = [np.exp(row @ other / np.sqrt(DIM)) for other in rows]
        mixed.append(sum(share * other for share, other in zip(shares, rows, strict=True)) / sum(shares))
    return np.array(mixed)


def pooled(tokens: Doubles, mode: str, n_prompt: int = 0) -> Doubles:
    """One pooling mode over the tokens of one text, token by token. n_prompt: tokens that do not count."""
    counted: list[tuple[int, Doubles]] = [(place, row) for place, row in enumerate(tokens) if place >= n_prompt]
    if mode == "cls":
        return counted[0][1]
    if mode == "lasttoken":
        return counted[-1][1]
    if mode == "max":
        return np.array([max(row[column] for _, row in counted) for column in range(tokens.shape[1])])
    total = np.zeros(tokens.shape[1])
    weight = 0.0
    for place, row in counted:
        share = place + 1 if mode == "weightedmean" else 1
        total += share * row
        weight += share
    return total / (np.sqrt(weight) if mode == "mean_sqrt_len_tokens" else weight)


def unit(vector: Doubles) -> Doubles:
    """A vector at length 1."""
    scaled: Doubles = vector / np.sqrt(sum(value * value for value in vector))
    return scaled


def graph(shape: Shape, **changes: Any) -> onnx.ModelProto:
    """The family's graph. changes: extra nodes, inputs, outputs, axes, opset."""
    nodes: list[Any] = []

    def node(operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    numbers = {name: numpy_helper.from_array(values, name) for name, values in weights().items()}
    constants = {
        "one": np.array(1, np.int64), "zero": np.array(0, np.int64), "pad": np.array(PAD, np.int64),
        "axis1": np.array([1]), "axis_last": np.array([-1]), "low": np.array(_LOW, np.float32),
        "root": np.array(np.sqrt(DIM), np.float32), "unit": np.array(1, np.float32),
    }  # fmt: skip
    values = node("Gather", ["words", "input_ids"], "embedded")
    if shape.positions == "counted":
        length = node("Gather", [node("Shape", ["input_ids"], "shape"), "one"], "length")
        places = node("Range", ["zero", length, "one"], "places")
        values = node("Add", [values, node("Gather", ["positions", places], "placed")], "with_positions")
    elif shape.positions == "after padding":
        wide = node("Cast", ["input_ids"], "wide", to=TensorProto.INT64)
        equal = node("Equal", [wide, "pad"], "is_pad")
        real = node("Cast", [node("Not", [equal], "is_real")], "real", to=TensorProto.INT64)
        counted = node("Mul", [node("CumSum", [real, "one"], "counts"), real], "counted")
        places = node("Add", [counted, "pad"], "places")
        values = node("Add", [values, node("Gather", ["positions", places], "placed")], "with_positions")
    elif shape.positions == "given":
        values = node("Add", [values, node("Gather", ["positions", "position_ids"], "placed")], "with_positions")
    if "token_type_ids" in shape.inputs:
        values = node("Add", [values, node("Gather", ["segments", "token_type_ids"], "segment")], "with_segments")
    turned = node("Transpose", [values], "turned", perm=[0, 2, 1])
    scores = node("Div", [node("MatMul", [values, turned], "products"), "root"], "scores")
    mask = node("Cast", ["attention_mask"], "mask", to=TensorProto.FLOAT)
    hides = node("Mul", [node("Sub", ["unit", node("Unsqueeze", [mask, "axis1"], "row")], "away"), "low"], "hides")
    shares = node("Softmax", [node("Add", [scores, hides], "masked")], "shares", axis=-1)
    is_pooled = shape.output == "sentence_embedding"
    mixed = node("MatMul", [shares, values], "mixed" if is_pooled else shape.output)
    if is_pooled:  # the first token's
        node("Gather", [mixed, "zero"], shape.output, axis=1)
    axes = changes.get("axes", ["batch", "tokens"])
    outputs = changes.get("outputs") or [
        helper.make_tensor_value_info(
            shape.output, TensorProto.FLOAT, ["batch", DIM] if is_pooled else ["batch", "tokens", DIM]
        )
    ]
    used = {name for each in nodes for name in each.input}
    made = helper.make_graph(
        [*nodes, *changes.get("nodes", ())],
        "encoder",
        [
            helper.make_tensor_value_info(name, shape.integer, axes)
            for name in (*shape.inputs, *changes.get("inputs", ()))
        ],
        outputs,
        [tensor for name, tensor in numbers.items() if name in used]
        + [numpy_helper.from_array(value, name) for name, value in constants.items() if name in used],
    )
    opsets = [helper.make_opsetid("", changes.get("opset", 17)), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(made, opset_imports=[*opsets, *changes.get("opsets", ())], ir_version=8)


def write_folder(
    folder: Path,
    shape: Shape = BERT,
    *,
    model: onnx.ModelProto | None = None,
    file: str = "onnx/model.onnx",
    pooling: Mapping[str, Any] | None = None,
    **files: Any,
) -> Path:
    """A folder as hubs publish them. files: further JSON files, by name without `.json`; None leaves one out."""
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_bytes((model or graph(shape)).SerializeToString())
    config = {
        "model_type": shape.model_type, "hidden_size": DIM, "vocab_size": len(WORDS), "pad_token_id": PAD,
        "max_position_embeddings": MAX_POSITIONS, **shape.config,
    }  # fmt: skip
    written = {"config": config, "tokenizer_config": {"pad_token": "[PAD]"}, **files}
    for name, content in written.items():
        if content is not None:
            (folder / f"{name}.json").write_text(json.dumps(content))
    if pooling is not None:
        (folder / "1_Pooling").mkdir(exist_ok=True)
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    write_tokenizer(folder / "tokenizer.json")
    return folder


def write_tokenizer(file: Path) -> None:
    """A tokenizer of whole words."""
    tokenizer = Tokenizer(WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 2)])
    tokenizer.save(str(file))


def write_dense(folder: Path, n_in: int, n_out: int, activation: str = "Tanh", **config: Any) -> Doubles:
    """A dense layer in `2_Dense`, with a bias. Returns kernel and bias as one (n_out, n_in + 1)."""
    random = np.random.default_rng(5)
    kernel, bias = random.normal(size=(n_out, n_in)), random.normal(size=n_out)
    place = folder / "2_Dense"
    place.mkdir(exist_ok=True)
    layer = {"linear.weight": kernel.astype(np.float32), "linear.bias": bias.astype(np.float32)}
    save_file(layer, place / "model.safetensors")
    known = {"in_features": n_in, "out_features": n_out, "activation_function": f"torch.nn.modules.x.{activation}"}
    (place / "config.json").write_text(json.dumps({**known, **config}))
    return np.hstack([layer["linear.weight"], layer["linear.bias"][:, np.newaxis]]).astype(np.float64)


def modules(*kinds: str) -> list[dict[str, str]]:
    """The content of modules.json: kinds in their order, each in the folder that hubs give it."""
    return [
        {"path": "" if kind == "Transformer" else f"{place}_{kind}", "type": f"sentence_transformers.models.{kind}"}
        for place, kind in enumerate(kinds)
    ]


def pass_trial(folder: Path, data_dir: Path) -> None:
    """Spare the graphs of a folder the trial in a process of its own, which takes a second for each."""
    (data_dir / "models").mkdir(parents=True, exist_ok=True)
    for file in folder.rglob("*.onnx"):
        digest = hashlib.sha256(file.read_bytes())
        for data in sorted(file.parent.glob("*_data")):
            digest.update(data.read_bytes())
        (data_dir / "models" / f"{digest.hexdigest()}.tried").touch()
