"""The OpenAPI 3.1 document: every route, what it takes and all it can answer.

Owns the operations. What embeddings answers and errors look like is asked of the dialects, limits of the settings.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import orjson

from embedgate import __version__
from embedgate.config import Settings
from embedgate.core.errors import (
    AccessError,
    InternalError,
    MalformedKey,
    MethodNotAllowed,
    MissingKey,
    NotFound,
    NotImplementedYet,
    Overloaded,
    RequestError,
    RevokedKey,
    UnknownKey,
    UnknownModel,
    UpstreamError,
)
from embedgate.core.types import EmbedResult, Timing, Usage
from embedgate.server.answer import Answer
from embedgate.server.describe.errors import (
    REQUEST_ID,
    DialectErrors,
    Json,
    error_samples,
    header_names,
    header_references,
)
from embedgate.server.describe.schemas import components
from embedgate.server.dialects import openai, ziri

_WITHOUT_RIGHTS = (MissingKey, MalformedKey, UnknownKey, RevokedKey, Overloaded, InternalError)
"""What every route that asks for a key can answer."""
_SAME = "Same as `{}`, for clients whose base address ends in `/api/v1`."


def document(settings: Settings) -> Json:
    """The description of a gateway with these settings, as JSON values."""
    return _Document(settings).whole()


class _Document:
    """One document in the making."""

    def __init__(self, settings: Settings) -> None:
        samples = error_samples(settings)
        self._settings = settings
        self._openai = DialectErrors(openai.write_error, "Error", samples)
        self._ziri = DialectErrors(ziri.write_error, "ZiriError", samples)
        self._components = components(settings, self._openai, self._ziri)

    def whole(self) -> Json:
        return {
            "openapi": "3.1.0",
            "info": {
                "title": "embedgate",
                "version": __version__,
                "summary": "One door to every text-embedding model.",
                "description": "Send texts, get vectors: one for each text, in your order, from the model you named.",
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/", "description": "This gateway."}],
            "tags": self._tags(),
            "paths": {**self._openai_paths(), **self._ziri_paths(), **self._operator_paths()},
            "components": self._components,
        }

    def _tags(self) -> list[Json]:
        return [
            {
                "name": "OpenAI",
                "description": "The API of the OpenAI SDKs. Give them this gateway's address with `/v1` as base URL.",
                "x-embedgate-errors": self._openai.rows(),
            },
            {
                "name": "ZIRI",
                "description": "The API of ZIRI clients: the provider is named, errors are flat.",
                "x-embedgate-errors": self._ziri.rows(),
            },
            {"name": "Operation", "description": "For operators and tools. None of these needs a key."},
        ]

    def _openai_paths(self) -> Json:
        embeddings = _json_answers("The vectors.", "EmbeddingList", *self._embeddings_examples(openai.write))
        paths: Json = {}
        for prefix, suffix in (("/v1", ""), ("/api/v1", "_under_api")):
            same = {"x-embedgate-alias-of": "/v1{}"} if suffix else {}
            paths[f"{prefix}/embeddings"] = {
                "post": self._operation(
                    "create_embeddings" + suffix,
                    "Embed texts",
                    "Gives one vector for each input, in the order of the request.",
                    tag="OpenAI",
                    request="EmbeddingsRequest",
                    responses={**embeddings, **self._openai.responses(*_EMBEDDINGS_ERRORS)},
                )
            }
        return paths
