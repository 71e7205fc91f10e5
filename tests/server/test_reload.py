"""What a reload puts in force, and what it leaves and names."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from embedgate.config import Loaded, Secrets
from embedgate.core.errors import ConfigError
from embedgate.server.reload import Reload, differing, with_live
from embedgate.settings import LogSettings, ProviderSettings, ServerSettings, Settings, UpstreamSettings
from embedgate.wiring import Gateway

OTHER = Settings(
    server=ServerSettings(port=99, tls_cert_file=Path("other.pem")),
    upstream=UpstreamSettings(max_retries=7),
    providers={"a": ProviderSettings(weight=3), "b": ProviderSettings()},
    log=LogSettings(level="debug"),
)


def test_only_what_is_live_is_taken_over() -> None:
    settings = with_live(Settings(), OTHER)
    assert (settings.providers, settings.log) == (OTHER.providers, OTHER.log)
    assert (settings.server, settings.upstream) == (Settings().server, Settings().upstream)
    over_tls = Settings(server=ServerSettings(tls_cert_file=Path("cert.pem")))
    assert with_live(over_tls, OTHER).server == over_tls.server.model_copy(update={"tls_cert_file": Path("other.pem")})


def test_the_paths_of_what_differs_are_named_without_values() -> None:
    assert sorted(differing(Settings(), OTHER)) == [
        "log.level",
        "providers.a",
        "providers.b",
        "server.port",
        "server.tls_cert_file",
        "upstream.max_retries",
    ]
    assert list(differing(OTHER, OTHER)) == []


def loading(served: Gateway, settings: Settings) -> Callable[[], Loaded]:
    return lambda: replace(Loaded(settings, None, Secrets({})))


async def test_providers_are_other_ones_from_then_on_and_the_rest_waits_for_a_restart(
    served: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "embedgate")
    before = served.settings
    added = {"vllm": ProviderSettings(base_url="http://127.0.0.1:1/v1", models=("BAAI/bge-m3",))}
    wanted = before.model_copy(
        update={"providers": before.providers | added, "upstream": UpstreamSettings(order="price")}
    )
    await Reload(served, None, loading(served, wanted))()
    assert "BAAI/bge-m3" in [model.id for model in served.usable_models()]
    assert served.settings.upstream == before.upstream
    (record,) = [record for record in caplog.records if record.getMessage() == "reloaded"]
    assert record.__dict__["fields"] == {"changed": "providers.vllm", "needs_restart": "upstream.order"}
    await Reload(served, None, loading(served, before))()
    assert "BAAI/bge-m3" not in [model.id for model in served.usable_models()]


@pytest.mark.parametrize(
    "providers",
    [
        {"fake": ProviderSettings(enabled=False), "local": ProviderSettings(enabled=False)},
        {"fake": ProviderSettings(enabled=True), "x": ProviderSettings(host="nobody")},
        {"fake": ProviderSettings(enabled=True), "vllm": ProviderSettings(base_url="http://a/v1", models=("no/such",))},
    ],
)
async def test_settings_that_cannot_be_used_change_nothing(
    served: Gateway, caplog: pytest.LogCaptureFixture, providers: dict[str, ProviderSettings]
) -> None:
    before, models = served.settings, served.usable_models()
    await Reload(served, None, loading(served, before.model_copy(update={"providers": providers})))()
    assert served.settings is before
    assert served.usable_models() == models
    assert [record.getMessage() for record in caplog.records] == ["reload_failed"]


async def test_a_file_that_cannot_be_read_changes_nothing(served: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    def load() -> Loaded:
        raise ConfigError(["server.port: no such setting"])

    before = served.settings
    await Reload(served, None, load)()
    assert served.settings is before
    assert [record.getMessage() for record in caplog.records] == ["reload_failed"]
