"""JSON bodies of calls and replies: bytes to typed records and back."""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
import orjson

from embedgate.core.errors import UpstreamGarbled
from embedgate.transport.records import HttpReply

_Body = TypeVar("_Body")


def encode(body: Mapping[str, object]) -> bytes:
    """A call's body as JSON. Raw JSON goes in as `orjson.Fragment`."""
    return orjson.dumps(body)


def decode(reply: HttpReply, decoder: msgspec.json.Decoder[_Body]) -> _Body:
    """A reply's body as a typed record; fields that the record does not name are skipped.

    Raises UpstreamGarbled if it is not JSON or not of that shape. The message names places and types, no values.
    """
    try:
        return decoder.decode(reply.body)
    except msgspec.ValidationError as error:
        raise UpstreamGarbled(f"{reply.provider} sent an answer of another shape: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UpstreamGarbled(f"{reply.provider} sent an answer that is not JSON") from error


def put(body: dict[str, Any], field: str, value: object) -> None:
    """Set a field of a body; a dot in its name is a level of nesting."""
    *outer, name = field.split(".")
    for level in outer:
        body = body.setdefault(level, {})
    body[name] = value
