"""The client address of a request, in every spelling that proxies have for it."""

import pytest

from embedgate.server.address import UNKNOWN, CallerAddress
from embedgate.server.respond import Request, headers_of_request

PROXY = "10.0.0.1"
ADDRESS = CallerAddress(["10.0.0.0/8", "fd00::/8"])


def address(*lines: tuple[bytes, bytes], peer: str = PROXY) -> str:
    """What is found for a request with these header lines."""
    headers = headers_of_request([(b"host", b"x"), *lines])
    return ADDRESS.of(Request("req_1", "GET", "/", b"", headers, None, peer))  # type: ignore[arg-type]  # no body


def forwarded_for(*values: str) -> str:
    return address(*((b"x-forwarded-for", value.encode("latin-1")) for value in values))


def forwarded(*values: str) -> str:
    return address(*((b"forwarded", value.encode("latin-1")) for value in values))


@pytest.mark.parametrize(
    ("spelling", "client"),
    [
        ("198.51.100.9", "198.51.100.9"),
        ("198.51.100.9:51234", "198.51.100.9"),
        (" 198.51.100.9:51234 ", "198.51.100.9"),
        ("[2001:db8::9]:51234", "2001:db8::9"),
        ("[2001:db8::9]", "2001:db8::9"),
        ("2001:DB8:0::9", "2001:db8::9"),
        ("2001:db8::9%eth0", "2001:db8::9"),
        ('"[2001:db8::9]:51234"', "2001:db8::9"),
        ("::ffff:198.51.100.9", "198.51.100.9"),
        ("[::ffff:198.51.100.9]:80", "198.51.100.9"),
        ("::ffff:10.0.0.9, 10.0.0.2", "10.0.0.9"),  # all are ours: the leftmost
        ("198.51.100.9, 10.0.0.2:443, [fd00::1]:443", "198.51.100.9"),
        ("10.0.0.7, 198.51.100.9, 10.0.0.2", "198.51.100.9"),  # what the client claims does not count
        ("10.0.0.7", "10.0.0.7"),
        ("10.0.0.7, 10.0.0.8", "10.0.0.7"),
        ("unknown", UNKNOWN),
        ("10.0.0.7, unknown", UNKNOWN),
        ("unknown, 198.51.100.9", "198.51.100.9"),
        ("_hidden", UNKNOWN),
        ("", UNKNOWN),
        ("198.51.100.9,", UNKNOWN),
        ("10.0.0.7,,10.0.0.8", UNKNOWN),
        ("198.51.100.9:port", UNKNOWN),
        ("198.51.100.9:", UNKNOWN),
        ("198.51.100.256", UNKNOWN),
        ("010.0.0.1", UNKNOWN),
        ("0x7f.1", UNKNOWN),
        ("[198.51.100.9", UNKNOWN),
        ("example.com", UNKNOWN),
        ("10.0.0.7;198.51.100.9", UNKNOWN),
        ("10.0.0.7 198.51.100.9", UNKNOWN),
        ("\u00e910.0.0.7", UNKNOWN),
    ],
)
def test_every_spelling_in_x_forwarded_for_is_read_or_is_no_address(spelling: str, client: str) -> None:
    assert forwarded_for(spelling) == client


@pytest.mark.parametrize(
    ("spelling", "client"),
    [
        ("for=198.51.100.9", "198.51.100.9"),
        ("For=198.51.100.9;proto=https;by=203.0.113.43", "198.51.100.9"),
        ('for="198.51.100.9:51234"', "198.51.100.9"),
        ('proto=https; for="[2001:db8::9]:4711"', "2001:db8::9"),
        ('for="[2001:db8::9]", for=10.0.0.2', "2001:db8::9"),
        ('for="198.51.100.9:_obf-1.x";by="_y:_z"', "198.51.100.9"),
        ('for="[2001:db8::9]:_obf"', "2001:db8::9"),
        ('for="[2001:db8::9%25eth0]:80"', "2001:db8::9"),
        ('FOR="\\[::ffff:198.51.100.9\\]" ; proto=http ,for=10.0.0.2', "198.51.100.9"),
        ('for="198.51.100.9:"', UNKNOWN),
        ('for="198.51.100.9:_"', UNKNOWN),
        ('for="_hidden:_obf"', UNKNOWN),
        ('for="unknown:80"', UNKNOWN),
        ("for=198.51.100.9;for=198.51.100.9", UNKNOWN),
        ('for="\\1\\98.51.100.9"', "198.51.100.9"),
        ("for=10.0.0.7, for=198.51.100.9;by=10.0.0.2", "198.51.100.9"),
        ('host="a,b;for=10.0.0.7";for=198.51.100.9', "198.51.100.9"),
        ("for=10.0.0.7,for=10.0.0.8", "10.0.0.7"),
        ("for=unknown", UNKNOWN),
        ("for=_SEVKISEK", UNKNOWN),
        ('for="_gazonk"', UNKNOWN),
        ("for=10.0.0.7, by=10.0.0.2", UNKNOWN),
        ("for=198.51.100.9;for=10.0.0.7", UNKNOWN),
        ("for=", UNKNOWN),
        ("", UNKNOWN),
        ('for="198.51.100.9', UNKNOWN),
        ("for=[2001:db8::9]", "2001:db8::9"),  # brackets need quotes, which some leave out
        ("for=2001:db8::9", "2001:db8::9"),
        ("rubbish, for=198.51.100.9", "198.51.100.9"),
        ("for=10.0.0.7, rubbish", UNKNOWN),
        ('for="10.0.0.7, for=198.51.100.9', "198.51.100.9"),  # an open quote hides nothing that a proxy added
    ],
)
def test_every_spelling_in_forwarded_is_read_or_is_no_address(spelling: str, client: str) -> None:
    assert forwarded(spelling) == client


def test_lines_of_a_list_are_joined_in_their_order() -> None:
    assert forwarded_for("10.0.0.7", "198.51.100.9", "10.0.0.2") == "198.51.100.9"
    assert forwarded_for("198.51.100.9", "10.0.0.7") == "198.51.100.9"
    assert forwarded("for=10.0.0.7", "for=198.51.100.9") == "198.51.100.9"


def test_two_headers_that_contradict_each_other_give_no_address() -> None:
    same = (b"x-forwarded-for", b"198.51.100.9"), (b"forwarded", b"for=198.51.100.9")
    other = (b"x-forwarded-for", b"198.51.100.9"), (b"forwarded", b"for=10.0.0.7")
    assert (address(*same), address(*other)) == ("198.51.100.9", UNKNOWN)


def test_only_a_trusted_proxy_is_believed() -> None:
    line = (b"x-forwarded-for", b"198.51.100.9")
    assert address(line, peer="203.0.113.1") == "203.0.113.1"
    assert address(line, peer="::ffff:10.0.0.1") == "198.51.100.9"
    assert address(line, peer="") == ""
    assert address(peer=PROXY) == PROXY  # the proxy itself
    assert CallerAddress([]).of(Request("req_1", "GET", "/", b"", dict([line]), None, PROXY)) == PROXY  # type: ignore[arg-type]  # no body


def test_other_headers_that_come_twice_keep_their_last_line() -> None:
    found = headers_of_request([(b"x-api-key", b"a"), (b"x-forwarded-for", b"1"), (b"x-api-key", b"b")])
    assert found == {b"x-api-key": b"b", b"x-forwarded-for": b"1"}
