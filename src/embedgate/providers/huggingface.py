"""Hugging Face inference, feature-extraction pipeline: translation only.

An answer is a list of vectors only. Some models return a vector per token, which is refused as garbled.
"""

import urllib.parse

import msgspec

from embedgate.core.models import BatchLimits, Route
from embedgate.core.types import Batch, ProviderReply
from embedgate.providers.hosts import Host
from embedgate.transport import HttpCall, HttpProvider, HttpReply, classify, decode, encode, read_embeddings, wishes

HOST = Host(
    note="Sends no token counts. A model that is not loaded yet says how long that takes.",
    base_url="https://router.huggingface.co/hf-inference/models",
    key_variables=("HF_TOKEN", "HUGGINGFACE_API_KEY"),
    extra={"normalize": True},
    truncate={
        "none": {"truncate": False},
        "start": {"truncate": True, "truncation_direction": "Left"},
        "end": {"truncate": True, "truncation_direction": "Right"},
    },
    limits=BatchLimits(max_inputs=32, max_parallel=8),
)

_ROWS = msgspec.json.Decoder(list[msgspec.Raw])


def provider(_host: Host) -> HttpProvider:
    """The vendor module."""
    return HttpProvider(build, parse, classify)


def build(batch: Batch, route: Route) -> HttpCall:
    """One call for one batch."""
    path = f"/{urllib.parse.quote(route.upstream_model)}/pipeline/feature-extraction"
    return HttpCall("POST", path, encode(wishes(batch, route) | {"inputs": batch.inputs}))


def parse(reply: HttpReply, batch: Batch, _route: Route) -> ProviderReply:
    """Vectors (n, dim) float32 in the order of `batch.inputs`; never a usage. Raises UpstreamGarbled."""
    rows = decode(reply, _ROWS)
    return read_embeddings(reply, batch, rows)
