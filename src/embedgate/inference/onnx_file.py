"""ONNX file of a model folder: read into memory with its external data, and checked before any engine sees it.

Everything is read, not mapped: a file that is cut short under a mapping would end the process. External data must lie
beside the file. Operators are those of ONNX and of onnxruntime; a graph with others would need code from elsewhere.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from embedgate.core.errors import ConfigError
from embedgate.inference.extras import import_extra
from embedgate.inference.folder_files import FolderFiles

MAX_GRAPH_BYTES = 2**31 - 1
"""Of the file itself: a protobuf message has no more. External data may be larger."""

_DOMAINS = {"", "ai.onnx", "com.microsoft"}
_EXTERNAL = 1  # TensorProto.DataLocation
_MAX_EXTERNAL_FILES = 1_000  # one for each tensor is usual in some exports; more than a model has is damage
# Activations are scaled over the whole run, so that a text's vector would depend on its neighbours.
_DYNAMIC = {"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"}


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """A checked file. `external` has the files of its external data by name. `sha256` covers all of them.

    `is_dynamic`: whether a text must run alone for its vector not to depend on others.
    """

    name: str
    content: bytes
    external: dict[str, bytes]
    is_dynamic: bool
    sha256: str


def read_onnx_file(files: FolderFiles, name: str, max_bytes: int) -> OnnxFile:
    """Read and check one file. max_bytes: of it and its external data together.

    Raises ConfigError naming the file at fault, DependencyMissing without onnx.
    """
    onnx = import_extra("onnx", "local")
    content = files.read(name, min(max_bytes, MAX_GRAPH_BYTES))
    place = files.path / name
    try:
        model = onnx.ModelProto.FromString(content)
    except Exception as error:  # of protobuf, which raises its own class of each of its engines
        raise ConfigError([f"{place} is no ONNX model, or damaged: {error}"]) from error
    if not model.graph.node:
        raise ConfigError([f"{place} is no ONNX model, or damaged: it has no graph"])
    scan = _Scan(onnx, model)
    if scan.unknown:
        names = ", ".join(sorted(scan.unknown)[:5])
        raise ConfigError([f"{place} needs operators that are not built in ({names}); their code is never loaded"])
    external = _read_external(files, name, sorted(scan.locations), max_bytes - len(content))
    digest = hashlib.sha256(content)
    for location in sorted(external):
        digest.update(external[location])
    return OnnxFile(name, content, external, scan.is_dynamic, digest.hexdigest())


def beside(files: FolderFiles, name: str) -> list[str]:
    """The files that may be external data of an ONNX file: all beside it but small text files and other graphs."""
    folder = (files.path / name).parent
    parent = PurePosixPath(name).parent
    try:
        found = sorted(
            file.name for file in folder.iterdir() if file.suffix not in (".json", ".md", ".txt") and file.is_file()
        )
    except OSError as error:
        raise ConfigError([f"{folder} cannot be read: {error.strerror or error}"]) from error
    own = PurePosixPath(name).name
    return [str(parent / each) for each in found if each == own or not each.endswith((".onnx", ".safetensors"))]


class _Scan:
    """What a model needs: operators that are not built in, and locations of external data. Follows inner graphs."""

    def __init__(self, onnx: Any, model: Any) -> None:
        self._onnx = onnx
        self._functions = {(_text(function.domain), _text(function.name)) for function in model.functions}
        self.unknown: set[str] = set()
        self.locations: set[str] = set()
        self.is_dynamic = False
        self._graph(model.graph)
        for function in model.functions:
            for node in function.node:
                self._node(node)

    def _graph(self, first: Any) -> None:
        waiting = [first]
        while waiting:
            graph = waiting.pop()
            for tensor in self._tensors(graph):
                self._tensor(tensor)
            for node in graph.node:
                self._node(node)
                for attribute in node.attribute:
                    waiting += [attribute.g] if attribute.HasField("g") else []
                    waiting += attribute.graphs

    @staticmethod
    def _tensors(graph: Any) -> Iterator[Any]:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield sparse.values
            yield sparse.indices

    def _node(self, node: Any) -> None:
        domain, operator = _text(node.domain), _text(node.op_type)
        if (domain, operator) not in self._functions:
            is_known = domain in _DOMAINS and (domain == "com.microsoft" or self._onnx.defs.has(operator))
            if not is_known:
                self.unknown.add(f"{domain}.{operator}" if domain else operator)
        self.is_dynamic = self.is_dynamic or operator in _DYNAMIC
        for attribute in node.attribute:
            for tensor in (attribute.t, *attribute.tensors):
                self._tensor(tensor)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                self._tensor(sparse.values)
                self._tensor(sparse.indices)

    def _tensor(self, tensor: Any) -> None:
        if tensor.data_location == _EXTERNAL or tensor.external_data:
            self.locations.add(next((_text(each.value) for each in tensor.external_data if each.key == "location"), ""))


def _text(value: str | bytes) -> str:
    """A text of the file. What is not UTF-8 comes as bytes; it is no name of anything."""
    return value if isinstance(value, str) else repr(value)


def _read_external(files: FolderFiles, name: str, locations: list[str], max_bytes: int) -> dict[str, bytes]:
    if len(locations) > _MAX_EXTERNAL_FILES:
        raise ConfigError([f"{files.path / name} names {len(locations)} files of external data; that is damage"])
    parent = PurePosixPath(name).parent
    external: dict[str, bytes] = {}
    for location in locations:
        if not location or "/" in location.removeprefix("./") or location in (".", ".."):
            raise ConfigError([f"{files.path / name}: its external data {location!r} must lie in a file beside it"])
        external[location] = files.read(str(parent / location), max(max_bytes, 0))
        max_bytes -= len(external[location])
    return external
