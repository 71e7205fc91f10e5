"""A vendor that nobody here has heard of: one file beside the others, and it is a provider."""

import json
from pathlib import Path

import numpy as np
import pytest

import embedgate.providers
from embedgate.config import load
from embedgate.core.types import EmbedRequest
from embedgate.providers import hosts
from embedgate.wiring import open_gateway
from embedgate.wiring.gateway import OPERATOR
from made_up_vendor import CATALOG, MODULE
from upstream import Answer, running_upstream


async def test_a_vendor_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "vendors"
    folder.mkdir()
    (folder / "acme_made_up.py").write_text(MODULE)
    monkeypatch.setattr(embedgate.providers, "__path__", [*embedgate.providers.__path__, str(folder)])
    (tmp_path / "models.toml").write_text(CATALOG)
    assert hosts.load()["acme_made_up"].module == "acme_made_up"
    with running_upstream() as upstream:
        (tmp_path / "embedgate.toml").write_text(
            f"""
            [storage]
            data_dir = {json.dumps(str(tmp_path / "data"))}
            [catalog]
            file = {json.dumps(str(tmp_path / "models.toml"))}
            [providers.local]
            enabled = false
            [providers.acme_made_up]
            base_url = "http://127.0.0.1:{upstream.port}/api"
            """
        )
        upstream.script(Answer(200, b'{"numbers": [[3.0, 4.0], [0.0, 2.0]]}'))
        gateway = await open_gateway(load(tmp_path / "embedgate.toml", {"ACME_TEST_KEY": "k-1"}))
        try:
            request = EmbedRequest("acme/words", ("one", "two"))
            result = await gateway.pipeline.embed_as("req_1", OPERATOR, request)
        finally:
            await gateway.aclose()
        (seen,) = upstream.requests
    np.testing.assert_allclose(result.vectors, [[0.6, 0.8], [0.0, 1.0]], atol=1e-6)
    assert (seen.path, seen.headers["x-acme-key"]) == ("/api/vectors", "k-1")
    assert seen.json == {"words": ["one", "two"]}


def test_a_provider_whose_address_only_its_owner_knows_is_off_until_it_has_one(tmp_path: Path) -> None:
    from embedgate.govern.selection import decide

    keys = {"AZURE_OPENAI_API_KEY": "k-1", "CLOUDFLARE_API_TOKEN": "k-2", "VOYAGE_API_KEY": "al-3"}
    settings = tmp_path / "embedgate.toml"
    settings.write_text("")
    decided = decide(load(settings, keys))
    assert {"azure", "azure-classic", "cloudflare"}.isdisjoint(decided.switched_on)
    assert "base_url in [providers.azure]" in decided.explain_off("azure")
    assert decided.hosts["voyage"].endpoint.base_url == "https://ai.mongodb.com/v1"
    settings.write_text('[providers.azure]\nhost = "azure-classic"\nbase_url = "https://r.openai.azure.com/openai"\n')
    decided = decide(load(settings, keys))
    assert decided.hosts["azure"].endpoint.key_header == "api-key"
    assert "api-version" in decided.hosts["azure"].host.path
