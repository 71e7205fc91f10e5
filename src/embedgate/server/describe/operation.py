"""Operations and answers of the OpenAPI document, as every API has them."""

import orjson

from embedgate.core.errors import (
    InternalError,
    MalformedKey,
    MissingKey,
    Overloaded,
    RevokedKey,
    UnknownKey,
)
from embedgate.core.models import Model
from embedgate.server.answer import Answer
from embedgate.server.describe.errors import REQUEST_ID, Json, header_names, header_references
from embedgate.server.dialects import openai
from embedgate.server.idempotency import HEADER, MAX_CHARACTERS

KEY_ERRORS = (MissingKey, MalformedKey, UnknownKey, RevokedKey, Overloaded, InternalError)
"""Errors of every route that needs a key."""
COMMON_HEADERS = [name.decode() for name, _ in openai.headers(REQUEST_ID)]
"""Headers that no dialect writes."""
_IDEMPOTENCY_KEY: Json = {
    "name": HEADER.decode(),
    "in": "header",
    "required": False,
    "description": "A text of your choice, new for every request. The same request with the same key is answered "
    "alike, with the header `idempotent-replayed`, and charged once.",
    "schema": {"type": "string", "pattern": f"^[!-~]{{1,{MAX_CHARACTERS}}}$"},
}
_SECURITY: dict[str, list[Json]] = {
    "OpenAI": [{"bearer": []}, {"apiKey": []}],
    "ZIRI": [{"apiKey": []}],
    "Operation": [],
    **{tag: [{"bearer": []}, {"apiKey": []}] for tag in ("Azure", "Cohere", "Ollama", "TEI")},
}


def operation(
    operation_id: str,
    tag: str,
    summary: str,
    description: str,
    responses: dict[str, Json],
    request: str | None = None,
    parameters: list[Json] | None = None,
) -> Json:
    """An operation. tag: its API. request: name of the schema of its body, if it takes one."""
    described: Json = {
        "operationId": operation_id,
        "tags": [tag],
        "summary": summary,
        "description": description,
        "security": _SECURITY[tag],
    }
    if parameters:
        described["parameters"] = parameters
    if request:
        described["parameters"] = [*(parameters or ()), _IDEMPOTENCY_KEY]
        schema = {"$ref": f"#/components/schemas/{request}"}
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return {**described, "responses": responses}


def aliases(path: str, item: dict[str, Json], suffix: str = "Alias") -> dict[str, Json]:
    """The same operations at another path. suffix: of their operation ids."""
    return {
        method: {**one, "operationId": f"{one['operationId']}{suffix}", "x-embedgate-alias-of": path}
        for method, one in item.items()
    }


def model_parameter(model: Model) -> Json:
    """The parameter `id` of a path with a model in it."""
    return {
        "name": "id",
        "in": "path",
        "required": True,
        "description": "Id of the model; its slash may be sent as it is, or as `%2F`. A bare name is enough where only "
        "one model has it.",
        "schema": {"type": "string", "minLength": 1},
        "example": model.id,
    }


def answer_of(description: str, schema: str, example: object) -> Json:
    """A JSON answer that no dialect writes."""
    content: Json = {"schema": {"$ref": f"#/components/schemas/{schema}"}}
    if example is not None:
        content["example"] = example
    return {
        "description": description,
        "headers": header_references(COMMON_HEADERS),
        "content": {"application/json": content},
    }


def vectors_of(schema: str, examples: dict[str, Answer], with_every_header: Answer) -> Json:
    """An embeddings answer. examples: by encoding format, as the dialect writes them."""
    return {
        "description": "The vectors. Those of the examples are shortened to four numbers.",
        "headers": header_references(header_names(with_every_header)),
        "content": {
            "application/json": {
                "schema": {"$ref": f"#/components/schemas/{schema}"},
                "examples": {form: {"value": body_of(answer)} for form, answer in examples.items()},
            }
        },
    }


def body_of(answer: Answer) -> object:
    """The body of an answer as JSON values."""
    return orjson.loads(b"".join([answer.body, *(answer.pieces or ())]))
