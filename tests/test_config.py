"""Settings: precedence, all mistakes at once, nothing unknown, no secret shown."""

from pathlib import Path

import pytest

from embedgate import config
from embedgate.core.errors import ConfigError
from embedgate.settings_reference import fields


def _write(folder: Path, text: str) -> Path:
    file = folder / "embedgate.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_defaults_need_nothing() -> None:
    loaded = config.load(environment={})
    assert (loaded.settings.server.host, loaded.settings.server.port) == ("127.0.0.1", 3100)
    assert loaded.file is None


def test_command_line_beats_environment_beats_file(tmp_path: Path) -> None:
    file = _write(tmp_path, '[server]\nport = 1\nhost = "127.0.0.2"\nbody_timeout_s = 9\n')
    environment = {"EMBEDGATE_PORT": "2", "EMBEDGATE_SERVER__HOST": "127.0.0.3"}
    server = config.load(file, environment, {"server": {"port": 3, "host": None}}).settings.server
    assert (server.port, server.host, server.body_timeout_s) == (3, "127.0.0.3", 9)


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    file = _write(tmp_path, '[server]\nport = "x"\nprot = 1\n[nothing]\na = 1\n[log]\nlevel = "loud"\n')
    with pytest.raises(ConfigError) as caught:
        config.load(file, {"EMBEDGATE_SERVER__BODY_TIMEOUT_S": "-1", "EMBEDGATE_TYPO": "1"})
    text = "\n".join(caught.value.mistakes)
    for part in (
        "server.port",
        "server.prot: no such setting",
        "nothing: no such",
        "log.level",
        "body_timeout_s",
        "TYPO",
    ):
        assert part in text
    assert len(caught.value.mistakes) == 6


def test_a_named_file_must_exist_and_be_toml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        config.load(tmp_path / "no.toml", {})
    with pytest.raises(ConfigError, match="does not exist"):
        config.load(None, {"EMBEDGATE_CONFIG": str(tmp_path / "no.toml")})
    with pytest.raises(ConfigError, match="line 1"):
        config.load(_write(tmp_path, "= = ="), {})


def test_environment_reaches_tables_of_named_entries() -> None:
    loaded = config.load(environment={"EMBEDGATE_PROVIDERS__OPENAI__BASE_URL": "http://127.0.0.1:1"})
    assert loaded.settings.providers["openai"].base_url == "http://127.0.0.1:1"


def test_a_value_where_a_section_is_expected_is_a_mistake_and_no_crash(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        config.load(_write(tmp_path, "server = 3\n"), {"EMBEDGATE_PORT": "1"})
    with pytest.raises(ConfigError):
        config.load(_write(tmp_path, "server = 3\n"), {}, {"server": {"port": 1}})


def test_provider_keys_come_from_the_environment_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("sk-from-file\n", encoding="utf-8")
    secrets = config.load(environment={"OPENAI_API_KEY": " sk-from-env "}).secrets
    assert secrets.provider_key("OPENAI_API_KEY", None) == "sk-from-env"
    assert secrets.provider_key("OPENAI_API_KEY", file) == "sk-from-file"
    assert secrets.provider_key("OTHER", None) is None
    with pytest.raises(ConfigError, match="cannot be read"):
        secrets.provider_key(None, tmp_path / "none")
    assert "sk-from-env" not in repr(config.load(environment={"OPENAI_API_KEY": "sk-from-env"}))


@pytest.mark.parametrize("pause_s", ["0", "60", "86400"])
def test_checks_of_vectors_are_off_or_seldom(pause_s: str) -> None:
    loaded = config.load(environment={"EMBEDGATE_UPSTREAM__VERIFY_EVERY_S": pause_s})
    assert loaded.settings.upstream.verify_every_s == float(pause_s)
    for costly in ("5", "-1", "nan"):
        with pytest.raises(ConfigError, match="must be 0, for no checks, or at least 60"):
            config.load(environment={"EMBEDGATE_UPSTREAM__VERIFY_EVERY_S": costly})


@pytest.mark.parametrize("setting", ["server.request_timeout_s", "upstream.circuit_wait_s", "upstream.verify_every_s"])
def test_times_are_finite(setting: str) -> None:
    section, name = setting.split(".")
    with pytest.raises(ConfigError, match=setting):
        config.load(environment={f"EMBEDGATE_{section}__{name}".upper(): "inf"})


def test_every_setting_has_a_sentence() -> None:
    infos = list(fields())
    assert len(infos) > 20
    assert all(info.description.endswith(".") for info in infos)
