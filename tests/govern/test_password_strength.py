"""New passwords that are too easily guessed, by kind, and those that are not."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedgate.govern.password_strength import find_weakness

ABOUT = ("alice.meyer", "alice@research.example.org")


@pytest.mark.parametrize(
    "password",
    [
        " " * 12, "x" * 12, "x" * 1_000, "abababababab", "aabbaabbaabbaabb", "            a", "1111111111111",
        "\u3042" * 12, ". . . . . . . .",
        "passwordpassword", "secret7secret7secret7", "abc123abc123abc1", "zo\u00eb1 zo\u00eb1 zo\u00eb1 zo\u00eb1",
        "123456789012", "abcdefghijklmnop", "zyxwvutsrqponm", "qwertyuiopasdf", "1qaz2wsx3edc4rfv", "QWERTYUIOP[]",
        "0987654321098", "asdfghjkl;'", "poiuytrewq123",
        "password1234", "Password2024!", "P@ssw0rd2026!!", "!!!Welcome1!!!", "adminadmin2025", "letmein-letmein-1",
        "ChangeMe!2026", "summer2026summer", "iloveyou123456", "TestTestTest99", "WillkommenHallo1", "monkey dragon 1",
        "Embedgate2026!", "embedgate-gateway", "gatewayadmin00", "m4st3r-p4ssw0rd",
        "alicemeyer1990", "alice.meyer.2026", "research-alice-1", "Alice Meyer Alice", "example.org1234",
    ],
)  # fmt: skip
def test_what_is_easily_guessed_is_refused_and_not_repeated(password: str) -> None:
    reason = find_weakness(password, ABOUT)
    assert reason is not None
    assert len(password.strip()) < 8 or password.strip() not in reason


@pytest.mark.parametrize(
    "password",
    [
        "correct horse battery", "a long and unlikely phrase", "another password", "a third password", "wrong password",
        "another long phrase", "zo\u00eb likes fresh bread", "j7#kQ9!vRz2m", "tiger coffee thunder november",
        "the password of bob is long", "Kx9$mNp2vQ8w", "vier W\u00f6rter reichen aus",
        "\u5bc6\u7801\u662f\u4e00\u4e2a\u957f\u957f\u7684\u53e5\u5b50\u5427\u597d",
        "alice likes ponds", "q1w8e2r7t3y6",
    ],
)  # fmt: skip
def test_phrases_and_random_characters_are_taken(password: str) -> None:
    assert find_weakness(password, ABOUT) is None


@given(st.text(string.ascii_letters + string.digits, min_size=16, max_size=16), st.randoms())
def test_any_text_has_an_answer_that_does_not_depend_on_case(text: str, _: object) -> None:
    assert (find_weakness(text) is None) == (find_weakness(text.swapcase()) is None)


@given(st.text(max_size=200))
def test_any_text_at_all_has_an_answer(text: str) -> None:
    assert find_weakness(text, (text, "")) is None or isinstance(find_weakness(text, (text, "")), str)
