"""What providers answer, as they document it: one file for each in `providers/replies/`, with vectors of our own.

A file is a list of cases, one for each body that the provider has. In its JSON `@texts` and `@text` stand for the
inputs, `@key` for the credential, and `float[1]`, `base64[1]` and `int8[1]` for the vector of the second input.
"""

import base64
import json
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from embedgate.catalog import Catalog
from embedgate.core.models import DimRange, Route
from embedgate.core.types import Batch
from embedgate.core.vectors import Vectors
from embedgate.providers import hosts
from embedgate.providers.hosts import Host

FOLDER = Path(__file__).parent / "providers" / "replies"
TEXTS = ("first", "second", "\u7b2c\u4e09")
KEY = "k-3f9c27d1a58e"
VECTORS = np.array([[0.6, 0.8], [0.8, -0.6], [-1.0, 0.0]], dtype=np.float32)
DIM = VECTORS.shape[1]
_WHOLE = np.rint(VECTORS * 100).astype(np.int8)
_UNKNOWN = Route("", "m-1", DimRange(4, DIM, 4), 512, "unknown", accepts_dim=True)

TABLE: Mapping[str, Host] = hosts.load()
_CATALOG = Catalog.builtin()


@dataclass(frozen=True)
class Recorded:
    """One way in which a provider is called: the calls that are right, the answers and the faults it documents."""

    provider: str
    model: str | None
    inputs: int
    calls: tuple[dict[str, Any], ...]
    answers: tuple[dict[str, Any], ...]
    faults: tuple[dict[str, Any], ...]
    at: str | None = None
    base: str | None = None

    @property
    def host(self) -> Host:
        """The provider's row."""
        return TABLE[self.provider]

    @property
    def route(self) -> Route:
        """The route of the model in the catalogue, as the row changes it."""
        route = _UNKNOWN
        if self.model is not None:
            model = _CATALOG.find(self.model)
            assert model is not None
            (route,) = [route for route in model.routes if route.provider == (self.at or self.provider)]
        return self.host.adapt(replace(route, provider=self.provider))

    def base_url(self, port: int) -> str:
        """The provider's address, but on this machine."""
        path = self.base if self.host.base_url is None else urllib.parse.urlsplit(self.host.base_url).path
        return f"http://127.0.0.1:{port}{path}"

    def batch(self, ask: Mapping[str, Any]) -> Batch:
        """A batch as the engine makes it: without a size where the host takes none."""
        wanted = dict(ask)
        if not self.route.accepts_dim:
            wanted.pop("dim", None)
        if "options" in wanted:
            wanted["options"] = {name: raw.encode() for name, raw in wanted["options"].items()}
        return Batch(TEXTS[: self.inputs], expected_dim=DIM, **wanted)

    @property
    def vectors(self) -> Vectors:
        """What the inputs must come to."""
        return VECTORS[: self.inputs]


def load() -> list[Recorded]:
    """Every case of every file."""
    return [
        msgspec.convert(case | {"provider": file.stem}, Recorded)
        for file in sorted(FOLDER.glob("*.json"))
        for case in json.loads(file.read_text(encoding="utf-8"))
    ]


def filled(node: Any) -> Any:
    """JSON with what its placeholders stand for."""
    if isinstance(node, dict):
        return {name: filled(value) for name, value in node.items()}
    if isinstance(node, list):
        return [filled(value) for value in node]
    return _meaning(node) if isinstance(node, str) else node


def is_vector(node: Any) -> bool:
    """Whether it stands for a vector."""
    return isinstance(node, str) and node.endswith("]") and node.partition("[")[0] in ("float", "base64", "int8")


def _meaning(text: str) -> Any:
    if is_vector(text):
        kind, _, position = text.removesuffix("]").partition("[")
        vector = VECTORS[int(position)]
        if kind == "float":
            return [float(str(number)) for number in vector]
        raw = vector.astype("<f4").tobytes() if kind == "base64" else _WHOLE[int(position)].tobytes()
        return base64.b64encode(raw).decode()
    if text == "@texts":
        return list(TEXTS)
    return text.replace("@text", TEXTS[0]).replace("@key", KEY)
