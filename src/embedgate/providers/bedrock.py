"""Amazon Bedrock, `invoke`: translation only. Embedding models of Amazon and Cohere, each with its own body.

A key with colons is an access key, with which calls are signed; that needs the extra `bedrock`. Any other key is one of
Bedrock's own, which goes into a header.
"""

import re
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from embedgate.core.errors import DependencyMissing, InternalError, UpstreamMismatch
from embedgate.core.models import BatchLimits, Route
from embedgate.core.types import Batch, ProviderReply
from embedgate.providers.hosts import Host
from embedgate.transport import (
    NOTHING_TOLD,
    Endpoint,
    HttpCall,
    HttpProvider,
    HttpReply,
    Signer,
    classify,
    decode,
    encode,
    put,
    read_count,
    read_embeddings,
    wishes,
)

HOST = Host(
    note="Set base_url for another region. The key is one of Bedrock's, or, with embedgate[bedrock], an access key as "
    "`id:secret` or `id:secret:session token`.",
    base_url="https://bedrock-runtime.us-east-1.amazonaws.com",
    key_variables=("AWS_BEARER_TOKEN_BEDROCK",),
    accepts_dim=True,
    limits=BatchLimits(max_inputs=1, max_parallel=16),
)

_TOKENS_HEADER = "x-amzn-bedrock-input-token-count"
_REGION = re.compile(r"bedrock-runtime(?:-fips)?\.([a-z0-9-]+)\.")
_USUAL_REGION = "us-east-1"
_NOTHING = msgspec.Raw(b"[]")
"""Value of a field that is not in a reply: no vectors."""


class _Piece(msgspec.Struct):
    embedding: msgspec.Raw


class _Body(msgspec.Struct, rename="camel"):
    """The fields of all models' replies that we read; everything else is skipped."""

    embedding: msgspec.Raw = _NOTHING
    embeddings: msgspec.Raw = _NOTHING
    input_text_token_count: msgspec.Raw = NOTHING_TOLD
    input_token_count: msgspec.Raw = NOTHING_TOLD


class _ByType(msgspec.Struct):
    float: list[msgspec.Raw]


_BODY = msgspec.json.Decoder(_Body)
_PIECES = msgspec.json.Decoder(list[_Piece])
_ROWS = msgspec.json.Decoder(list[msgspec.Raw])
_BY_TYPE = msgspec.json.Decoder(_ByType)


@dataclass(frozen=True, slots=True)
class _ModelFamily:
    """Model family: how a batch is written, and where the vectors are in a reply."""

    write: Callable[[Batch, Route], dict[str, Any]]
    rows: Callable[[_Body], list[msgspec.Raw]]


def provider(_host: Host) -> HttpProvider:
    """The vendor module."""
    return HttpProvider(build, parse, classify, signer)


def build(batch: Batch, route: Route) -> HttpCall:
    """One call for one batch."""
    path = f"/model/{urllib.parse.quote(route.upstream_model, safe='')}/invoke"
    return HttpCall("POST", path, encode(_family(route).write(batch, route)))


def parse(reply: HttpReply, batch: Batch, route: Route) -> ProviderReply:
    """Vectors (n, dim) float32 in the order of `batch.inputs`, and the usage. Raises UpstreamGarbled."""
    body = decode(reply, _BODY)
    try:
        rows = _family(route).rows(body)
    except msgspec.DecodeError as error:
        raise UpstreamMismatch(f"{reply.provider} sent an answer of another shape: {error}") from error
    told = (reply.headers.get(_TOKENS_HEADER), body.input_text_token_count, body.input_token_count)
    tokens = next((count for count in map(read_count, told) if count is not None), None)
    return read_embeddings(reply, batch, rows, tokens=tokens)


def signer(endpoint: Endpoint) -> Signer | None:
    """Request signer for an access key; None for one of Bedrock's own keys.

    Raises DependencyMissing.
    """
    key_id, *others = (endpoint.key or "").split(":")
    if not others:
        return None
    try:
        from botocore.auth import SigV4Auth
        from botocore.credentials import Credentials
    except ImportError as error:
        raise DependencyMissing(
            "an access key of AWS needs botocore; install embedgate[bedrock], or use a key of Bedrock's own"
        ) from error
    secret, token = (*others, None)[:2]
    region = _REGION.search(endpoint.base_url)
    auth = SigV4Auth(Credentials(key_id, secret, token), "bedrock", region[1] if region else _USUAL_REGION)
    return partial(_signed, auth, endpoint)


def _signed(auth: Any, endpoint: Endpoint, call: HttpCall) -> Mapping[str, str]:
    from botocore.awsrequest import AWSRequest

    request = AWSRequest(method=call.method, url=endpoint.url(call.path), data=call.body)
    auth.add_auth(request)
    return dict(request.headers.items())


def _write_titan(batch: Batch, route: Route) -> dict[str, Any]:
    return wishes(batch, route) | {"inputText": batch.inputs[0]}


def _write_titan_2(batch: Batch, route: Route) -> dict[str, Any]:
    return _write_titan(batch, route) | {"normalize": True, "embeddingTypes": ["float"]}


def _write_nova(batch: Batch, route: Route) -> dict[str, Any]:
    body = {"taskType": "SINGLE_EMBEDDING"} | wishes(batch, route)
    body.setdefault("singleEmbeddingParams", {}).setdefault("embeddingPurpose", "GENERIC_INDEX")
    put(body, "singleEmbeddingParams.text", {"truncationMode": "NONE", "value": batch.inputs[0]})
    return body


def _write_cohere(batch: Batch, route: Route) -> dict[str, Any]:
    # Over-long texts are refused by default, and the truncation field is not certain for version 4.
    body = {"input_type": "search_document"} | wishes(batch, route)
    return body | {"texts": batch.inputs, "embedding_types": ["float"]}


def _rows_of_titan(body: _Body) -> list[msgspec.Raw]:
    return [body.embedding]


def _rows_of_nova(body: _Body) -> list[msgspec.Raw]:
    return [piece.embedding for piece in _PIECES.decode(body.embeddings)]


def _rows_of_cohere(body: _Body) -> list[msgspec.Raw]:
    """The rows of a Cohere reply, grouped by type or not."""
    is_by_type = bytes(body.embeddings).startswith(b"{")
    return _BY_TYPE.decode(body.embeddings).float if is_by_type else _ROWS.decode(body.embeddings)


_KINDS = {
    "amazon.titan-embed-text-v2": _ModelFamily(_write_titan_2, _rows_of_titan),
    "amazon.titan-": _ModelFamily(_write_titan, _rows_of_titan),
    "amazon.nova-": _ModelFamily(_write_nova, _rows_of_nova),
    "cohere.": _ModelFamily(_write_cohere, _rows_of_cohere),
}
"""Families by a part of the model's id; inference profiles have the region before it."""


def _family(route: Route) -> _ModelFamily:
    found = next((kind for part, kind in _KINDS.items() if part in route.upstream_model), None)
    if found is None:
        raise InternalError(
            f"bedrock/{route.upstream_model}: the name tells no family of models; known are {', '.join(_KINDS)}"
        )
    return found
