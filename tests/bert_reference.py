"""A slow, obvious BERT in float64, and a tiny random model folder to run it on. For comparison only."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import safetensors
from safetensors.numpy import save_file
from scipy.special import erf
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

Doubles = npt.NDArray[np.float64]

TINY_WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "one", "two", "three", "four", "five", "six", "seven", "eight")
TINY_CONFIG: dict[str, Any] = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_act": "gelu",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 16,
    "vocab_size": 12,
    "layer_norm_eps": 1e-5,
}


def read_weights(file: Path, prefix: str = "") -> dict[str, Doubles]:
    """Every tensor of a safetensors file, without the prefix of its names."""
    with safetensors.safe_open(file, framework="numpy") as tensors:
        return {
            name.removeprefix(prefix): np.asarray(tensors.get_tensor(name)).astype(np.float64)
            for name in tensors.keys()  # noqa: SIM118 - the handle is no mapping
        }


def embed_one(weights: Mapping[str, Doubles], config: Mapping[str, Any], ids: list[int], pooling: str) -> Doubles:
    """The unit vector of one text, layer by layer as the paper has it. ids: with special tokens. Returns (dim,)."""
    epsilon, n_heads = config["layer_norm_eps"], config["num_attention_heads"]

    def dense(name: str, values: Doubles) -> Doubles:
        return values @ weights[name + ".weight"].T + weights[name + ".bias"]

    def norm(name: str, values: Doubles) -> Doubles:
        centred = values - values.mean(axis=-1, keepdims=True)
        spread = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon)
        scaled: Doubles = centred / spread * weights[name + ".weight"] + weights[name + ".bias"]
        return scaled

    hidden: Doubles = (
        weights["embeddings.word_embeddings.weight"][ids]
        + weights["embeddings.position_embeddings.weight"][: len(ids)]
        + weights["embeddings.token_type_embeddings.weight"][0]
    )
    hidden = norm("embeddings.LayerNorm", hidden)
    for layer in range(config["num_hidden_layers"]):
        name = f"encoder.layer.{layer}."
        query, key, value = (
            dense(name + f"attention.self.{part}", hidden).reshape(len(ids), n_heads, -1).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / np.sqrt(query.shape[-1])
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        mixed = (shares @ value).transpose(1, 0, 2).reshape(len(ids), -1)
        hidden = norm(name + "attention.output.LayerNorm", hidden + dense(name + "attention.output.dense", mixed))
        wide = dense(name + "intermediate.dense", hidden)
        active = wide * 0.5 * (1 + erf(wide / np.sqrt(2)))
        hidden = norm(name + "output.LayerNorm", hidden + dense(name + "output.dense", active))
    pooled: Doubles = hidden[0] if pooling == "cls" else hidden.mean(axis=0)
    unit: Doubles = pooled / np.linalg.norm(pooled)
    return unit


def write_tiny_folder(
    folder: Path, *, pooling: str = "mean", prefix: str = "", half: bool = False, **config: Any
) -> Path:
    """A random BERT of two layers with a tokenizer of eight words, whose file truncates to 4 and pads to 8 tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = TINY_CONFIG | config
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    modes = {"pooling_mode_cls_token": pooling == "cls", "pooling_mode_mean_tokens": pooling == "mean"}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    kind = ml_dtypes.bfloat16 if half else np.float32
    save_file(
        {prefix + name: values.astype(kind) for name, values in _random_weights().items()},
        folder / "model.safetensors",
    )
    tokenizer = Tokenizer(WordPiece({word: place for place, word in enumerate(TINY_WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def _random_weights() -> dict[str, Doubles]:
    dim, wide = TINY_CONFIG["hidden_size"], TINY_CONFIG["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (TINY_CONFIG["vocab_size"], dim),
        "embeddings.position_embeddings.weight": (TINY_CONFIG["max_position_embeddings"], dim),
        "embeddings.token_type_embeddings.weight": (2, dim),
        "embeddings.LayerNorm.weight": (dim,),
        "embeddings.LayerNorm.bias": (dim,),
    }
    for layer in range(TINY_CONFIG["num_hidden_layers"]):
        name = f"encoder.layer.{layer}."
        dense = {
            "attention.self.query": (dim, dim),
            "attention.self.key": (dim, dim),
            "attention.self.value": (dim, dim),
        }
        dense |= {"attention.output.dense": (dim, dim), "intermediate.dense": (wide, dim), "output.dense": (dim, wide)}
        for part, shape in dense.items():
            shapes |= {name + part + ".weight": shape, name + part + ".bias": shape[:1]}
        for part in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {name + part + ".weight": (dim,), name + part + ".bias": (dim,)}
    random = np.random.default_rng(7)
    return {name: random.normal(scale=0.3, size=shape) for name, shape in shapes.items()}
