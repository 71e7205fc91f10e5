"""The form of keys."""

import hashlib

import pytest

from embedgate.core.keys import digest, is_well_formed, new_secret


def test_new_keys_are_well_formed_and_differ() -> None:
    secrets = {new_secret("eg") for _ in range(100)}
    assert len(secrets) == 100
    assert all(is_well_formed(secret, "eg") and len(secret) == 35 for secret in secrets)
    assert not any(is_well_formed(secret, "ziri") for secret in secrets)


@pytest.mark.parametrize(
    ("secret", "is_right"),
    [
        ("eg_0123456789ab4def8123456789abcdef", True),
        ("eg_0123456789ab1def8123456789abcdef", False),  # a UUID of another version
        ("eg_0123456789ab4def7123456789abcdef", False),  # of another variant
        ("eg_0123456789AB4DEF8123456789ABCDEF", False),
        ("eg_0123456789ab4def8123456789abcdef0", False),
        ("eg_0123456789ab4def8123456789abcdef\n", False),
        ("eg_", False),
        ("", False),
        ("ziri-user-123-0123456789abcdef", True),
        ("ziri-user-123-xyz", False),
        ("ziri--0123456789abcdef", False),
    ],
)
def test_only_our_form_and_the_older_one_are_well_formed(secret: str, is_right: bool) -> None:
    assert is_well_formed(secret, "eg") is is_right


def test_digest_is_sha_256_of_the_whole_key() -> None:
    assert digest("eg_x") == hashlib.sha256(b"eg_x").digest()
    assert len(digest("\udcff")) == 32  # what a shell may pass on
