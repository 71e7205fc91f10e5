"""Which addresses are on the internet, in every form that IPv6 has for one of IPv4."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedgate.core.addresses import is_public

PRIVATE = ["127.0.0.1", "10.0.0.1", "172.16.5.4", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"]


def forms(v4: str) -> list[str]:
    """Spellings of an IPv4 address within IPv6."""
    number = int(ipaddress.IPv4Address(v4))
    high, low = number >> 16, number & 0xFFFF
    inverted = number ^ 0xFFFFFFFF
    return [
        f"::ffff:{high:x}:{low:x}",  # mapped
        f"::{high:x}:{low:x}",  # compatible
        f"::ffff:0:{high:x}:{low:x}",  # translated
        f"64:ff9b::{high:x}:{low:x}",  # NAT64
        f"64:ff9b:1::{high:x}:{low:x}",  # NAT64 of a network of one's own
        f"2002:{high:x}:{low:x}::1",  # 6to4
        f"2001:0:{high:x}:{low:x}::1",  # Teredo: the server
        f"2001:0:808:808:0:0:{inverted >> 16:x}:{inverted & 0xFFFF:x}",  # Teredo: the client
        f"2a00:1450:4001:80b:0:5efe:{high:x}:{low:x}",  # ISATAP
        f"2a00:1450:4001:80b:200:5efe:{high:x}:{low:x}",
    ]


@pytest.mark.parametrize("v4", PRIVATE)
def test_a_private_address_is_private_in_every_form(v4: str) -> None:
    assert not is_public(ipaddress.ip_address(v4))
    for form in forms(v4):
        assert not is_public(ipaddress.ip_address(form)), form


@pytest.mark.parametrize(
    "address",
    ["fec0::1", "fe80::1%eth0", "fc00::1", "::", "::1", "ff02::1", "100::1", "2001:db8::1", "3fff::1", "5f00::1",
     "192.88.99.1", "192.0.0.8", "192.0.0.192", "168.63.129.16", "198.18.0.1", "240.0.0.1", "2a00::1%eth0"],
)  # fmt: skip
def test_what_is_of_no_use_on_the_internet_is_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "2606:4700::1111", "2a00:1450:4001:80b::200e", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1",
     "2a00:1450:4001:80b:0:5efe:808:808"],
)  # fmt: skip
def test_addresses_on_the_internet_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@given(st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address))
def test_no_form_is_more_public_than_the_address_itself(v4: ipaddress.IPv4Address) -> None:
    if not is_public(v4):
        assert not any(is_public(ipaddress.ip_address(form)) for form in forms(str(v4)))
