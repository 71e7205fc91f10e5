"""Names that callers write: other capitals, another author, a tag; they mean the one model that is on."""

import re
from typing import Any

import pytest

from embedgate.catalog import Catalog, read_model
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


class Searched(Catalog):
    """A catalogue that remembers which names it has looked for others near."""

    def __init__(self) -> None:
        super().__init__(Catalog.builtin().models())
        self.names: list[str] = []

    def close_matches(self, name: str, *more: Any) -> list[str]:
        self.names.append(name)
        return super().close_matches(name, *more)


def test_names_near_an_unknown_one_are_looked_for_once() -> None:
    catalog = Searched()
    finder = ModelFinder(catalog, ("openai",), "BAAI/bge-m3")
    told = []
    for _ in range(3):
        with pytest.raises(UnknownModel) as raised:
            finder.find("text-embeding-3-smal", None, EMBEDDING)
        told.append(raised.value.message)
    assert len(set(told)) == 1
    assert "text-embedding-3-small" in told[0]
    n_searches = len(catalog.names)
    with pytest.raises(UnknownModel, match="Did you mean"):
        finder.find("text-embeding-3-large", None, EMBEDDING)
    assert (n_searches, len(catalog.names)) == (2, 4)  # among all, and among those that are on


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_the_fault_of_the_request(name: str) -> None:
    with pytest.raises(InvalidInput, match="The model is empty"):
        finder("ollama").find(name, None, EMBEDDING)


def twin_catalog() -> Catalog:
    rows = [
        {"id": "maker/embed", "space": "one", "max_input_tokens": 9, "dims": {"default": 8}},
        {"id": "local/embed-int8", "space": "one", "max_input_tokens": 9, "dims": {"default": 8}},
        {"id": "maker/other", "space": "two", "max_input_tokens": 9, "dims": {"default": 8}},
    ]
    providers = ("openai", "ollama", "openai")
    models = [
        read_model(row, {provider: {"provider": provider, "upstream_model": "m"}})
        for row, provider in zip(rows, providers, strict=True)
    ]
    return Catalog(models)


@pytest.mark.parametrize("name", ["maker/embed", "embed", "MAKER/Embed"])
def test_a_model_that_is_off_means_its_twin_of_the_same_space(name: str) -> None:
    catalog = twin_catalog()
    assert ModelFinder(catalog, ("ollama",), "local/embed-int8").find(name, None, EMBEDDING).id == "local/embed-int8"
    assert ModelFinder(catalog, ("ollama", "openai"), "x/y").find(name, None, EMBEDDING).id == "maker/embed"
    assert ModelFinder(catalog, ("ollama",), "x/y").find("maker/other", None, EMBEDDING).id == "maker/other"
    assert ModelFinder(catalog, ("ollama",), "x/y").find("maker/embed", "openai", EMBEDDING).id == "maker/embed"


@pytest.mark.parametrize(
    "name", ["bge-m", "text-embeding-3-small", "voyage-3-x", "nothing-like-it", "voyage/voyage-01"]
)
def test_a_name_that_is_advised_is_on(name: str) -> None:
    finds = finder("ollama")
    with pytest.raises(UnknownModel) as caught:
        finds.find(name, None, EMBEDDING)
    message = caught.value.message
    advised = re.findall(r"(?:Did you mean|Use) (\S+/[^\s,?]+)", message)
    assert advised, message
    model = finds.find(advised[-1], None, EMBEDDING)
    assert any(route.provider == "ollama" for route in model.routes), message
