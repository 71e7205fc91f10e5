"""Files of secrets that others can read are named in the log, with the command that mends it."""

import logging
from pathlib import Path

import pytest

from embedgate.server.secret_files import warn_of_readable
from embedgate.settings import ProviderSettings, ServerSettings, Settings, StorageSettings

SECRET = "sk-not-for-the-log"


def named(settings: Settings, caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    with caplog.at_level(logging.WARNING, "embedgate"):
        warn_of_readable(settings)
    assert {record.getMessage() for record in caplog.records} <= {"secret_file_readable"}
    assert SECRET not in caplog.text
    return [record.__dict__["fields"] for record in caplog.records]


@pytest.mark.parametrize(
    ("mode", "is_named"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True), (0o622, True), (0o644, True)]
)
def test_only_the_owner_may_read(tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, is_named: bool) -> None:
    file = tmp_path / "openai.key"
    file.write_text(SECRET, encoding="utf-8")
    file.chmod(mode)
    settings = Settings(
        providers={"openai": ProviderSettings(api_key_file=file)}, storage=StorageSettings(data_dir=tmp_path / "data")
    )
    expected = [{"path": str(file), "mode": f"{mode:04o}", "mend": f"chmod 600 {file}"}]
    assert named(settings, caplog) == (expected if is_named else [])


def test_every_kind_of_secret_is_looked_at(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["admin.key", "user.key", "secrets.key", "tls.pem", "mine.key", "embedgate.db"]
    for name in names:
        (tmp_path / name).write_text(SECRET, encoding="utf-8")
        (tmp_path / name).chmod(0o644)
    settings = Settings(
        server=ServerSettings(tls_cert_file=tmp_path / "tls.pem"),
        providers={"mine": ProviderSettings(api_key_file=tmp_path / "mine.key"), "absent": ProviderSettings()},
        storage=StorageSettings(data_dir=tmp_path),
    )
    assert {Path(str(fields["path"])).name for fields in named(settings, caplog)} == {*names} - {"embedgate.db"}


def test_files_that_are_not_there_are_for_others_to_miss(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(
        providers={"mine": ProviderSettings(api_key_file=tmp_path / "no.key")},
        storage=StorageSettings(data_dir=tmp_path / "data"),
    )
    assert named(settings, caplog) == []
