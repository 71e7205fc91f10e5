"""Providers: keys that never come out, addresses that are where they should be, and a gateway that still starts."""

from dataclasses import fields
from typing import Protocol

import pytest

from embedgate.administration import Administration, Stores
from embedgate.administration.addresses import check_base_url
from embedgate.core.access import ProviderRecord
from embedgate.core.errors import InvalidInput, UnknownEntity, UnknownProvider

KEY = "sk-0123456789-of-the-vendor"
PUBLIC = "https://1.1.1.1/v1"


class Faults(Protocol):
    """What keeps the gateway of this folder from starting."""

    always: tuple[str, ...]


@pytest.mark.parametrize(
    "address", ["https://1.1.1.1", "https://1.1.1.1:8443/v1/", "https://[2606:4700::1111]/v1", "HTTPS://8.8.8.8/"]
)
def test_addresses_on_the_internet_are_taken_over_https(address: str) -> None:
    check_base_url(address)
    check_base_url(address, allow_private=True)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.8.8.8", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
        "224.0.0.1", "255.255.255.255", "[::1]", "[::]", "[fe80::1]", "[fc00::1]", "[ff02::1]", "[::ffff:127.0.0.1]",
        "[::ffff:10.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "2130706433", "0x7f.1", "127.1",
    ],
)  # fmt: skip
def test_addresses_of_this_network_are_taken_only_where_that_is_said(host: str) -> None:
    for scheme in ("http", "https"):
        with pytest.raises(InvalidInput, match="allow_private") as raised:
            check_base_url(f"{scheme}://{host}:8080/v1")
        assert raised.value.param == "base_url"
        check_base_url(f"{scheme}://{host}:8080/v1", allow_private=True)


@pytest.mark.parametrize("host", ["1.1.1.1", "[2606:4700::1111]", "[::ffff:8.8.8.8]"])
def test_nothing_goes_over_the_internet_unencrypted(host: str) -> None:
    for allow_private in (False, True):
        with pytest.raises(InvalidInput, match="https"):
            check_base_url(f"http://{host}/v1", allow_private=allow_private)


@pytest.mark.parametrize(
    "address",
    [
        "", "1.1.1.1", "//1.1.1.1", "ftp://1.1.1.1", "file:///etc/passwd", "https://", "https:///v1", "https://:443",
        "https://1.1.1.1:0", "https://1.1.1.1:99999", "https://1.1.1.1:x", "https://[1.1.1.1", "https://1.1.1.1/a b",
        "https://1.1.1.1/\n", "https://1.1.1.1?", "https://1.1.1.1/v1?key=1", "https://1.1.1.1/#x",
        "https://ann@1.1.1.1", "https://:pass@1.1.1.1", "https://ann:secretword@1.1.1.1", "https://@1.1.1.1",
        "https://example.org\\@127.0.0.1",
    ],
)  # fmt: skip
def test_what_is_no_plain_address_is_refused(address: str) -> None:
    for allow_private in (False, True):
        with pytest.raises(InvalidInput) as raised:
            check_base_url(address, allow_private=allow_private)
        assert "secretword" not in raised.value.message


def test_a_provider_is_stored_without_its_key_ever_coming_back(administration: Administration, stores: Stores) -> None:
    stored = administration.providers.put("mine", base_url=PUBLIC, max_parallel=3, key=KEY)
    assert (stored.base_url, stored.max_parallel, stored.key_hint) == (PUBLIC, 3, KEY[-4:])
    assert administration.providers.get("mine") == stored
    assert administration.providers.list() == (stored,)
    assert KEY not in repr([getattr(stored, field.name) for field in fields(ProviderRecord)])
    assert stores.providers.provider_key("mine") == KEY
    assert administration.providers.remove_key("mine").key_hint == ""
    assert administration.providers.delete("mine").base_url == PUBLIC
    with pytest.raises(UnknownEntity):
        administration.providers.get("mine")


def test_an_address_that_is_refused_is_not_stored(administration: Administration) -> None:
    with pytest.raises(InvalidInput, match="allow_private"):
        administration.providers.put("mine", base_url="http://127.0.0.1:8000")
    assert administration.providers.list() == ()
    administration.providers.put("mine", base_url="http://127.0.0.1:8000", allow_private=True)
    assert len(administration.providers.list()) == 1


def test_a_stored_key_is_not_sent_to_another_address(administration: Administration, stores: Stores) -> None:
    for key in (KEY, "short"):
        administration.providers.put("mine", base_url=PUBLIC, key=key)
        with pytest.raises(InvalidInput, match="another address") as raised:
            administration.providers.put("mine", base_url="https://8.8.8.8")
        assert raised.value.param == "key"
        with pytest.raises(InvalidInput):
            administration.providers.put("mine", base_url=PUBLIC, host="openai")
        administration.providers.put("mine", base_url=PUBLIC, max_parallel=2)
        assert stores.providers.provider_key("mine") == key
    administration.providers.put("mine", base_url="https://8.8.8.8", key=KEY)
    administration.providers.remove_key("mine")
    administration.providers.put("mine", base_url=PUBLIC)


def test_switching_a_provider_leaves_the_rest_of_it(administration: Administration, stores: Stores) -> None:
    administration.providers.put("mine", base_url=PUBLIC, max_parallel=3, batching=True, host="openai", key=KEY)
    off = administration.providers.disable("mine")
    assert (off.is_enabled, off.base_url, off.max_parallel, off.batching, off.host) == (
        False, PUBLIC, 3, True, "openai"
    )  # fmt: skip
    assert administration.providers.enable("mine").is_enabled
    assert stores.providers.provider_key("mine") == KEY


def test_a_provider_of_the_catalogue_can_be_switched_and_a_mistyped_one_not(administration: Administration) -> None:
    assert administration.providers.disable("voyage") == administration.providers.get("voyage")
    with pytest.raises(UnknownProvider, match="voyage"):
        administration.providers.disable("voyag")


def test_a_provider_that_would_stop_the_gateway_is_not_stored(administration: Administration) -> None:
    with pytest.raises(InvalidInput, match="providers.broken has no base_url"):
        administration.providers.put("broken", is_enabled=True)
    assert administration.providers.list() == ()
    administration.providers.put("broken", is_enabled=False)
    with pytest.raises(InvalidInput):
        administration.providers.enable("broken")
    assert administration.providers.get("broken").is_enabled is False


def test_a_gateway_that_is_stopped_already_can_be_repaired_step_by_step(
    administration: Administration, faults: Faults
) -> None:
    administration.providers.put("mine", base_url=PUBLIC)
    faults.always = ("the master key is lost",)
    administration.providers.disable("mine")
    administration.providers.delete("mine")
