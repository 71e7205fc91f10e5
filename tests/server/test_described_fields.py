"""The schemas of requests in `/openapi.json`, field by field, against what the dialects read.

The schemas are written by hand. Which fields a dialect reads is found out by asking it: every word in the modules that
read bodies is tried as a field.
"""

import ast
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import orjson
import pytest

from embedgate.catalog import Catalog
from embedgate.core.errors import RequestError, UnsupportedOption
from embedgate.providers import fake
from embedgate.server import chat_body, fields, rerank_body, steering
from embedgate.server.describe.document import document
from embedgate.server.dialects import cohere, ollama, openai, tei, ziri
from embedgate.settings import Settings

jsonschema = pytest.importorskip("jsonschema")
DESCRIBED: Mapping[str, Any] = document(Settings(), fake.models()[0])
SCHEMAS: Mapping[str, Any] = DESCRIBED["components"]["schemas"]
SPLIT = Catalog.builtin().parse_model_name
OF_NO_FIELD: list[list[dict[str, int]]] = [[{}]]
"""A value that no field takes."""


@dataclass(frozen=True)
class Kind:
    """A kind of request: its schema, what reads it, and the modules that hold the names of its fields."""

    schema: str
    read: Callable[[bytes, Any], object]
    right: Mapping[str, Any]
    modules: tuple[ModuleType, ...]

    def refusal(self, **given: Any) -> RequestError | None:
        """Why a right request with these fields changed is refused; None if it is not."""
        try:
            self.read(orjson.dumps({**self.right, **given}), SPLIT)
        except RequestError as error:
            return error
        return None

    def words(self) -> set[str]:
        """Every word in the modules: names of attributes and arguments, and texts."""
        found: set[str] = set()
        for node in itertools.chain.from_iterable(ast.walk(ast.parse(inspect.getsource(m))) for m in self.modules):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found.add(node.target.id)
        return {word for word in found if word.isidentifier()}


TEXT = {"model": "a/b", "input": "x"}
CHAT = {"model": "a/b", "messages": [{"role": "user", "content": "x"}]}
RANKING = {"model": "a/b", "query": "x", "documents": ["y"]}
AT = {"provider": "fake"}
KINDS = [
    Kind("EmbeddingsRequest", openai.read, TEXT, (openai, fields, steering)),
    Kind("ZiriEmbeddingsRequest", ziri.read, TEXT | AT, (ziri, fields)),
    Kind("ChatRequest", openai.read_chat, CHAT, (openai, fields, chat_body, steering)),
    Kind("ZiriChatRequest", ziri.read_chat, CHAT | AT, (ziri, fields, chat_body)),
    Kind("RerankRequest", openai.read_rerank, RANKING, (openai, fields, rerank_body, steering)),
    Kind("RerankRequest", cohere.Rerank().read_rerank, RANKING, (cohere, fields, rerank_body, steering)),
    Kind("EngineEmbeddingsRequest", openai.Engine("a/b").read, {"input": "x"}, (openai, fields, steering)),
    Kind("DeploymentChatRequest", openai.Deployment("a/b").read_chat, CHAT, (openai, fields, chat_body, steering)),
    Kind("CohereEmbedRequest", cohere.Embed(2).read, {"model": "a/b", "texts": ["x"]}, (cohere, fields)),
    Kind("OllamaEmbedRequest", ollama.read, TEXT, (ollama, fields)),
    Kind("TeiEmbedRequest", tei.Server("a/b").read, {"inputs": "x"}, (tei, fields)),
    Kind("TeiRerankRequest", tei.Server("a/b").read_rerank, {"query": "x", "texts": ["y"]}, (tei, fields)),
    Kind("TeiNamedRequest", tei.Server().read, {"model": "a/b", "inputs": "x"}, (tei, fields)),
]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.schema)


@each_kind
def test_the_fields_of_the_schema_are_those_that_are_read(kind: Kind) -> None:
    """What is not read goes to the provider as it is, whatever it holds, or is refused by name."""
    assert kind.refusal() is None
    refused = {word: kind.refusal(**{word: OF_NO_FIELD}) for word in kind.words()}
    read = {word for word, error in refused.items() if error is not None and not isinstance(error, UnsupportedOption)}
    assert read == SCHEMAS[kind.schema]["properties"].keys()


@each_kind
def test_the_required_fields_are_those_that_cannot_be_left_out(kind: Kind) -> None:
    """Of the schema of rankings, alternatives say of query and documents that they must be there."""
    schema = SCHEMAS[kind.schema]
    needed = {name for name in schema["properties"] if kind.refusal(**{name: None}) is not None}
    alternatives = {name for choice in schema.get("oneOf", ()) for name in choice["required"]}
    assert needed - alternatives == set(schema["required"])
    assert alternatives <= schema["properties"].keys()


def values(schema: Mapping[str, Any]) -> Iterator[Any]:
    """One value of each type, numbers at and beyond the bounds, and the words of an enumeration and one more."""
    yield from [True, False, 7, 1.5, "text", "x" * 512, "x" * 513, {}, [], ["text"], None]
    yield from schema.get("enum", ())
    maximum = schema.get("maximum")
    yield from [maximum, maximum + 1] if maximum is not None else []


@each_kind
def test_a_value_is_of_the_schema_if_it_is_read(kind: Kind) -> None:
    """The texts of embeddings, `messages` and what needs a partner are compared over requests in `test_description`."""
    schema = SCHEMAS[kind.schema]
    components = {"components": {"schemas": SCHEMAS}}
    for name, described in schema["properties"].items():
        if name in ("input", "inputs", "texts", "messages", "documents", "query"):
            continue
        validator = jsonschema.Draft202012Validator({**described, **components})
        for value in values(described):
            assert validator.is_valid(value) == (kind.refusal(**{name: value}) is None), (name, str(value)[:20])


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[2], KINDS[4]], ids=lambda kind: kind.schema)
def test_the_fields_of_steering_are_those_that_are_read(kind: Kind) -> None:
    steering = SCHEMAS[kind.schema]["properties"]["provider"]
    routing = steering["properties"]["routing"]
    choice = {"type": "priority"}

    def is_read(provider: dict[str, Any]) -> bool:
        refusal = kind.refusal(provider=provider)
        return refusal is None or "unknown field" not in str(refusal)

    assert {word for word in kind.words() if is_read({word: None})} == steering["properties"].keys()
    assert {word for word in kind.words() if is_read({"routing": choice | {word: None}})} == routing[
        "properties"
    ].keys()
