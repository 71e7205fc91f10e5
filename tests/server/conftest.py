"""A whole gateway with the provider that needs no model, and its administrator."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from admin_calls import Api
from embedgate.config import Loaded, Secrets
from embedgate.providers import fake
from embedgate.server.app import Application
from embedgate.settings import LocalSettings, ProviderSettings, Settings, StorageSettings
from embedgate.wiring import Gateway, open_gateway
from empty_database import write_empty_database


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> AsyncIterator[Gateway]:
    """The gateway."""
    write_empty_database(tmp_path)
    settings = Settings(
        storage=StorageSettings(data_dir=tmp_path),
        local=LocalSettings(default_model=fake.models()[0].id),
        providers={"fake": ProviderSettings(enabled=True), "local": ProviderSettings(enabled=False)},
    )
    opened = await open_gateway(Loaded(settings, None, Secrets({})), is_server=True)
    yield opened
    await opened.aclose()


@pytest_asyncio.fixture
async def api(served: Gateway) -> Api:
    """Its API, asked by the administrator."""
    assert served.first_keys
    return Api(Application(served), served.first_keys.admin_key)


@pytest_asyncio.fixture
async def user_api(served: Gateway, api: Api) -> Api:
    """The same, asked by a user who is no administrator."""
    assert served.first_keys
    return api.with_key(served.first_keys.user_key)
