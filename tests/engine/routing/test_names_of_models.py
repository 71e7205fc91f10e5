"""Names that callers write: other capitals, another author, a tag; they mean the one model that is on."""

import pytest

from embedgate.catalog import Catalog
from embedgate.core.actions import CHAT, EMBEDDING
from embedgate.core.errors import InvalidInput, UnknownModel
from embedgate.engine.routing.find_model import ModelFinder


def finder(*switched_on: str) -> ModelFinder:
    return ModelFinder(Catalog.builtin(), switched_on, "BAAI/bge-m3")


@pytest.mark.parametrize("name", ["bge-m3", "BGE-M3", "xenova/bge-m3", "somebody/BGE-m3", "bge-m3:latest"])
def test_a_model_that_is_on_is_found_by_any_of_its_names(name: str) -> None:
    assert finder("ollama").find(name, None, EMBEDDING).id == "BAAI/bge-m3"


def test_a_name_means_nothing_of_another_kind_and_nothing_that_is_off() -> None:
    with pytest.raises(UnknownModel):
        finder("ollama").find("xenova/bge-m3", None, CHAT)
    with pytest.raises(UnknownModel):
        finder("openai").find("xenova/bge-m3", None, EMBEDDING)
    with pytest.raises(UnknownModel):
        finder("ollama").find("xenova/bge-m", None, EMBEDDING)


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_the_fault_of_the_request(name: str) -> None:
    with pytest.raises(InvalidInput, match="The model is empty"):
        finder("ollama").find(name, None, EMBEDDING)
