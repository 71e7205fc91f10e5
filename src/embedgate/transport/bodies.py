"""JSON bodies of calls and replies: bytes to typed records and back."""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
import orjson

from embedgate.core.errors import UpstreamGarbled, UpstreamMismatch
from embedgate.core.models import Route
from embedgate.core.types import Batch
from embedgate.transport.records import HttpReply

_Body = TypeVar("_Body")


def encode(body: Mapping[str, object]) -> bytes:
    """A call's body as JSON. Raw JSON goes in as `orjson.Fragment`."""
    return orjson.dumps(body)


def decode(reply: HttpReply, decoder: msgspec.json.Decoder[_Body]) -> _Body:
    """A reply's body as a typed record; fields that the record does not name are skipped.

    Raises UpstreamGarbled if it is not JSON, UpstreamMismatch if it is not of that shape. The message names places and
    types, no values.
    """
    try:
        return decoder.decode(reply.body)
    except msgspec.ValidationError as error:
        raise UpstreamMismatch(f"{reply.provider} sent an answer of another shape: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UpstreamGarbled(f"{reply.provider} sent an answer that is not JSON") from error


def put(body: dict[str, Any], field: str, value: object) -> None:
    """Set a field of a body; a dot in its name is a level of nesting."""
    *outer, name = field.split(".")
    for level in outer:
        body = body.setdefault(level, {})
    body[name] = value


def wishes(batch: Batch, route: Route) -> dict[str, Any]:
    """The fields of a call beside model and inputs, named as the route says.

    A field that was not asked for is left out, never null: several hosts refuse null. An option of the caller cannot
    take the place of a field of ours.
    """
    body: dict[str, Any] = {}
    for name, value in route.required_params:
        put(body, name, value)
    if route.truncate_params:
        for name, value in route.truncate_params.get(batch.truncate, {}).items():
            put(body, name, value)
    if batch.dim is not None:
        put(body, route.dim_field, batch.dim)
    if batch.user is not None and route.accepts_user:
        body["user"] = batch.user
    if route.input_type_field is not None and (input_type := input_type_word(batch, route)) is not None:
        put(body, route.input_type_field, input_type)
    if route.accepts_unknown_options:
        body = {name: orjson.Fragment(raw) for name, raw in batch.options.items()} | body
    return body


def input_type_word(batch: Batch, route: Route) -> str | None:
    """The host's word for the type of the inputs; None if there is no type, or no word for it."""
    match batch.input_type:
        case "query":
            return route.query_input_type
        case "document":
            return route.document_input_type
    return None
