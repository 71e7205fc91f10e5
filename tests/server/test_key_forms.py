"""Keys of every form: whatever is stored works, and a key that is not is refused as before."""

import hashlib
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from admin_calls import Api
from embedgate.config import Loaded, Secrets
from embedgate.providers import fake
from embedgate.server.app import Application
from embedgate.settings import KeySettings, LocalSettings, ProviderSettings, Settings, StorageSettings
from embedgate.wiring import open_gateway
from empty_database import write_empty_database

MODEL = fake.models()[0].id
BODY = {"model": MODEL, "input": "a text"}


@asynccontextmanager
async def gateway(folder: Path, **keys: object) -> AsyncIterator[Api]:
    """The API of a gateway on a folder, asked by its administrator."""
    settings = Settings(
        storage=StorageSettings(data_dir=folder),
        local=LocalSettings(default_model=MODEL),
        keys=KeySettings.model_validate(keys),
        providers={"fake": ProviderSettings(enabled=True), "local": ProviderSettings(enabled=False)},
    )
    write_empty_database(folder)
    opened = await open_gateway(Loaded(settings, None, Secrets({})), is_server=True)
    try:
        yield Api(Application(opened), (folder / "admin.key").read_text().strip())
    finally:
        await opened.aclose()


@pytest.mark.parametrize(
    "secret",
    ["sk-proj-" + "Ab3_" * 30, "0123456789abcdef", "eg_not-like-ours", "eyJhbGciOiJIUzI1NiJ9." + "x" * 800, "a"],
    ids=["another vendor's", "hex", "our prefix", "token", "short"],
)
async def test_what_was_imported_by_digest_works(tmp_path: Path, secret: str) -> None:
    async with gateway(tmp_path) as api:
        await api.with_key(secret)("POST", "/v1/embeddings", BODY, status=401)
        digest = hashlib.sha256(secret.encode()).hexdigest()
        await api("POST", "/api/keys/import", {"user": "user", "name": "imported", "key": digest})
        await api.with_key(secret)("POST", "/v1/embeddings", BODY)
        await api.with_key(secret + "x")("POST", "/v1/embeddings", BODY, status=401)


async def test_keys_outlast_a_change_of_the_prefix(tmp_path: Path) -> None:
    async with gateway(tmp_path) as api:
        old = (await api("POST", "/api/keys", {"user": "user", "name": "old"}))["secret"]
    async with gateway(tmp_path, prefix="acme") as api:  # the administrator's own key is an old one, too
        await api.with_key(old)("POST", "/v1/embeddings", BODY)
        new = (await api("POST", "/api/keys", {"user": "user", "name": "new"}))["secret"]
        assert new.startswith("acme_")
        await api.with_key(new)("POST", "/v1/embeddings", BODY)
        unknown = await api.with_key(f"eg_{uuid.uuid4().hex}")("POST", "/v1/embeddings", BODY, status=401)
        assert "form" in unknown["error"]["message"]


async def test_keys_of_accepted_prefixes_are_imported_whole(tmp_path: Path) -> None:
    secret = f"other_{uuid.uuid4().hex}"
    wanted = {"user": "user", "name": "whole", "key": secret}
    async with gateway(tmp_path) as api:
        assert "accepted_prefixes" in (await api("POST", "/api/keys/import", wanted, status=400))["error"]
    async with gateway(tmp_path, accepted_prefixes=["other"]) as api:
        unknown = await api.with_key(secret)("POST", "/v1/embeddings", BODY, status=401)
        assert "not known here" in unknown["error"]["message"]
        await api("POST", "/api/keys/import", wanted)
        await api.with_key(secret)("POST", "/v1/embeddings", BODY)
    async with gateway(tmp_path) as api:
        await api.with_key(secret)("POST", "/v1/embeddings", BODY)


async def test_a_key_of_absurd_length_is_not_looked_up(tmp_path: Path) -> None:
    async with gateway(tmp_path) as api:
        refused = await api.with_key("k" * 100_000)("POST", "/v1/embeddings", BODY, status=401)
        assert "form" in refused["error"]["message"]
