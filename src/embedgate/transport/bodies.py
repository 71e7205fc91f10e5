"""JSON bodies of calls: a caller's options in the fields and words of a route. Pure."""

from collections.abc import Mapping
from typing import Any

import orjson

from embedgate.core.models import Route
from embedgate.core.types import Batch


def encode(body: Mapping[str, object]) -> bytes:
    """A call's body as JSON. Raw JSON goes in as `orjson.Fragment`."""
    return orjson.dumps(body)


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
