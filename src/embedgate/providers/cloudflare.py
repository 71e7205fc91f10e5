"""Cloudflare Workers AI: translation only.

Its Qwen3 takes the input type as the name of the field that holds the inputs. Vectors arrive as decimals.
"""

import urllib.parse

import msgspec

from embedgate.core.models import BatchLimits, Route
from embedgate.core.types import Batch, ProviderReply
from embedgate.providers.hosts import Host
from embedgate.transport import (
    Chat,
    HttpCall,
    HttpProvider,
    HttpReply,
    classify,
    decode,
    encode,
    read_embeddings,
    wishes,
)

HOST = Host(
    note="Set base_url to https://api.cloudflare.com/client/v4/accounts/<account>. Sends no token counts.",
    key_variables=("CLOUDFLARE_API_TOKEN", "CLOUDFLARE_API_KEY"),
    chat=Chat("/ai/v1/chat/completions"),
    limits=BatchLimits(max_inputs=100, max_parallel=16),
)

_FIELDS = {"query": "queries", "document": "documents", None: "text"}


class _Result(msgspec.Struct):
    data: list[msgspec.Raw]


class _Body(msgspec.Struct):
    """The fields of a reply that we read; everything else is skipped."""

    result: _Result


_BODY = msgspec.json.Decoder(_Body)


def provider(_host: Host) -> HttpProvider:
    """The vendor module."""
    return HttpProvider(build, parse, classify)


def build(batch: Batch, route: Route) -> HttpCall:
    """One call for one batch."""
    field = _FIELDS[batch.input_type] if route.input_types else "text"
    path = f"/ai/run/{urllib.parse.quote(route.upstream_model, safe='@/')}"
    return HttpCall("POST", path, encode(wishes(batch, route) | {field: batch.inputs}))


def parse(reply: HttpReply, batch: Batch, _route: Route) -> ProviderReply:
    """Vectors (n, dim) float32 in the order of `batch.inputs`; never a usage. Raises UpstreamGarbled."""
    return read_embeddings(reply, batch, decode(reply, _BODY).result.data)
