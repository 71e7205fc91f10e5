"""Markdown as plain text."""

import pytest

from embedgate.toolkit.plain_text import of_markdown


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (
            "## Budgets\n\nA *budget* is for a [day](x.md) or `total`.\nNext.",
            "Budgets: A budget is for a day or total. Next.",
        ),
        ("- one\n- two\n\n> said\n\n1. first", "one two said first"),
        ("| a | b |\n|---|---|\n| `c` | d |", "a b c d"),
        ("| c | d |\n| e | f |", "c d e f"),
        ("```sh\nembedgate embed\n```\n\nthen", "embedgate embed then"),
        ("embedgate embed\n```\n\n![a picture](x.png) <b>bold</b> &amp; more", "embedgate embed "),
        ("a_b_c and 2 * 3 * 4", "a_b_c and 2 * 3 * 4"),
        ("", ""),
    ],
)
def test_marks_go_and_words_stay(text: str, plain: str) -> None:
    assert of_markdown(text).startswith(plain)
    assert not {"#", "**", "](", "```", "<b>"} & set(of_markdown(text).split())
