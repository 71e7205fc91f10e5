"""A fingerprint changes with everything that changes a vector, and with nothing else."""

from hypothesis import given
from hypothesis import strategies as st

from embedgate.core.fingerprint import DIGEST_BYTES, fingerprint

texts = st.text(max_size=20)


@given(st.lists(texts, max_size=3), st.lists(texts, max_size=3), texts, texts)
def test_equal_exactly_when_parts_and_text_are_equal(a: list[str], b: list[str], x: str, y: str) -> None:
    same = fingerprint(tuple(a), x) == fingerprint(tuple(b), y)
    assert same == ((a, x) == (b, y))


def test_case_spaces_and_token_ids_matter() -> None:
    digests = {fingerprint(("s",), item) for item in ("Apple", "apple", " apple", "apple ", (1, 2), (12,), "\x01\x02")}
    assert len(digests) == 7
    assert {len(digest) for digest in digests} == {DIGEST_BYTES}
