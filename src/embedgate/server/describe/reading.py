"""Typed records of the parts of an OpenAPI document that the page shows."""

from typing import Any

import msgspec
from msgspec import Struct, field


class Schema(Struct, frozen=True):
    """A JSON Schema, or a reference to one in the components."""

    ref: str = field(name="$ref", default="")
    type: str | list[str] = ""
    description: str = ""
    properties: dict[str, "Schema"] = {}
    required: list[str] = []
    items: "Schema | None" = None
    one_of: list["Schema"] = field(name="oneOf", default_factory=list)
    any_of: list["Schema"] = field(name="anyOf", default_factory=list)
    enum: list[Any] = []
    const: Any = None
    default: Any = None
    examples: list[Any] = []

    def types(self) -> list[str]:
        """The names of its types, without null."""
        names = [self.type] if isinstance(self.type, str) else self.type
        return [name for name in names if name != "null"]


class Example(Struct, frozen=True):
    """One value."""

    value: Any


class MediaType(Struct, frozen=True):
    """A body of one media type."""

    schema: Schema
    example: Any = None
    examples: dict[str, Example] = {}


class Response(Struct, frozen=True):
    """One answer."""

    description: str
    content: dict[str, MediaType] = {}
    headers: dict[str, Any] = {}

    def example(self) -> Any:
        """The first example of its JSON body; None without one."""
        media = self.content.get("application/json")
        if media is None:
            return None
        return next((example.value for example in media.examples.values()), media.example)


class RequestBody(Struct, frozen=True):
    """Body of a request."""

    content: dict[str, MediaType]


class Parameter(Struct, frozen=True):
    """Parameter of the path or of the query."""

    name: str
    place: str = field(name="in")
    schema: Schema
    description: str = ""
    required: bool = False
    example: Any = None


class Operation(Struct, frozen=True, rename="camel"):
    """A method of a path. `alias_of` is the path that it is described under."""

    operation_id: str
    summary: str
    description: str
    tags: list[str]
    responses: dict[str, Response]
    security: list[dict[str, list[str]]] = []
    parameters: list[Parameter] = []
    request_body: RequestBody | None = None
    alias_of: str = field(name="x-embedgate-alias-of", default="")


class ErrorRow(Struct, frozen=True):
    """Row of an error table."""

    status: int
    code: str
    meanings: list[str]
    type: str = ""


class Tag(Struct, frozen=True):
    """A group of operations, and its error table."""

    name: str
    description: str
    errors: list[ErrorRow] = field(name="x-embedgate-errors", default_factory=list)


class SecurityScheme(Struct, frozen=True):
    """Way to send a key."""

    description: str


class Header(Struct, frozen=True):
    """A header of answers."""

    description: str
    required: bool = False


class Components(Struct, frozen=True, rename="camel"):
    """Components shared by operations."""

    schemas: dict[str, Schema]
    headers: dict[str, Header]
    security_schemes: dict[str, SecurityScheme]


class Info(Struct, frozen=True):
    """Title, version and description."""

    title: str
    version: str
    description: str


class Document(Struct, frozen=True):
    """OpenAPI document."""

    info: Info
    tags: list[Tag]
    paths: dict[str, dict[str, Operation]]
    components: Components


def read(document: bytes) -> Document:
    """The document in `document`. Raises msgspec.ValidationError if a part has another type."""
    return msgspec.json.decode(document, type=Document)
