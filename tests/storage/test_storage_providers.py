"""Providers and their sealed keys, through lost master keys and leaked database files."""

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from embedgate.core.errors import ConfigError, InvalidInput
from embedgate.storage.database import Database
from embedgate.storage.key_management import SqlKeys
from embedgate.storage.passwords import SqlPasswords
from embedgate.storage.providers import SqlProviders
from embedgate.storage.rules import SqlRules
from embedgate.storage.sealing import Sealer
from embedgate.storage.sessions import SqlSessions
from embedgate.storage.users import SqlUsers

KEY = "sk-proj-0123456789abcdef"
MASTER_KEY = "0123456789abcdef" * 4


@pytest.fixture
def providers(database: Database, tmp_path: Path) -> SqlProviders:
    return SqlProviders(database, Sealer(tmp_path))


def test_a_key_comes_back_and_shows_nowhere_else(providers: SqlProviders, database: Database, tmp_path: Path) -> None:
    stored = providers.put("openai", host="openai", base_url="https://api/v1", max_parallel=3, batching=False, key=KEY)
    assert stored.key_hint == "cdef"
    assert (stored.host, stored.base_url, stored.max_parallel, stored.batching) == (
        "openai",
        "https://api/v1",
        3,
        False,
    )
    assert stored.is_enabled is None
    assert providers.provider_key("openai") == KEY
    assert providers.provider_key("other") is None
    assert SqlRules(database).load().providers == (stored,) == (providers.get("openai"),)
    assert KEY not in repr(SqlRules(database).load())
    assert stat.S_IMODE((tmp_path / "secrets.key").stat().st_mode) == 0o600


def test_settings_change_without_the_key_and_the_key_without_the_file(
    providers: SqlProviders, database: Database, tmp_path: Path
) -> None:
    providers.put("openai", host="openai", key=KEY)
    changed = providers.put("openai", is_enabled=False)
    assert (changed.host, changed.is_enabled, changed.key_hint) == (None, False, "cdef")
    assert providers.provider_key("openai") == KEY
    removed = providers.remove_key("openai")
    assert replace(removed, updated_at_ms=0) == replace(changed, key_hint="", updated_at_ms=0)
    assert providers.provider_key("openai") is None
    assert providers.put("openai", key="short").key_hint == ""  # too short to show a part of
    providers.put("plain")
    assert providers.provider_key("plain") is None
    assert providers.delete("openai").name == "openai"
    assert [provider.name for provider in SqlRules(database).load().providers] == ["plain"]


def test_a_key_is_bound_to_its_provider(providers: SqlProviders, database: Database) -> None:
    providers.put("openai", key=KEY)
    providers.put("elsewhere", base_url="https://evil")
    with database.write() as connection:
        connection.exec_driver_sql(
            "UPDATE providers SET sealed_key = (SELECT sealed_key FROM providers WHERE name = 'openai')"
        )
    with pytest.raises(ConfigError, match="provider elsewhere cannot be opened"):
        providers.provider_key("elsewhere")


def test_a_lost_master_key_is_said_and_never_replaced_by_a_new_one(providers: SqlProviders, tmp_path: Path) -> None:
    for name in ("openai", "voyage"):
        providers.put(name, key=KEY)
    file, before = tmp_path / "secrets.key", (tmp_path / "secrets.key").read_text()
    file.unlink()
    with pytest.raises(ConfigError, match=r"no master key .*secrets\.key"):
        providers.provider_key("openai")
    with pytest.raises(ConfigError, match="no master key"):
        providers.put("openai", key=KEY)
    assert not file.exists()
    providers.put("openai", is_enabled=True)  # needs none
    file.write_text(before)
    assert providers.provider_key("openai") == KEY
    file.unlink()
    providers.remove_key("openai")
    providers.put("voyage", key=KEY)  # nothing else is sealed, so a new master key may be made
    assert providers.provider_key("voyage") == KEY
    assert file.read_text() != before


def test_another_master_key_opens_nothing_and_seals_nothing(
    providers: SqlProviders, database: Database, tmp_path: Path
) -> None:
    providers.put("openai", key=KEY)
    other = SqlProviders(database, Sealer(tmp_path, MASTER_KEY))
    with pytest.raises(ConfigError, match="the master key that was set is not the one") as caught:
        other.provider_key("openai")
    with pytest.raises(ConfigError, match="is not the one"):
        other.put("voyage", key=KEY)
    assert MASTER_KEY not in str(caught.value)
    assert KEY not in str(caught.value)
    assert [provider.name for provider in SqlRules(database).load().providers] == ["openai"]


def test_a_master_key_that_is_set_needs_no_file(database: Database, tmp_path: Path) -> None:
    providers = SqlProviders(database, Sealer(tmp_path, MASTER_KEY))
    providers.put("openai", key=KEY)
    assert providers.provider_key("openai") == KEY
    assert not (tmp_path / "secrets.key").exists()


@pytest.mark.parametrize("master_key", ["", "x", MASTER_KEY[:-1], MASTER_KEY + "0", "g" * 64])
def test_a_master_key_of_another_form_is_refused(tmp_path: Path, master_key: str) -> None:
    with pytest.raises(ConfigError, match="64 hexadecimal digits") as caught:
        Sealer(tmp_path, master_key)
    assert len(master_key) < 2 or master_key not in str(caught.value)
    (tmp_path / "secrets.key").write_text(master_key)
    with pytest.raises(ConfigError, match=r"secrets\.key has .* 64 hexadecimal digits"):
        Sealer(tmp_path).seal("openai", KEY)


def test_what_is_sealed_twice_differs_and_what_was_touched_does_not_open(tmp_path: Path) -> None:
    sealer = Sealer(tmp_path)
    sealed = sealer.seal("openai", KEY)
    assert sealer.seal("openai", KEY) != sealed
    assert sealer.unseal("openai", sealed) == KEY
    for position in range(len(sealed)):
        touched = sealed[:position] + bytes([sealed[position] ^ 1]) + sealed[position + 1 :]
        with pytest.raises(ConfigError):
            sealer.unseal("openai", touched)
    for cut in (b"", sealed[:1], sealed[:-1]):
        with pytest.raises(ConfigError):
            sealer.unseal("openai", cut)


def test_a_folder_that_cannot_be_written_is_a_mistake_of_the_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        Sealer(tmp_path / "missing").seal("openai", KEY)
    (tmp_path / "secrets.key").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        Sealer(tmp_path).seal("openai", KEY)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"name": ""}, "name"),
        ({"host": "\n"}, "host"),
        ({"base_url": "ftp://x"}, "base_url"),
        ({"base_url": "https://a b"}, "base_url"),
        ({"base_url": "https://" + "x" * 1_000}, "base_url"),
        ({"max_parallel": 0}, "max_parallel"),
        ({"key": "a b"}, "key"),
        ({"key": "é"}, "key"),
        ({"key": "x\n"}, "key"),
        ({"key": "x" * 5_000}, "key"),
    ],
)
def test_unfit_fields_are_refused_by_name(providers: SqlProviders, fields: dict[str, str], param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        providers.put(**{"name": "openai"} | fields)  # type: ignore[arg-type] # of several types
    assert caught.value.param == param
    assert param != "key" or fields["key"] not in caught.value.message


def test_a_leaked_database_file_holds_no_secret(providers: SqlProviders, database: Database, tmp_path: Path) -> None:
    user = SqlUsers(database).create("ann")
    keys, sessions, password = SqlKeys(database, "eg"), SqlSessions(database), "a long pass phrase"
    key, first = keys.create("ann", "k")
    _, second = keys.rotate(key.id, overlap_s=60)
    keys.take_over("ann", "old", "ziri-ann-0123456789abcdef")
    SqlPasswords(database).set_password("ann", password)
    tokens = sessions.open(user.id)
    renewed = sessions.refresh(tokens.refresh).tokens
    assert renewed is not None
    providers.put("openai", key=KEY)
    master_key = (tmp_path / "secrets.key").read_text().strip()
    secrets = [first, second, "ziri-ann-0123456789abcdef", password, KEY, master_key]
    secrets += [tokens.access, tokens.refresh, renewed.access, renewed.refresh]
    raw_forms = [secret.encode() for secret in secrets] + [bytes.fromhex(master_key)]
    raw_forms += [secret.partition("_")[2].encode() for secret in (first, second, tokens.access, renewed.refresh)]

    def written() -> bytes:
        return b"".join(file.read_bytes() for file in tmp_path.glob("embedgate.db*"))

    with_log = written()
    database.close()
    for raw in (with_log, written()):
        assert b"openai" in raw
        assert [form for form in raw_forms if form in raw] == []
