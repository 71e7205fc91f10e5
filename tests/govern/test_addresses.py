"""Addresses of providers: on the internet over https, or of this network where that is said."""

import pytest

from embedgate.core.errors import InvalidInput
from embedgate.govern.addresses import check_base_url


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
        "[fec0::1]", "[::7f00:1]", "[::ffff:0:7f00:1]", "[64:ff9b:1::7f00:1]", "[2a00:1450::5efe:7f00:1]", "0177.0.0.1",
        "[2001:0:808:808::f5ff:fffe]", "192.88.99.1",
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
        "https://example.org\\@127.0.0.1", "https://%31%32%37.0.0.1", "https://%6cocalhost",
    ],
)  # fmt: skip
def test_what_is_no_plain_address_is_refused(address: str) -> None:
    for allow_private in (False, True):
        with pytest.raises(InvalidInput) as raised:
            check_base_url(address, allow_private=allow_private)
        assert "secretword" not in raised.value.message
