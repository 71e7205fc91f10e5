"""OpenAI embeddings format, as used by OpenAI and compatible hosts: translation only.

No sockets, retries, clocks or logging. Differences of a host are in its route and in `hosts.toml`.
"""

import re
import urllib.parse
from functools import partial
from typing import Any

import msgspec

from embedgate.core.errors import GatewayError, InputTooLong, UpstreamRejected
from embedgate.core.models import Route
from embedgate.core.types import Batch, ProviderReply
from embedgate.providers.hosts import Host
from embedgate.transport import (
    NOTHING_TOLD,
    HttpCall,
    HttpProvider,
    HttpReply,
    classify,
    decode,
    encode,
    read_embeddings,
    read_usage,
    wishes,
)

_PLAIN = Host(note="As OpenAI says, and nothing that it leaves open.")
_PLACE_OF_TOO_LONG = re.compile(
    rb"input\[(\d{1,4})\]\W{1,9}maximum (?:input|context) length is (\d+) tokens", re.IGNORECASE
)


class _Item(msgspec.Struct, gc=False):
    embedding: msgspec.Raw
    index: int | None = None


class _Body(msgspec.Struct):
    """The fields of a reply that we read; everything else is skipped."""

    data: list[_Item]
    model: str | None = None
    usage: msgspec.Raw = NOTHING_TOLD


_BODY = msgspec.json.Decoder(_Body)


def provider(host: Host = _PLAIN) -> HttpProvider:
    """The vendor module of one host."""
    return HttpProvider(
        partial(build, host=host), partial(parse, sends_usage=host.sends_usage), fault, vector_field="embedding"
    )


def build(batch: Batch, route: Route, *, host: Host = _PLAIN) -> HttpCall:
    """One call for one batch."""
    body: dict[str, Any] = wishes(batch, route) | {"model": route.upstream_model, "input": batch.inputs}
    if route.accepts_base64:
        body[host.base64_field] = "base64"
    path = host.path
    if "{model}" in path:
        path = path.replace("{model}", urllib.parse.quote(route.upstream_model, safe=""))
    return HttpCall("POST", path, encode(body))


def parse(reply: HttpReply, batch: Batch, _route: Route, *, sends_usage: bool = True) -> ProviderReply:
    """Vectors (n, dim) float32 in the order of `batch.inputs`, in either encoding, and the usage.

    sends_usage: whether the host's token counts are reliable.
    Raises UpstreamGarbled unless there is one list of numbers, or one base64 text, per input, all of one length.
    """
    body = decode(reply, _BODY)
    return read_embeddings(
        reply,
        batch,
        [item.embedding for item in body.data],
        positions=[item.index for item in body.data],
        tokens=read_usage(body.usage, "prompt_tokens", "total_tokens") if sends_usage else None,
        model=body.model,
    )


def fault(reply: HttpReply) -> GatewayError:
    """The error of a failed reply; InputTooLong with a position if the host names the over-long input."""
    error = classify(reply)
    place = _PLACE_OF_TOO_LONG.search(reply.body) if type(error) is UpstreamRejected else None
    if place is None:
        return error
    reason = f"is too long; {reply.provider} takes {int(place[2])} tokens per input. Shorten it or split it."
    return InputTooLong(reason, index=int(place[1]))
