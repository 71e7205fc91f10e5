"""Which hosts of chat models are on, and what their routes carry."""

from pathlib import Path

import pytest

from embedgate.config import load
from embedgate.govern.selection import Selection, decide
from embedgate.providers import hosts

CATALOG = """
[[model]]
id = "acme/chatty"
action = "chat"
max_input_tokens = 1000

[[model.route]]
provider = "fireworks"
upstream_model = "accounts/acme/models/chatty"
required_params = { reasoning_effort = "low" }

[[model.route]]
provider = "acme"
upstream_model = "chatty"
"""
SETTINGS = """
[catalog]
file = "{file}"
[providers.acme]
base_url = "http://127.0.0.1:9/v1"
[providers.second]
host = "fireworks"
base_url = "http://127.0.0.1:9/v1"
api_key_env = "SECOND_KEY"
"""
KEYS = {
    "ANTHROPIC_API_KEY": "k-1",
    "XAI_API_KEY": "k-2",
    "MOONSHOT_API_KEY": "k-3",
    "DEEPSEEK_API_KEY": "k-4",
    "FIREWORKS_API_KEY": "k-5",
    "SECOND_KEY": "k-6",
}


@pytest.fixture
def decided(tmp_path: Path) -> Selection:
    (tmp_path / "models.toml").write_text(CATALOG)
    (tmp_path / "embedgate.toml").write_text(SETTINGS.format(file=tmp_path / "models.toml"))
    return decide(load(tmp_path / "embedgate.toml", KEYS))


@pytest.mark.parametrize(
    ("provider", "base_url"),
    [
        ("anthropic", "https://api.anthropic.com/v1"),
        ("xai", "https://api.x.ai/v1"),
        ("moonshot", "https://api.moonshot.ai/v1"),
        ("deepseek", "https://api.deepseek.com/v1"),
    ],
)
def test_a_key_switches_a_host_on_that_only_chats(decided: Selection, provider: str, base_url: str) -> None:
    assert provider in decided.switched_on
    assert decided.hosts[provider].endpoint.base_url == base_url
    assert [model.id for model in decided.usable_models() for route in model.routes if route.provider == provider] == []


def test_a_provider_of_the_settings_only_chats_in_openais_form(decided: Selection) -> None:
    assert "acme" in decided.switched_on
    assert hosts.vendor(decided.hosts["acme"].host).chat == hosts.load()[hosts.GENERIC].chat


def test_routes_of_chat_models_carry_nothing_that_is_for_embeddings(decided: Selection) -> None:
    model = decided.catalog.find("acme/chatty")
    assert model is not None
    assert {route.provider for route in model.routes} == {"fireworks", "second", "acme"}
    for route in model.routes:
        of_fireworks = () if route.provider == "acme" else (("reasoning_effort", "low"),)
        assert route.required_params == of_fireworks
