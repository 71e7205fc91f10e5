"""Providers: keys that never come out, addresses that are where they should be, and a gateway that still starts."""

import stat
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from embedgate.config import Loaded, Secrets
from embedgate.core.errors import (
    ConfigError,
    InternalError,
    InvalidInput,
    UnknownEntity,
    UnknownProvider,
    UpstreamFailed,
)
from embedgate.core.types import EmbedResult
from embedgate.govern import keys as keys_of_callers
from embedgate.govern import providers, users
from embedgate.govern.change import Actor
from embedgate.govern.logins import Login, Refresh, log_in, refresh
from embedgate.govern.providers import Provider, ProviderQuery, ProviderToSet, TrialOf, WhichProvider, read_keys
from embedgate.govern.resources import NO_GATEWAY
from embedgate.govern.revision import read_revision
from embedgate.govern.selection import Selection
from embedgate.settings import AccessSettings, ProviderSettings, Settings, StorageSettings
from embedgate.storage.database import Database
from embedgate.storage.sealing import Sealer
from embedgate.wiring.administration import decide_within
from governing import Clock, Governing, resources_for

KEY = "sk-0123456789-of-the-vendor"
MASTER_KEY = "0123456789abcdef" * 4
PUBLIC, ELSEWHERE = "https://1.1.1.1/v1", "https://8.8.8.8"


@dataclass
class Folder:
    """A data folder, and the settings of its gateway: the provider `fake` is on, if nothing else is said."""

    database: Database
    data_dir: Path
    is_fake_on: bool = True
    secrets: dict[str, str] = field(default_factory=dict)

    def decide(self, connection: sa.Connection) -> Selection:
        """What a gateway would have on."""
        on = {"fake": ProviderSettings(enabled=self.is_fake_on), "local": ProviderSettings(enabled=False)}
        settings = Settings(
            storage=StorageSettings(data_dir=self.data_dir),
            providers=on,
            access=AccessSettings(master_key_env="MASTER"),
        )
        return decide_within(Loaded(settings, None, Secrets(self.secrets)), connection)

    def selection(self) -> Selection:
        """What a gateway has on."""
        with self.database.read() as connection:
            return self.decide(connection)


@pytest.fixture
def folder(database: Database, tmp_path: Path) -> Folder:
    return Folder(database, tmp_path)


@pytest.fixture
def call(folder: Folder, clock: Clock) -> Governing:
    """Runs operations as an administrator."""
    gateway = replace(NO_GATEWAY, selection=folder.selection, decide=folder.decide)
    resources = resources_for(folder.data_dir, clock.ms)
    resources = replace(resources, gateway=gateway, catalog=lambda: folder.selection().catalog)
    return Governing(folder.database, resources, Actor("user_admin", "req_1"))


def put(call: Governing, name: str, **fields: Any) -> Provider:
    return call(providers.set_provider, ProviderToSet(name, **fields))


def show(call: Governing, name: str) -> Provider:
    return call(providers.show_provider, WhichProvider(name))


def stored(call: Governing) -> list[Provider]:
    return [each for each in call.every(providers.list_providers, ProviderQuery()) if each.is_stored]


def keys(call: Governing, sealer: Sealer | None = None) -> dict[str, str]:
    with call.database.read() as connection:
        return read_keys(connection, sealer or call.resources.sealer)


def test_a_provider_is_stored_without_its_key_ever_coming_back(call: Governing, tmp_path: Path) -> None:
    made = put(call, "mine", base_url=PUBLIC, max_parallel=3, batching=False, host="openai", key=KEY)
    assert (made.base_url, made.max_parallel, made.batching, made.host) == (PUBLIC, 3, False, "openai")
    assert (made.is_enabled, made.key_hint) == (None, KEY[-4:])
    assert show(call, "mine") == made
    assert stored(call) == [made]
    assert KEY not in repr(made)
    assert keys(call) == {"mine": KEY}
    assert stat.S_IMODE((tmp_path / "secrets.key").stat().st_mode) == 0o600
    assert call(providers.remove_key, WhichProvider("mine")).key_hint == ""
    call(providers.delete_provider, WhichProvider("mine"))
    with pytest.raises(UnknownEntity):
        call(providers.remove_key, WhichProvider("mine"))
    with pytest.raises(UnknownEntity):
        call(providers.delete_provider, WhichProvider("mine"))
    with pytest.raises(UnknownProvider, match="no provider 'mine'"):
        show(call, "mine")


def test_the_answer_says_what_is_on_after_the_change(call: Governing) -> None:
    on = put(call, "openai", key=KEY)
    assert (on.is_on, on.how_to_switch_on, on.keys) == (True, None, 1)
    assert on.in_use is not None
    assert on.in_use.base_url == "https://api.openai.com/v1"
    off = call(providers.remove_key, WhichProvider("openai"))
    assert (off.is_on, off.how_to_switch_on, off.keys, off.in_use) == (False, "set OPENAI_API_KEY for openai", 0, None)


def test_every_change_leaves_its_event_and_no_secret_and_counts_the_revision_up(call: Governing) -> None:
    which = WhichProvider("openai")
    changes: list[tuple[str, Any, dict[str, Any]]] = [
        (
            "providers.put",
            lambda: put(call, "openai", key=KEY, max_parallel=3),
            {"max_parallel": 3, "has_new_key": True},
        ),
        ("providers.put", lambda: put(call, "openai"), {"has_new_key": False, "allow_private": False}),
        ("providers.disable", lambda: call(providers.disable_provider, which), {}),
        ("providers.enable", lambda: call(providers.enable_provider, which), {}),
        ("providers.disable", lambda: call(providers.disable_provider, which), {}),
        ("providers.remove_key", lambda: call(providers.remove_key, which), {}),
        ("providers.delete", lambda: call(providers.delete_provider, which), {}),
    ]
    for n, (action, change, detail) in enumerate(changes, start=1):
        with call.database.read() as connection:
            revision = read_revision(connection)
        change()
        with call.database.read() as connection:
            assert read_revision(connection) == revision + 1
        events = call.events()
        assert len(events) == n
        last_action, target, last_detail = call.last_event()
        assert (last_action, target) == (action, "openai")
        assert detail.items() <= last_detail.items()
        assert KEY not in repr(events)


def test_an_address_that_is_refused_is_not_stored(call: Governing) -> None:
    with pytest.raises(InvalidInput, match="allow_private"):
        put(call, "mine", base_url="http://127.0.0.1:8000")
    assert stored(call) == []
    put(call, "mine", base_url="http://127.0.0.1:8000", allow_private=True)
    assert len(stored(call)) == 1


def test_a_stored_key_is_not_sent_to_another_address(call: Governing) -> None:
    for key in (KEY, "short"):
        put(call, "mine", base_url=PUBLIC, key=key)
        with pytest.raises(InvalidInput, match="another address") as raised:
            put(call, "mine", base_url=ELSEWHERE)
        assert raised.value.param == "key"
        with pytest.raises(InvalidInput):
            put(call, "mine", base_url=PUBLIC, host="openai")
        put(call, "mine", base_url=PUBLIC, max_parallel=2)
        assert keys(call) == {"mine": key}
    put(call, "mine", base_url=ELSEWHERE, key=KEY)
    call(providers.remove_key, WhichProvider("mine"))
    put(call, "mine", base_url=PUBLIC)


def test_settings_change_without_the_key_and_the_key_without_the_settings(call: Governing) -> None:
    put(call, "openai", max_parallel=3, key=KEY)
    changed = put(call, "openai", is_enabled=False)
    assert (changed.max_parallel, changed.is_enabled, changed.key_hint) == (None, False, KEY[-4:])
    assert keys(call) == {"openai": KEY}
    removed = call(providers.remove_key, WhichProvider("openai"))
    assert (removed.max_parallel, removed.is_enabled, removed.key_hint) == (None, False, "")
    assert keys(call) == {}
    assert put(call, "openai", key="short").key_hint == ""  # too short to show a part of
    put(call, "plain", base_url=PUBLIC)
    assert keys(call) == {"openai": "short"}
    call(providers.delete_provider, WhichProvider("openai"))
    assert [each.name for each in stored(call)] == ["plain"]


def test_switching_a_provider_leaves_the_rest_of_it(call: Governing) -> None:
    put(call, "mine", base_url=PUBLIC, max_parallel=3, batching=True, host="openai", key=KEY)
    off = call(providers.disable_provider, WhichProvider("mine"))
    assert (off.is_enabled, off.base_url, off.max_parallel, off.batching, off.host) == (
        False, PUBLIC, 3, True, "openai"
    )  # fmt: skip
    assert call(providers.enable_provider, WhichProvider("mine")).is_enabled
    assert keys(call) == {"mine": KEY}


def test_a_provider_of_the_catalogue_can_be_switched_and_a_mistyped_one_not(call: Governing) -> None:
    assert call(providers.disable_provider, WhichProvider("voyage")) == show(call, "voyage")
    with pytest.raises(UnknownProvider, match="voyage"):
        call(providers.disable_provider, WhichProvider("voyag"))


def test_a_provider_that_would_stop_the_gateway_is_not_stored(call: Governing) -> None:
    with pytest.raises(InvalidInput, match=r"could not go on with that: providers.broken: base_url is missing"):
        put(call, "broken", is_enabled=True)
    assert stored(call) == []
    put(call, "broken", is_enabled=False)
    with pytest.raises(InvalidInput):
        call(providers.enable_provider, WhichProvider("broken"))
    assert show(call, "broken").is_enabled is False
    with pytest.raises(InvalidInput, match="no provider would be on"):
        call(providers.disable_provider, WhichProvider("fake"))


def test_a_gateway_that_is_stopped_already_can_be_repaired_step_by_step(call: Governing, folder: Folder) -> None:
    put(call, "openai", key=KEY)
    (folder.data_dir / "secrets.key").unlink()
    (shown,) = stored(call)
    assert (shown.name, shown.is_on) == ("openai", None)
    assert "there is no master key" in str(shown.how_to_switch_on)
    assert put(call, "mine", base_url=PUBLIC).is_on is None
    call(providers.delete_provider, WhichProvider("mine"))
    assert call(providers.remove_key, WhichProvider("openai")).is_on is False
    folder.is_fake_on = False
    call(providers.delete_provider, WhichProvider("openai"))
    assert put(call, "openai", key=KEY).is_on


def test_a_key_is_bound_to_its_provider(call: Governing) -> None:
    put(call, "openai", key=KEY)
    put(call, "elsewhere", base_url=ELSEWHERE)
    with call.database.write() as connection:
        connection.exec_driver_sql(
            "UPDATE providers SET sealed_key = (SELECT sealed_key FROM providers WHERE name = 'openai')"
        )
    with pytest.raises(ConfigError, match="provider elsewhere cannot be opened"):
        keys(call)


def test_a_lost_master_key_is_said_and_never_replaced_by_a_new_one(call: Governing, tmp_path: Path) -> None:
    for name in ("openai", "voyage"):
        put(call, name, key=KEY)
    file, before = tmp_path / "secrets.key", (tmp_path / "secrets.key").read_text()
    file.unlink()
    with pytest.raises(ConfigError, match=r"no master key .*secrets\.key"):
        keys(call)
    with pytest.raises(ConfigError, match="no master key"):
        put(call, "openai", key=KEY)
    assert not file.exists()
    put(call, "openai", is_enabled=True)  # needs none
    file.write_text(before)
    assert keys(call) == {"openai": KEY, "voyage": KEY}
    file.unlink()
    call(providers.remove_key, WhichProvider("openai"))
    put(call, "voyage", key=KEY)  # nothing else is sealed, so a new master key may be made
    assert keys(call) == {"voyage": KEY}
    assert file.read_text() != before


def test_another_master_key_opens_nothing_and_seals_nothing(call: Governing, tmp_path: Path) -> None:
    put(call, "openai", key=KEY)
    other = Sealer(tmp_path, MASTER_KEY)
    with pytest.raises(ConfigError, match="the master key that was set is not the one") as caught:
        keys(call, other)
    with pytest.raises(ConfigError, match="is not the one"):
        put(replace(call, resources=replace(call.resources, sealer=other)), "voyage", key=KEY)
    assert MASTER_KEY not in str(caught.value)
    assert KEY not in str(caught.value)
    assert [each.name for each in stored(call)] == ["openai"]


def test_a_master_key_that_is_set_needs_no_file(call: Governing, folder: Folder, tmp_path: Path) -> None:
    folder.secrets["MASTER"] = MASTER_KEY
    with_master_key = replace(call, resources=replace(call.resources, sealer=Sealer(tmp_path, MASTER_KEY)))
    put(with_master_key, "openai", key=KEY)
    assert keys(with_master_key) == {"openai": KEY}
    assert not (tmp_path / "secrets.key").exists()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"provider": ""}, "name"),
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
def test_unfit_fields_are_refused_by_name(call: Governing, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        call(providers.set_provider, ProviderToSet(**{"provider": "openai"} | fields))
    assert caught.value.param == param
    assert param != "key" or fields["key"] not in caught.value.message


def test_a_trial_tells_what_went_wrong_and_only_the_gateways_own_fault_is_raised(call: Governing) -> None:
    outcomes: list[EmbedResult | Exception] = [UpstreamFailed("no such key"), InternalError("the disk is full")]

    def attempt(name: str, model: str | None) -> EmbedResult:
        assert (name, model) == ("fake", "some/model")
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    gateway = replace(call.resources.gateway, try_provider=attempt)
    trying = replace(call, resources=replace(call.resources, gateway=gateway))
    failed = trying(providers.try_provider, TrialOf("fake", "some/model"))
    assert (failed.ok, failed.error, failed.code) == (False, "no such key", "upstream_error")
    with pytest.raises(InternalError):
        trying(providers.try_provider, TrialOf("fake", "some/model"))
    with pytest.raises(UnknownProvider):
        trying(providers.try_provider, TrialOf("nowhere"))


def test_a_leaked_database_file_holds_no_secret(call: Governing, database: Database, tmp_path: Path) -> None:
    call(users.create_user, users.NewUser("ann"))
    password = "a long pass phrase"
    made = call(keys_of_callers.create_key, keys_of_callers.KeyToMake("ann", "k"))
    rotated = call(keys_of_callers.rotate_key, keys_of_callers.Rotation(made.key.id, overlap_s=60))
    first, second = made.secret, rotated.secret
    call(keys_of_callers.import_key, keys_of_callers.KeyToImport("ann", "old", "ziri-ann-0123456789abcdef"))
    call(users.set_password, users.NewPassword("ann", password))
    tokens = call(log_in, Login("ann", password))
    renewed = call(refresh, Refresh(tokens.refresh_token))
    call(providers.set_provider, ProviderToSet("openai", key=KEY))
    master_key = (tmp_path / "secrets.key").read_text().strip()
    secrets = [first, second, "ziri-ann-0123456789abcdef", password, KEY, master_key]
    secrets += [tokens.access_token, tokens.refresh_token, renewed.access_token, renewed.refresh_token]
    raw_forms = [secret.encode() for secret in secrets] + [bytes.fromhex(master_key)]
    prefixed = (first, second, tokens.access_token, renewed.refresh_token)
    raw_forms += [secret.partition("_")[2].encode() for secret in prefixed]

    def written() -> bytes:
        return b"".join(file.read_bytes() for file in tmp_path.glob("embedgate.db*"))

    with_log = written()
    database.close()
    for raw in (with_log, written()):
        assert b"openai" in raw
        assert [form for form in raw_forms if form in raw] == []
