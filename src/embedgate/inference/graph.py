"""ONNX graph of a BERT encoder, built from its safetensors weights: token ids in, unit vectors out.

The graph is made of onnxruntime's fused operators (domain com.microsoft), which a general exporter does not
emit; with pooling and scaling inside, no per-token array leaves the engine. Precision is float32 and nothing
else: dynamic int8 scales activations over the whole batch, so that a text's vector would depend on its
neighbours (cosine down to 0.970).

Inputs of the graph: `ids` (n, tokens) int32, padded on the right with any valid id; `lengths` (n,) int32. Output:
`vectors` (n, dim) float32, rows of unit length.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedgate.core.errors import ConfigError
from embedgate.inference.extras import import_extra
from embedgate.inference.kept import Buffer, field_head
from embedgate.inference.model_folder import EncoderSpec
from embedgate.inference.tensors import Floats, Tensors

GRAPH_VERSION = 1
"""Version in the name of a cached graph: raise it whenever the graph of the same weights changes."""

_OPSET = 17
_IR_VERSION = 8
_FUSED = "com.microsoft"
_MAX_BYTES = 2**31 - 2**20  # a protobuf message is limited to 2 GiB; a mebibyte is left for the nodes
_FLOAT_BYTES = 4
_SEGMENTS = 2
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
"""Numbers of fields: of a model, of a graph, of a tensor."""


def build_graph(weights_file: Path, spec: EncoderSpec) -> Iterator[Buffer]:
    """Build the serialized model, in pieces: whole, it would be in memory three times. Each is to be used at once.

    The same weights and spec always give the same bytes.
    Raises ConfigError if the file is damaged, too large, or does not hold the encoder that `spec` describes;
    DependencyMissing without onnx and safetensors.
    """
    weights = Tensors(weights_file)
    if weights.n_values * _FLOAT_BYTES > _MAX_BYTES:
        raise ConfigError([f"model file {weights_file} needs more than the 2 GiB that one graph holds in float32"])
    builder = _Builder(weights, spec)
    hidden = builder.embeddings()
    for layer in range(spec.n_layers):
        hidden = builder.layer(layer, hidden)
    builder.pooling(hidden)
    return builder.serialized()


class _Builder:
    """Adds nodes and constants to a model. A node is named after its first output."""

    def __init__(self, weights: Tensors, spec: EncoderSpec) -> None:
        self._onnx = import_extra("onnx", "local")
        self._weights = weights
        self._spec = spec
        self._graph: Any = self._onnx.GraphProto()
        self._constants: list[tuple[str, npt.NDArray[Any]]] = []
        # A checkpoint of a model with a head has the encoder under this prefix.
        self._prefix = "bert." if "bert.embeddings.word_embeddings.weight" in weights else ""

    def embeddings(self) -> str:
        """Word plus position plus segment vectors, normalised."""
        dim = self._spec.dim
        segments = self._weight("embeddings.token_type_embeddings.weight", _SEGMENTS, dim)
        positions = self._weight("embeddings.position_embeddings.weight", self._spec.max_positions, dim)
        words = self._weight("embeddings.word_embeddings.weight", self._spec.vocabulary_size, dim)
        inputs = [
            "ids",
            "",
            self._constant("word", words),
            # Every token of a single text is in segment 0, so that vector is added once for all here.
            self._constant("position", positions + segments[0]),
            "",
            *self._norm("embeddings.LayerNorm"),
        ]
        outputs = ["hidden", "mask"]  # the operator requires its second output, which is not used
        self._append("EmbedLayerNormalization", inputs, outputs, _FUSED, epsilon=self._spec.layer_norm_epsilon)
        return outputs[0]

    def layer(self, number: int, hidden: str) -> str:
        """Self-attention, then the feed-forward step, each with its residual and normalisation."""
        dim, wide = self._spec.dim, self._spec.intermediate_dim
        name = f"encoder.layer.{number}."
        parts = [name + f"attention.self.{part}" for part in ("query", "key", "value")]
        kernel = np.concatenate([self._weight(part + ".weight", dim, dim).T for part in parts], axis=1)
        bias = np.concatenate([self._weight(part + ".bias", dim) for part in parts])
        inputs = [hidden, self._constant(name + "qkv", kernel), self._constant(name + "qkv.bias", bias), "lengths"]
        mixed = self._node("Attention", inputs, name + "attention", _FUSED, num_heads=self._spec.n_heads)
        attended = self._residual(name + "attention.output", mixed, hidden, dim)
        widened = self._dense(name + "intermediate", attended, dim, wide)
        # BiasGelu is the exact Gelu by erf; FastGelu would be the approximation by tanh.
        bias_name = self._bias(name + "intermediate", wide)
        active = self._node("BiasGelu", [widened, bias_name], name + "gelu", _FUSED)
        return self._residual(name + "output", active, attended, wide)

    def pooling(self, hidden: str) -> None:
        """One vector per text, of unit length: the first token's, or the mean over the real tokens."""
        zero = self._constant("zero", np.array(0))
        if self._spec.pooling == "cls":
            pooled = self._node("Gather", [hidden, zero], "pooled", axis=1)
        else:
            # A product with a row of ones and zeros is a sum, which has the direction of the mean.
            product = self._node("MatMul", [self._real_tokens(zero), hidden], "sum")
            pooled = self._node("Squeeze", [product, "axis"], "pooled")
        self._node("LpNormalization", [pooled], "vectors", axis=-1, p=2)

    def _real_tokens(self, zero: str) -> str:
        """(n, 1, tokens) float32: 1 where a text has a token, 0 where it is padded."""
        types = self._onnx.TensorProto
        one, axis = self._constant("one", np.array(1)), self._constant("axis", np.array([1]))
        n_tokens = self._node("Gather", [self._node("Shape", ["ids"], "shape"), one], "n_tokens")
        places = self._node("Range", [zero, n_tokens, one], "places")
        ends = self._node("Cast", ["lengths"], "ends", to=types.INT64)
        is_real = self._node("Less", [places, self._node("Unsqueeze", [ends, axis], "ends.column")], "is_real")
        row = self._node("Unsqueeze", [is_real, axis], "is_real.row")
        return self._node("Cast", [row], "is_real.float", to=types.FLOAT)

    def serialized(self) -> Iterator[Buffer]:
        """The model of everything added so far.

        Written by hand around the large constants, as protobuf lays messages out: the library would copy them twice.
        """
        make, types, graph = self._onnx.helper, self._onnx.TensorProto, self._graph
        graph.name = "encoder"
        graph.input.append(make.make_tensor_value_info("ids", types.INT32, ["n", "tokens"]))
        graph.input.append(make.make_tensor_value_info("lengths", types.INT32, ["n"]))
        graph.output.append(make.make_tensor_value_info("vectors", types.FLOAT, ["n", self._spec.dim]))
        model = self._onnx.ModelProto(ir_version=_IR_VERSION)
        model.opset_import.extend([make.make_opsetid("", _OPSET), make.make_opsetid(_FUSED, 1)])
        nodes = graph.SerializeToString(deterministic=True)
        heads = []
        for name, values in self._constants:
            kind = make.np_dtype_to_tensor_dtype(values.dtype)
            head = types(name=name, data_type=kind, dims=values.shape).SerializeToString(deterministic=True)
            head += field_head(_RAW_DATA, values.nbytes)
            heads.append(field_head(_INITIALIZER, len(head) + values.nbytes) + head)
        size_bytes = len(nodes) + sum(map(len, heads)) + sum(values.nbytes for _, values in self._constants)
        yield model.SerializeToString(deterministic=True) + field_head(_GRAPH, size_bytes) + nodes
        for head, (_, values) in zip(heads, self._constants, strict=True):
            yield head
            yield np.ascontiguousarray(values, values.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data

    def _residual(self, name: str, values: str, residual: str, n_in: int) -> str:
        """A dense step back to the model's own width, added to `residual`, normalised."""
        dim = self._spec.dim
        product = self._dense(name, values, n_in, dim)
        inputs = [product, residual, *self._norm(name + ".LayerNorm"), self._bias(name, dim)]
        epsilon = self._spec.layer_norm_epsilon
        return self._node("SkipLayerNormalization", inputs, name + ".normal", _FUSED, epsilon=epsilon)

    def _dense(self, name: str, values: str, n_in: int, n_out: int) -> str:
        """The product only: the bias belongs to the fused operator that follows."""
        kernel = self._constant(name + ".kernel", self._weight(name + ".dense.weight", n_out, n_in).T)
        return self._node("MatMul", [values, kernel], name)

    def _bias(self, name: str, n_out: int) -> str:
        return self._constant(name + ".bias", self._weight(name + ".dense.bias", n_out))

    def _norm(self, name: str) -> list[str]:
        return [self._constant(name + part, self._weight(name + part, self._spec.dim)) for part in (".weight", ".bias")]

    def _weight(self, name: str, *shape: int) -> Floats:
        return self._weights.get(self._prefix + name, *shape)

    def _constant(self, name: str, values: npt.NDArray[Any]) -> str:
        self._constants.append((name, values))
        return name

    def _node(self, operator: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: Any) -> str:
        self._append(operator, inputs, [output], domain, **attributes)
        return output

    def _append(
        self, operator: str, inputs: Sequence[str], outputs: Sequence[str], domain: str, **attributes: Any
    ) -> None:
        node = self._onnx.helper.make_node(operator, inputs, outputs, outputs[0], domain=domain, **attributes)
        self._graph.node.append(node)
