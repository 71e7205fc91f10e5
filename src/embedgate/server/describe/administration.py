"""The administration API in the OpenAPI document: its paths and schemas, made of the declared operations.

Owns no fact of an operation. What one takes and gives are its types, so that code and description cannot drift.
"""

from collections.abc import Iterator, Sequence

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
from embedgate.govern.lists import Listed
from embedgate.govern.operation import Declaration
from embedgate.server.administration import headers_of
from embedgate.server.describe.errors import REQUEST_ID, DialectErrors, Json, header_references
from embedgate.server.describe.structs import PLACE, query_parameters, struct_schemas, tidy

TAG = "Administration"
_HEADERS = [name.decode() for name, _ in headers_of(REQUEST_ID)]
_OF_KEYS = (MissingKey, MalformedKey, UnknownKey, RevokedKey, InvalidCredentials, Overloaded)
_OF_BODIES = (BodyTooLarge, BodyTooSlow)
_NEVER = (InputTooLong,)
"""Subclasses of those that are named, which no operation raises."""


def admin_paths(operations: Sequence[Declaration], errors: DialectErrors) -> dict[str, dict[str, Json]]:
    """The path items of the administration."""
    paths: dict[str, dict[str, Json]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation, errors)
    return paths


def admin_schemas(operations: Sequence[Declaration]) -> Json:
    """The schemas of requests and answers, by name."""
    types = [kind for operation in operations for kind in (operation.body, operation.gives) if kind is not None]
    schemas = struct_schemas(types)
    for operation in operations:
        if operation.body is not None:
            schemas[operation.body.__name__] |= {"examples": [dict(operation.facts.example)]}
        if operation.gives_list and operation.gives is not None:
            schemas[_list_name(operation.gives)] = _list_schema(operation.gives)
    return schemas


def admin_tag(operations: Sequence[Declaration], errors: DialectErrors) -> Json:
    """The tag of the operations, and all their errors."""
    kinds = dict.fromkeys(kind for operation in operations for kind in _kinds(operation))
    return {
        "name": TAG,
        "description": "For administrators: users, keys, rules, providers, reports. The routes under `/api/me` are for "
        "everybody. A key is sent, or the access token of a login. Every change is in force when its answer comes, and "
        "in the audit trail.",
        "x-embedgate-errors": errors.rows(*kinds, without=_NEVER),
    }


def _described(operation: Declaration, errors: DialectErrors) -> Json:
    described: Json = {
        "operationId": operation.facts.id,
        "tags": [TAG],
        "summary": operation.summary,
        "description": operation.description,
        "security": [] if operation.facts.who == "anyone" else [{"apiKey": []}, {"bearer": []}],
    }
    if parameters := [*_path_parameters(operation), *(query_parameters(operation.query) if operation.query else ())]:
        described["parameters"] = parameters
    if operation.body is not None:
        schema = {"$ref": PLACE + operation.body.__name__}
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    described["responses"] = {
        str(operation.facts.status if operation.gives else 204): _success(operation),
        **errors.responses(*_kinds(operation), without=_NEVER, has_examples=False),
    }
    return described


def _kinds(operation: Declaration) -> Iterator[type[GatewayError]]:
    """The errors that an operation can answer with."""
    yield from (InternalError, MalformedRequest, InvalidInput)
    if operation.facts.who != "anyone":
        yield from _OF_KEYS
    if operation.facts.who == "admin":
        yield NotPermitted
    if operation.path_parameters:
        yield UnknownEntity
    if operation.body is not None:
        yield from _OF_BODIES
    if operation.method != "GET":
        yield Conflict
    yield from operation.facts.raises


def _path_parameters(operation: Declaration) -> Iterator[Json]:
    types = {field.name: field.type for field in msgspec.structs.fields(operation.takes)}
    for name in operation.path_parameters:
        schema = {"type": "string", **tidy(msgspec.json.schema(types[name]))}
        examples = schema.pop("examples")
        yield {
            "name": name,
            "in": "path",
            "required": True,
            "description": schema.pop("description"),
            "schema": schema if "enum" in schema else {**schema, "minLength": 1},
            "example": examples[0],
        }


def _success(operation: Declaration) -> Json:
    headers = header_references(_HEADERS)
    if operation.gives is None:
        return {"description": "Done.", "headers": headers}
    name = _list_name(operation.gives) if operation.gives_list else operation.gives.__name__
    content: Json = {"application/json": {"schema": {"$ref": PLACE + name}}}
    if operation.gives_file:
        content["text/csv"] = {"schema": {"type": "string"}}
    return {
        "description": "It is done." if operation.is_change else "The answer.",
        "headers": headers,
        "content": content,
    }


def _list_name(gives: type) -> str:
    return f"{gives.__name__}List"


def _list_schema(gives: type) -> Json:
    (schema,) = (tidy(found) for name, found in msgspec.json.schema_components([Listed])[1].items() if "Listed" in name)
    items = {"type": "array", "items": {"$ref": PLACE + gives.__name__}}
    return {**schema, "properties": {**schema["properties"], "items": items}}
