"""Cleaning: what is repaired, what stays, and that cleaning twice is cleaning once."""

import string
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedgate.toolkit.cleaning import Cleaning, Form, clean, clean_records
from embedgate.toolkit.outline import Kind
from embedgate.toolkit.records import Origin, Record

NOTHING = Cleaning(mojibake=False, html=False, control=False, form="none", space=False)


@pytest.mark.parametrize(
    ("dirty", "tidy"),
    [
        ("CafÃ© â€“ naÃ¯ve", "Café – naïve"),
        ("say \x93hello\x94", "say “hello”"),
        ("5 &lt; 7 &amp;&amp; Tom&nbsp;&#38; Jerry", "5 < 7 && Tom & Jerry"),
        ("&amp;amp;amp; twice", "& twice"),
        ("<p>One</p><p>Two<br/>three</p>", "One\n\nTwo\nthree"),
        ("<script>alert('x')</script>Text<!-- no --> <b class='x'>bold</b>", "Text bold"),
        ("zero\u200bwidth \ufeffmark soft\u00adhyphen bell\x07", "zerowidth mark softhyphen bell"),
        ("e\u0301te\u0301", "été"),
        ("one\r\ntwo\rthree\u2028four", "one\ntwo\nthree\nfour"),
        ("a\u00a0b  c \t d   \n\n\n\n\n\ne", "a b c d\n\n\ne"),
    ],
)
def test_what_is_repaired(dirty: str, tidy: str) -> None:
    assert clean(dirty) == tidy


@pytest.mark.parametrize(
    "text",
    [
        "List<String> and a < b > c, vector<int>, <me@example.org>",
        "AT&T, R&D; Q&A, fish & chips, x&y;",
        "La température est de 20 °C — « déjà vu » … naïve",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian, with its non-joiner
        "\u0915\u094d\u200d\u0937 \U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f",
        "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f flag of Scotland",
        "日本語の　文章です。",
        "indented\n\tand with a tab\n\n\nthree\n",
        "Ａ full-width letter and a ligature ﬁ",
    ],
)
def test_what_need_not_be_changed_stays_the_same_object(text: str) -> None:
    assert clean(text) is text


def test_each_step_is_a_switch() -> None:
    dirty = "CafÃ© &amp; e\u0301 \u200b ﬁ  x"
    assert clean(dirty, NOTHING) is dirty
    assert clean(dirty, Cleaning(html=False)) == "Café &amp; é ﬁ x"
    assert clean(dirty, Cleaning(form="NFKC")) == "Café & é fi x"
    assert clean(dirty, Cleaning(form="none", control=False, space=False)) == "Café & e\u0301 \u200b ﬁ  x"


def test_markdown_and_code_keep_their_tags_entities_and_alignment() -> None:
    text = "| a   | b |\n\n`&lt;b&gt;` <br>  \nx  = 1\n"
    assert clean(text, kind="markdown") == text.replace("  \n", "\n")
    assert clean("x  = '<b>'", kind="code") == "x  = '<b>'"
    assert clean("x  = '<b>'", Cleaning(html=True), "code") == "x  = ''"


def test_the_report_counts_places_and_texts() -> None:
    texts = ["CafÃ© CafÃ©", "CafÃ© <b>x</b>", "plain"]
    records = [Record(str(n), text, Origin("a.txt", n + 1), n, {"n": n}) for n, text in enumerate(texts)]
    cleaned, report = clean_records(records)
    assert [record.text for record in cleaned] == ["Café Café", "Café x", "plain"]
    assert (cleaned[0].id, cleaned[0].metadata) == ("0", {"n": 0})
    assert (report.n_changed, report.times, report.texts) == (2, {"mojibake": 3, "html": 2}, {"mojibake": 2, "html": 1})
    assert report.examples["mojibake"].before == "CafÃ© CafÃ©"


_FRAGMENTS = st.sampled_from(
    [
        *("&amp;", "&lt;", "&gt;", "&", "b", "<br>", "<", ">", "p", "/", "nbsp;", "#13;", "#x200b;", "<!--", "-->"),
        *(
            "<script>",
            "</script>",
            "é",
            "Ã©",
            "e\u0301",
            "ﬁ",
            "𝐀",
            "â€™",
            "â\x80\x99",
            "\x93",
            "\x85",
            "\xa0",
            "\u2028",
        ),
        *("\u200d", "\u200c", "\ufeff", "\u00ad", "\U0001f3f4\U000e0067", " ", "  ", "\t", "\r", "\n", "a"),
    ]
)
_DIRTY = st.lists(st.one_of(_FRAGMENTS, st.text(max_size=3)), max_size=12).map("".join)
_FORMS: st.SearchStrategy[Form] = st.sampled_from(["NFC", "NFKC", "none"])
_KINDS: st.SearchStrategy[Kind] = st.sampled_from(["prose", "markdown", "code"])


@given(_DIRTY, _FORMS, _KINDS)
def test_cleaning_twice_is_cleaning_once(text: str, form: Form, kind: Kind) -> None:
    cleaned = clean(text, Cleaning(form=form), kind)
    assert clean(cleaned, Cleaning(form=form), kind) is cleaned
    if form != "none":
        assert unicodedata.is_normalized(form, cleaned)


_PLAIN = st.text(string.ascii_letters + string.digits + "'\"()[]{}.,:;!?-_=+*/#%@ ")


@given(_PLAIN.map(lambda text: " ".join(text.split())))
def test_plain_text_is_never_changed(text: str) -> None:
    assert clean(text) is text


@pytest.mark.parametrize(
    "part",
    [
        "<script>",
        "<!--",
        "<style ",
        "<b",
        "&amp;",
        "amp;",
        "&",
        " ",
        "\t",
        "\n",
        "\r",
        "\u200d",
        "Ã",
        "<b>",
        "e\u0301",
        ". ",
    ],
)
def test_long_rows_of_anything_are_cleaned_in_one_pass(part: str) -> None:
    """A pattern that tries each place again would take hours for these."""
    text = f"a{part * 10_000}b &amp;"
    assert clean(clean(text)) == clean(text)
    assert clean("&" + "amp;" * 10_000) == "&"
