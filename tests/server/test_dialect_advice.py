"""What a refusal advises can be sent as it stands, in every dialect."""

import re
from typing import Any

import orjson
import pytest

from embedgate.core.errors import InputTooLong
from embedgate.server.dialect import Dialect
from embedgate.server.dialects import cohere, ollama, openai, tei, ziri

TEXT = {"model": "a/b", "input": "x"}
DIALECTS: list[tuple[Dialect, dict[str, Any]]] = [
    (openai, TEXT),
    (openai.Engine("a/b"), TEXT),
    (openai.Deployment("a/b"), TEXT),
    (ziri, {**TEXT, "provider": "fake"}),
    (cohere.Embed(1), {"model": "a/b", "texts": ["x"]}),
    (cohere.Embed(2), {"model": "a/b", "texts": ["x"]}),
    (ollama, TEXT),
    (tei.Server("a/b"), {"inputs": "x"}),
    (tei.Server(), {"model": "a/b", "inputs": "x"}),
]


@pytest.mark.parametrize(("dialect", "body"), DIALECTS)
def test_the_advised_field_is_read_as_it_is_meant(dialect: Dialect, body: dict[str, Any]) -> None:
    refusal = dialect.write_error(InputTooLong.measured(0, 300, 256), "req_1")
    advised = re.search(r'send (\\"truncate\\": [^.]+)\.', refusal.body.decode())
    assert advised is not None
    field = orjson.loads(f"{{{advised[1]}}}".replace("\\", ""))
    request, _ = dialect.read(orjson.dumps(body | field), lambda name: (name, None))
    assert request.truncate == "end"
    assert not request.options
