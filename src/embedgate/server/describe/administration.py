"""Administration API in the OpenAPI document: paths and schemas, derived from the table that serves it.

Owns no fact of a route. What it takes and gives are the types of the table, so that they cannot drift.
"""

from collections.abc import Iterator

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
from embedgate.server.describe.structs import PLACE, query_parameters, struct_schemas, tidy

TAG = "Administration"
_HEADERS = [name.decode() for name, _ in headers_of(REQUEST_ID)]
_OF_KEYS = (MissingKey, MalformedKey, UnknownKey, RevokedKey, InvalidCredentials, Overloaded)
_OF_BODIES = (BodyTooLarge, BodyTooSlow)
_NEVER = (InputTooLong,)
"""Beneath those that are named, and not of these routes."""


def admin_paths(table: Table, errors: DialectErrors) -> dict[str, dict[str, Json]]:
    """The path items of the administration routes."""
    paths: dict[str, dict[str, Json]] = {}
    for route in table.routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, errors)
    return paths


def admin_schemas(table: Table) -> Json:
    """The schemas of requests and answers, by name."""
    types = [kind for route in table.routes for kind in (route.body, route.gives) if kind is not None]
    schemas = struct_schemas(types)
    for route in table.routes:
        if route.body is not None:
            schemas[route.body.__name__] |= {"examples": [dict(route.example)]}
        if route.is_list:
            schemas[_list_name(route)] = _list_schema(route)
    return schemas


def admin_tag(table: Table, errors: DialectErrors) -> Json:
    """The tag of these routes, and all their errors."""
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
    if parameters := [*_path_parameters(route), *(query_parameters(route.query) if route.query else ())]:
        operation["parameters"] = parameters
    if route.body is not None:
        schema = {"$ref": PLACE + route.body.__name__}
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
        schema = {"type": "string", **tidy(msgspec.json.schema(PATH_TYPES[name]))}
        examples = schema.pop("examples")
        yield {
            "name": name,
            "in": "path",
            "required": True,
            "description": schema.pop("description"),
            "schema": schema if "enum" in schema else {**schema, "minLength": 1},
            "example": examples[0],
        }


def _success(route: Route) -> Json:
    headers = header_references(_HEADERS)
    if route.gives is None:
        return {"description": "Done.", "headers": headers}
    name = _list_name(route) if route.is_list else route.gives.__name__
    content: Json = {"application/json": {"schema": {"$ref": PLACE + name}}}
    if route.gives_file:
        content["text/csv"] = {"schema": {"type": "string"}}
    return {"description": "It is done." if route.is_change else "The answer.", "headers": headers, "content": content}


def _list_name(route: Route) -> str:
    return f"{route.gives.__name__}List"


def _list_schema(route: Route) -> Json:
    schema = tidy(msgspec.json.schema_components([Listed])[1]["Listed"])
    items = {"type": "array", "items": {"$ref": PLACE + route.gives.__name__}}
    return {**schema, "properties": {**schema["properties"], "items": items}}
