"""The language of metadata filters: what it means, and what is refused with which words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedgate.core.errors import InvalidInput
from embedgate.toolkit.collections.filters import matches, parse
from embedgate.toolkit.records import Scalar

DATA: dict[str, Scalar] = {
    "lang": "en",
    "year": 2021,
    "price": 9.5,
    "is_new": True,
    "code": "007",
    "count": "12",
    "note": None,
    "file.name": "a b.md",
    "two words": "it's",
}


@pytest.mark.parametrize(
    "where",
    [
        "lang = 'en'",
        'lang = "en"',
        "lang != 'de' and lang != 'fr'",
        "year >= 2021 and year <= 2021 and year > 2020.5 and year < 2.1e4",
        "price = 9.5",
        "is_new = true",
        "is_new = 'true'",
        "not is_new = false",
        "note = null and missing = null and lang != null",
        "count = 12 and count = '12'",
        "code = '007' and code = 007 and code != 7",
        "year = '2021'",
        "lang in ('de', 'en')",
        "LANG = null",
        "lang not in ('de')",
        "lang = 'de' or year = 2021 and price < 10",
        "not (lang = 'de' or year = 2020)",
        "NOT lang = 'de' AND year IN (1, 2021)",
        "file.name = 'a b.md'",
        "`two words` = 'it''s'",
        "missing != 3",
        "lang>'d'and lang<'f'",
        "is_new != 1",
        "((((lang='en'))))",
        "not not lang='en'",
        "price > -1 and price > +1",
    ],
)
def test_a_filter_that_fits_matches_and_its_negation_does_not(where: str) -> None:
    assert matches(parse(where), DATA)
    assert not matches(parse(f"not ({where})"), DATA)


@pytest.mark.parametrize(
    "where",
    ["year > 'a'", "lang > 3", "missing > 3", "missing < 3", "note = 'x'", "is_new = 1", "year = true", "lang = 'EN'"],
)
def test_values_of_another_type_and_missing_fields_are_not_equal_and_have_no_order(where: str) -> None:
    assert not matches(parse(where), DATA)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("", "the name of a field was expected, not the end"),
        ("lang", "in, or not in was expected, not the end"),
        ("lang == 'en'", "was expected, not '=' at character 7"),
        ("lang = en", "true, false or null was expected, not 'en' at character 8"),
        ("lang = 'en", "cannot be read from character 8 on"),
        ("lang = 'en' year = 3", "and, or, or the end was expected, not 'year' at character 13"),
        ("(lang = 'en'", "and, or, or ) was expected, not the end"),
        ("lang in 'en'", "( and the values was expected"),
        ("lang in ()", "null was expected, not ')' at character 10"),
        ("lang in ('en' 'de')", ", or ) was expected"),
        ("lang not 'en'", "in was expected"),
        ("not", "the name of a field was expected, not the end"),
        ("'en' = lang", "the name of a field was expected"),
        ("a > true", "> compares numbers and texts, not true"),
        ("a < null", "< compares numbers and texts, not null"),
        ("a = 99999999999999999999", "too large"),
        ("a = 1e999", "too large"),
        ('`a"b` = 1', "no filter is possible"),
        ("a = 1; drop table x", "cannot be read from character 6 on: '; drop table x'"),
        ("(" * 60 + "a = 1" + ")" * 60, "more than 50 brackets"),
        ("not " * 5_000 + "a = 1", "more than 50 brackets"),
        (" or ".join(["a = 1"] * 300), "more than 200 comparisons"),
        ("a in (" + "1, " * 300 + "1)", "more than 200 comparisons"),
    ],
)
def test_what_is_no_filter_is_refused_and_its_place_told(where: str, said: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse(where)
    assert said in str(refused.value)


@given(st.text(max_size=40) | st.lists(st.sampled_from(["a", "'b'", "1", "(", ")", "and", "not", "in", ",", "<="])))
def test_any_text_is_a_filter_or_refused(where: str | list[str]) -> None:
    try:
        found = parse(where if isinstance(where, str) else " ".join(where))
    except InvalidInput:
        return
    assert matches(found, DATA) in (True, False)
