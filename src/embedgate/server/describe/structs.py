"""OpenAPI schemas of struct types, so that the description matches the code."""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from embedgate.server.describe.errors import Json

PLACE = "#/components/schemas/"
"""Prefix of references to schemas."""


def struct_schemas(types: Iterable[Any]) -> dict[str, Any]:
    """The schemas of these types, and of those within them, by name."""
    _, found = msgspec.json.schema_components(dict.fromkeys(types), ref_template=PLACE + "{name}")
    return {name: tidy(schema) for name, schema in found.items()}


def query_parameters(struct: type) -> Iterator[Json]:
    """The fields of a query struct, as parameters."""
    found = msgspec.json.schema_components([struct])[1][struct.__name__]
    for name, written in found["properties"].items():
        schema = _without_null(tidy(written))
        yield {
            "name": name,
            "in": "query",
            "required": name in found.get("required", ()),
            "description": schema.pop("description", ""),
            "schema": schema,
        }


def tidy(schema: Any) -> Any:
    """A schema without redundant keys, and with null as one more type rather than as a second schema."""
    if isinstance(schema, list):
        return [tidy(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    tidied = {name: tidy(value) for name, value in schema.items() if name != "title"}
    if "properties" in schema:
        tidied["properties"] = {name: tidy(value) for name, value in schema["properties"].items()}
    if isinstance(tidied.get("default", ()), dict | None):
        del tidied["default"]
    if "enum" in tidied:
        tidied["type"] = "string"
    options: list[Json] = tidied.get("anyOf", [])
    if options[1:] == [{"type": "null"}] and isinstance(kind := options[0].get("type"), str):
        del tidied["anyOf"]
        tidied = {**options[0], **tidied, "type": [kind, "null"]}
        if "enum" in tidied:
            tidied["enum"] = [*tidied["enum"], None]
    return tidied


def _without_null(schema: Json) -> Json:
    """The schema without null, for queries."""
    kinds = schema.get("type")
    if isinstance(kinds, list):
        schema["type"] = kinds[0]
    if isinstance(options := schema.get("enum"), list):
        schema["enum"] = [option for option in options if option is not None]
    return schema
