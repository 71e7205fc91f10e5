"""The administration API in the OpenAPI document: its paths and schemas, made of the table that serves it.

Owns no fact of a route. What it takes and gives are the types of the table, so that they cannot drift.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from embedgate.core.errors import (
    BodyTooLarge,
    BodyTooSlow,
    Conflict,
    GatewayError,
    InputTooLong,
    InternalError,
    InvalidCredentials,
    InvalidInput,
    MalformedKey,
    MalformedRequest,
    MissingKey,
    NotPermitted,
    Overloaded,
    RevokedKey,
    UnknownEntity,
    UnknownKey,
)
from embedgate.server.admin.route import PATH_TYPES, Route, Table
from embedgate.server.admin.serve import headers_of
from embedgate.server.admin.wire import Listed
from embedgate.server.describe.errors import REQUEST_ID, DialectErrors, Json, header_references

TAG = "Administration"
_PLACE = "#/components/schemas/"
_HEADERS = [name.decode() for name, _ in headers_of(REQUEST_ID)]
_OF_KEYS = (MissingKey, MalformedKey, UnknownKey, RevokedKey, InvalidCredentials, Overloaded)
_OF_BODIES = (BodyTooLarge, BodyTooSlow)
_NEVER = (InputTooLong,)
"""Beneath those that are named, and not of these routes."""


def admin_paths(table: Table, errors: DialectErrors) -> dict[str, dict[str, Json]]:
    """The paths of the table."""
    paths: dict[str, dict[str, Json]] = {}
    for route in table.routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, errors)
    return paths


def admin_schemas(table: Table) -> Json:
    """What its routes take and give, by name."""
    types = [kind for route in table.routes for kind in (route.body, route.gives) if kind is not None]
    _, found = msgspec.json.schema_components(dict.fromkeys(types), ref_template=_PLACE + "{name}")
    schemas: Json = {name: _tidy(schema) for name, schema in found.items()}
    for route in table.routes:
        if route.body is not None:
            schemas[route.body.__name__] = {**_tidy(found[route.body.__name__]), "examples": [dict(route.example)]}
        if route.is_list:
            schemas[_list_name(route)] = _list_schema(route)
    return schemas


def admin_tag(table: Table, errors: DialectErrors) -> Json:
    """The group of these routes, and all errors that they have."""
    kinds = dict.fromkeys(kind for route in table.routes for kind in _kinds(route))
    return {
        "name": TAG,
        "description": "For administrators: users, keys, rules, providers, reports. The routes under `/api/me` are for "
        "everybody. A key is sent, or the access token of a login. Every change is in force when its answer comes, and "
        "in the audit trail.",
        "x-embedgate-errors": errors.rows(*kinds, without=_NEVER),
    }


def _operation(route: Route, errors: DialectErrors) -> Json:
    operation: Json = {
        "operationId": route.name,
        "tags": [TAG],
        "summary": route.summary,
        "description": route.description,
        "security": [] if route.who == "anyone" else [{"apiKey": []}, {"bearer": []}],
    }
    if parameters := [*_path_parameters(route), *_query_parameters(route)]:
        operation["parameters"] = parameters
    if route.body is not None:
        schema = {"$ref": _PLACE + route.body.__name__}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    operation["responses"] = {
        str(route.status if route.gives else 204): _success(route),
        **errors.responses(*_kinds(route), without=_NEVER, has_examples=False),
    }
    return operation


def _kinds(route: Route) -> Iterator[type[GatewayError]]:
    """The errors that a route can answer with."""
    yield from (InternalError, MalformedRequest, InvalidInput)
    if route.who != "anyone":
        yield from _OF_KEYS
    if route.who == "admin":
        yield NotPermitted
    if route.parameters:
        yield UnknownEntity
    if route.body is not None:
        yield from _OF_BODIES
    if route.method != "GET":
        yield Conflict
    yield from route.raises


def _path_parameters(route: Route) -> Iterator[Json]:
    for name in route.parameters:
        schema = {"type": "string", **_tidy(msgspec.json.schema(PATH_TYPES[name]))}
        examples = schema.pop("examples")
        yield {
            "name": name,
            "in": "path",
            "required": True,
            "description": schema.pop("description"),
            "schema": schema if "enum" in schema else {**schema, "minLength": 1},
            "example": examples[0],
        }


def _query_parameters(route: Route) -> Iterator[Json]:
    if route.query is None:
        return
    struct = msgspec.json.schema_components([route.query])[1][route.query.__name__]
    for name, written in struct["properties"].items():
        schema = _without_null(_tidy(written))
        yield {
            "name": name,
            "in": "query",
            "required": name in struct.get("required", ()),
            "description": schema.pop("description", ""),
            "schema": schema,
        }


def _success(route: Route) -> Json:
    headers = header_references(_HEADERS)
    if route.gives is None:
        return {"description": "Done.", "headers": headers}
    name = _list_name(route) if route.is_list else route.gives.__name__
    content: Json = {"application/json": {"schema": {"$ref": _PLACE + name}}}
    if route.gives_file:
        content["text/csv"] = {"schema": {"type": "string"}}
    return {"description": "It is done." if route.is_change else "The answer.", "headers": headers, "content": content}


def _list_name(route: Route) -> str:
    return f"{route.gives.__name__}List"


def _list_schema(route: Route) -> Json:
    schema = _tidy(msgspec.json.schema_components([Listed])[1]["Listed"])
    items = {"type": "array", "items": {"$ref": _PLACE + route.gives.__name__}}
    return {**schema, "properties": {**schema["properties"], "items": items}}


def _tidy(schema: Any) -> Any:
    """A schema without what says nothing, and with null as one more type rather than as a second schema."""
    if isinstance(schema, list):
        return [_tidy(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    tidied = {name: _tidy(value) for name, value in schema.items() if name != "title"}
    if "properties" in schema:
        tidied["properties"] = {name: _tidy(value) for name, value in schema["properties"].items()}
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
    """For the query, where nothing can be null."""
    kinds = schema.get("type")
    if isinstance(kinds, list):
        schema["type"] = kinds[0]
    if isinstance(options := schema.get("enum"), list):
        schema["enum"] = [option for option in options if option is not None]
    return schema
