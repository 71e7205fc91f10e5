"""Ready-made embedders: the embedded model in this process, a gateway elsewhere, any SDK of OpenAI's shape, a fake.

All are thread-safe. `embed` returns (n, dim) float32, one row per text, in order.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from embedgate.client import Client
from embedgate.core import deterministic
from embedgate.core.errors import InvalidInput, UpstreamGarbled
from embedgate.core.models import Truncate
from embedgate.core.ports import CallLimits, Embedder
from embedgate.core.types import CacheUse, InputType
from embedgate.core.vectors import Vectors, shorten, stack
from embedgate.toolkit.embedding import Progress, call_in_parts, joined

if TYPE_CHECKING:
    from embedgate.inference.tokenizer import Tokenizer

_FAKE_DIM = 256
_PER_REQUEST, _PARALLEL = 512, 8
"""Texts of a request, and requests at a time: a gateway is never idle then while answers are read. Requests of 2,048
texts cost the client twice the CPU, because their large buffers come from the system anew each time."""


class _InRequests(Embedder):
    """Embedder that cuts texts into requests, several at once, order kept. Subclasses send one request."""

    def __init__(self, dim: int | None, limits: CallLimits | None, on_progress: Progress | None) -> None:
        self._dim = dim
        self._limits = limits or CallLimits(_PER_REQUEST, parallel=_PARALLEL)
        self._on_progress = on_progress

    @property
    def call_limits(self) -> CallLimits:
        """Texts and tokens of one request, and how many run at a time."""
        return self._limits

    def embed(self, texts: Sequence[str], input_type: InputType | None = None) -> Vectors:
        """Vectors of requests that succeeded are lost if another fails; its error is raised."""
        if isinstance(texts, str):
            raise InvalidInput("texts is a single text; give a list of texts")
        parts = call_in_parts(lambda batch: self._request(batch, input_type), self._limits, texts)
        vectors = joined(parts, len(texts), self._on_progress)
        return np.empty((0, self._dim or 0), dtype=np.float32) if vectors is None else vectors

    def _request(self, texts: Sequence[str], input_type: InputType | None) -> Vectors:
        raise NotImplementedError


class ClientEmbedder(_InRequests):
    """A gateway elsewhere, or any server of the OpenAI embeddings format: several requests at once, order kept."""

    def __init__(
        self,
        client: Client,
        *,
        model: str | None = None,
        dim: int | None = None,
        truncate: Truncate = "none",
        limits: CallLimits | None = None,
        on_progress: Progress | None = None,
    ) -> None:
        """model: that of the client if None. The client is not closed.

        on_progress: called after every request of `embed`. `embed` raises what `Client.embed` raises.
        """
        super().__init__(dim, limits, on_progress)
        self._client = client
        self._model = model or client.model
        self._truncate: Truncate = truncate

    @property
    def model(self) -> str:
        """Id of the model at the gateway."""
        return self._model

    @property
    def space(self) -> str:
        """Vector space as the gateway names it; the model's id where a server names none."""
        return self._client.model_facts(self._model).space or self._model

    @property
    def dim(self) -> int:
        """The size that was asked for, else what the gateway says, else what one embedded word shows."""
        return self._dim or self._client.model_facts(self._model).dimensions or super().dim

    def embed_anew(self, texts: Sequence[str], input_type: InputType | None = None) -> Vectors:
        """As `embed`, past the cache of a gateway; any other server is asked as usual. For few texts."""
        cache: CacheUse = "store" if self._client.model_facts(self._model).space is None else "no-store"
        return self._client.embed(
            texts, input_type, model=self._model, dim=self._dim, truncate=self._truncate, cache=cache
        )

    def _request(self, texts: Sequence[str], input_type: InputType | None) -> Vectors:
        return self._client.embed(texts, input_type, model=self._model, dim=self._dim, truncate=self._truncate)


class LocalEmbedder(Embedder):
    """A model on this machine, in this process, without a gateway: no server, no ledger, no cache."""

    def __init__(
        self,
        model: str = "local/all-minilm-l6-v2",
        *,
        dim: int | None = None,
        truncate: Truncate = "none",
        threads: int = 0,
        data_dir: Path | None = None,
    ) -> None:
        """Loads nothing yet. dim: for a Matryoshka model. threads: processor cores, 0 for all.

        data_dir: where the prepared graph is kept; the gateway's data folder if None. Raises UnknownModel.
        """
        from embedgate.inference.runtime import LocalModels
        from embedgate.settings import LocalSettings, StorageSettings  # with pydantic, which takes long to import

        folder = (data_dir or StorageSettings().data_dir).expanduser()
        self._models = LocalModels(LocalSettings(threads=threads), folder)
        self._name = model.removeprefix("local/")
        self._models.loaded(self._name)
        self._record = next((known for known in self._models.models() if known.name == self._name), None)
        self._dim = dim
        self._truncate: Truncate = truncate

    @property
    def model(self) -> str:
        """Its id, `local/<name>`."""
        return f"local/{self._name}"

    @property
    def space(self) -> str:
        """The vector space that the gateway names for the same model."""
        return (self._record and self._record.space) or self.model

    @property
    def dim(self) -> int:
        """The size that was asked for, else the model's own."""
        return self._dim or self._models.load(self._name).engine.dim

    @property
    def tokenizer(self) -> "Tokenizer":
        """The model's tokenizer, for `split`; the weights are not read."""
        return self._models.tokenizer(self._name)

    @property
    def max_input_tokens(self) -> int:
        """The most tokens of a text, special tokens included."""
        return self._record.max_input_tokens if self._record else self._models.load(self._name).max_input_tokens

    def embed(self, texts: Sequence[str], input_type: InputType | None = None) -> Vectors:
        """Loads the model with the first call. Raises InputTooLong, InvalidInput, DependencyMissing or ConfigError."""
        model = self._models.load(self._name)
        rows, _ = model.fit([self._prefix(input_type) + text for text in texts], self._truncate)
        vectors: Vectors = np.empty((len(rows), model.engine.dim), dtype=np.float32)
        for run in model.engine.cut([len(row) for row in rows]):
            try:
                vectors[list(run)] = model.engine.embed([rows[position] for position in run])
            except InvalidInput as error:
                raise (error if error.index is None else error.at(run[error.index])) from error
        return vectors if self._dim in (None, vectors.shape[1]) else shorten(vectors, self._dim or 0)

    def _prefix(self, input_type: InputType | None) -> str:
        if self._record is None or input_type is None:
            return ""
        (route,) = self._record.routes
        return (route.query_prefix if input_type == "query" else route.document_prefix) or ""


class FakeEmbedder(Embedder):
    """Deterministic vectors of unit length without meaning, for tests: the same text has the same vector everywhere."""

    def __init__(self, dim: int = _FAKE_DIM) -> None:
        """dim: a smaller one gives the shortened vector."""
        self._dim = dim

    @property
    def model(self) -> str:
        """The gateway's model of the same vectors."""
        return "fake/deterministic"

    @property
    def dim(self) -> int:
        """As given."""
        return self._dim

    def embed(
        self,
        texts: Sequence[str],
        input_type: InputType | None = None,  # noqa: ARG002 - queries and documents have the same vectors
    ) -> Vectors:
        """Raises InvalidInput with the position of an empty text."""
        for position, text in enumerate(texts):
            if not text:
                raise InvalidInput("is empty", index=position)
        rows = [deterministic.vector(text, self._dim) for text in texts]
        return stack(rows) if rows else np.empty((0, self._dim), dtype=np.float32)


class OpenAIShaped(Protocol):
    """Protocol of SDKs with `embeddings.create(model=..., input=[...])`: OpenAI's, Azure's, Mistral's and others."""

    @property
    def embeddings(self) -> Any:
        """Has `create`, which answers with `data`, a list of `embedding` and `index`."""
        ...


class OpenAIEmbedder(_InRequests):
    """Adapter of an SDK of OpenAI's shape. Its own errors pass through.

    `embed` raises UpstreamGarbled for an answer that does not have one vector per text.
    """

    def __init__(
        self,
        client: OpenAIShaped,
        model: str,
        *,
        dim: int | None = None,
        space: str | None = None,
        prefixes: Mapping[InputType, str] | None = None,
        limits: CallLimits | None = None,
        on_progress: Progress | None = None,
        options: Mapping[str, object] | None = None,
    ) -> None:
        """space: the model's name if None. prefixes: text put before queries and documents, for models that want it.

        options: further arguments of every call, such as `extra_body`.
        """
        super().__init__(dim, limits, on_progress)
        self._client = client
        self._model = model
        self._space = space
        self._prefixes = dict(prefixes or {})
        self._options = dict(options or {})

    @property
    def model(self) -> str:
        """Its name at the provider."""
        return self._model

    @property
    def space(self) -> str:
        """As given, else the model's name."""
        return self._space or self._model

    @property
    def dim(self) -> int:
        """The size that was asked for, else what one embedded word shows."""
        return self._dim or super().dim

    def _request(self, texts: Sequence[str], input_type: InputType | None) -> Vectors:
        prefix = self._prefixes.get(input_type, "") if input_type else ""
        size = {} if self._dim is None else {"dimensions": self._dim}
        answer = self._client.embeddings.create(
            model=self._model, input=[prefix + text for text in texts], **size, **self._options
        )
        items = sorted(answer.data, key=lambda item: int(item.index))
        if [int(item.index) for item in items] != list(range(len(texts))):
            raise UpstreamGarbled(f"the answer has {len(items)} vectors for {len(texts)} texts")
        return stack([np.asarray(item.embedding, dtype=np.float32) for item in items])
