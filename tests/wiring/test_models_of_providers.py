"""The settings say which models a server has, where that is not all that the catalogue knows at such a host."""

from pathlib import Path
from typing import Any

import pytest

from embedgate.config import Loaded, Secrets
from embedgate.core.actions import EMBEDDING
from embedgate.core.errors import ConfigError, ProviderKeyMissing
from embedgate.engine.routing.find_model import ModelFinder
from embedgate.govern.selection import Selection, decide
from embedgate.settings import ProviderSettings, Settings, StorageSettings


def decided(tmp_path: Path, **providers: dict[str, Any]) -> Selection:
    entries = {name: ProviderSettings(**entry) for name, entry in providers.items()}
    settings = Settings(
        storage=StorageSettings(data_dir=tmp_path), providers={"local": ProviderSettings(enabled=False), **entries}
    )
    return decide(Loaded(settings, None, Secrets({})))


@pytest.mark.parametrize("entry", [{}, {"host": "tei"}, {"host": "llamacpp"}])
def test_a_server_that_answers_for_any_name_is_refused_without_its_model(tmp_path: Path, entry: dict[str, Any]) -> None:
    name = "gpu1" if entry else "tei"
    with pytest.raises(ConfigError, match=rf"providers.{name}.models is missing: .*the one model it has"):
        decided(tmp_path, **{name: entry})
    assert decided(tmp_path, **{name: entry | {"enabled": False}}).switched_on == frozenset()


def test_a_server_serves_the_models_that_it_has_and_no_other(tmp_path: Path) -> None:
    found = decided(
        tmp_path,
        tei={"models": ["BAAI/bge-m3"]},
        reranker={"host": "tei", "models": ["BAAI/bge-reranker-v2-m3"]},
        gpu2={"host": "vllm", "models": ["BAAI/bge-m3"], "base_url": "http://127.0.0.1:1/v1"},
    )
    served = {model.id: {route.provider for route in model.routes} for model in found.served_models()}
    assert served == {"BAAI/bge-m3": {"tei", "gpu2"}, "BAAI/bge-reranker-v2-m3": {"reranker"}}


def test_a_model_that_no_server_has_is_refused_with_the_reason(tmp_path: Path) -> None:
    catalog_file = tmp_path / "mine.toml"
    catalog_file.write_text(
        """
        [[model]]
        id = "ours/encoder"
        action = "embedding"
        space = "ours"
        dims = { default = 8 }
        max_input_tokens = 512
        [[model.route]]
        provider = "tei"
        upstream_model = "ours/encoder"
        """
    )
    settings = Settings.model_validate(
        {
            "storage": {"data_dir": str(tmp_path)},
            "providers": {"local": {"enabled": False}, "tei": {"models": ["BAAI/bge-m3"]}},
            "catalog": {"file": str(catalog_file)},
        }
    )
    found = decide(Loaded(settings, None, Secrets({})))
    with pytest.raises(ProviderKeyMissing, match=r"set to serve other models \(providers.<name>.models\)"):
        ModelFinder(found.catalog, found.switched_on, "BAAI/bge-m3").find("ours/encoder", None, EMBEDDING)


def test_a_model_that_is_not_known_there_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"providers.tei.models has 'openai/gpt-4o', which the catalogue does not"):
        decided(tmp_path, tei={"models": ["openai/gpt-4o"]})
