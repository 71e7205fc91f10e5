"""What is found wrong with a policy's text, and where."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from embedgate.core.access import PolicyMistake
from embedgate.policy.check import find_mistakes
from embedgate.policy.syntax import MAX_CHARACTERS, MAX_NESTING, MAX_WORDS, policy_id

ID = '@id("p")\n'
SCOPE = "permit (principal, action, resource)\n"
HERE = "\N{PILCROW SIGN}"
"""Stands in a text where its mistake is."""


def sole_mistake(marked: str) -> PolicyMistake:
    """The one mistake of a text, after a look that it is where the mark is."""
    before, _, after = marked.partition(HERE)
    mistakes = find_mistakes(before + after, "p")
    assert len(mistakes) == 1, mistakes
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    assert (mistakes[0].line, mistakes[0].column) == (line, column), mistakes[0]
    return mistakes[0]


def when(condition: str) -> str:
    return f"{ID}{SCOPE}when {{\n  {condition}\n}};"


@pytest.mark.parametrize(
    "text",
    [
        ID + SCOPE + ";",
        f"// why\n{ID}@description(\"a 'quoted' word; // and more\")\n{SCOPE};",
        when('principal.user has tenant && principal.user.tenant == "a"'),
        when('context.estimated_cost.lessThan(decimal("0.5")) && context.dimensions == 256'),
        f'{ID}permit (principal == UserKey::"k", action == Action::"moderation", resource == Resource::"gpt-4o");',
        f"{ID}forbid (principal is UserKey, action, resource) unless {{ context.is_emergency }};",
    ],
)
def test_a_sound_policy_has_no_mistakes(text: str) -> None:
    assert find_mistakes(text, "p") == []
    assert find_mistakes(text) == []


@pytest.mark.parametrize(
    ("marked", "message"),
    [
        (ID + SCOPE + f"when {{ context.hour < 3 }}{HERE}", "a policy ends with `;`"),
        (ID + SCOPE + f"when {{ context.hour < (3{HERE}", "every bracket must be closed"),
        (ID + SCOPE + f"when {{ context.hour <{HERE}< 3 }};", "unexpected token `<`"),
        (ID + f"permit (principal, action, resource\n{HERE}when {{ true }};", "unexpected token `when`"),
        (when(f"principal.current_daily_spend < 100.{HERE}0"), "unexpected token `0`"),
        (f'@id({HERE}"p)\n{SCOPE};', "closing quote"),
        (when(f"context.hour > 3 {HERE}# at night"), "invalid token"),
        (ID + SCOPE + f"{HERE}whenever {{ true }};", "whenever"),
        (f"{ID}permit ({HERE}principle, action, resource);", "principle"),
        (f"{ID}{HERE}permit (principal, action);", "`resource`"),
        (when(f"context.hour > 3 && {HERE}night(context.hour)"), "`night`"),
        (when(f"context.hour.{HERE}isLate(3)"), "`isLate`"),
        (when(f"context.hour < {HERE}99999999999999999999"), "too large"),
        (f"{HERE}", "no policy"),
        (f"{HERE}// to do", "no policy"),
        (f"{ID}permit (principal == {HERE}?principal, action, resource) when {{ context.hour == 3 }};", "template"),
        (f"{ID}{SCOPE}when {{ true }};\n{HERE}{SCOPE};", "2 policies"),
    ],
)
def test_a_text_that_is_not_one_policy_is_told_where(marked: str, message: str) -> None:
    assert message in sole_mistake(marked).message


@pytest.mark.parametrize(
    ("marked", "message"),
    [
        (when(f"context.{HERE}hou < 3"), "context has day_of_week, dimensions"),
        (when(f"context.hour < 3 || (context.{HERE}hou < 3 && context.hour > 1)"), "`hou`"),
        (when(f'principal.user.{HERE}name == "ann"'), "User has email, is_agent"),
        (when(f'principal.{HERE}spend.lessThan(decimal("1.0"))'), "UserKey has current_daily_spend"),
        (when(f'resource.{HERE}name == "gpt-4o"'), "Resource has no attributes"),
        (when(f'principal.user.{HERE}tenant == "a"'), "ask `has tenant &&` first"),
        (when(f'{HERE}context.hour == "3"'), "Long and String"),
        (when(f'context.hour == 3 && !({HERE}context.hour < "3")'), "expected Long but saw String"),
        (when(f"{HERE}principal.current_daily_spend < 100"), "lessThan(decimal("),
        (when(f"if context.hour > 3 then true else {HERE}context.space > 2"), "expected Long but saw String"),
        (when(f'[context.hour, 4].contains({HERE}context.hour + "s")'), "expected Long but saw String"),
        (when(f'{{a: 1, b: {HERE}context.hour + "s"}} == {{a: 1, b: 2}}'), "expected Long but saw String"),
        (when(f'context.hour > -1 && context.hour < {HERE}-"x"'), "expected Long but saw String"),
        (when(f'context.ip_address.isInRange(ip({HERE}"10.0.0/8"))'), "IP address"),
        (when(f'principal.current_daily_spend.lessThan(decimal({HERE}"0.12345"))'), "decimal"),
        (when(f'principal.user in {HERE}Rle::"admin"'), "there are Resource, Role, User, UserKey"),
        (f'{ID}permit (principal == {HERE}Usr::"ann", action, resource);', "there are Resource, Role, User, UserKey"),
        (f'{ID}permit (principal, action == {HERE}Action::"embed", resource);', "there are completion, embedding"),
        (
            f'{ID}permit (principal, action in [Action::"embedding", {HERE}Action::"embed"], resource);',
            "there are completion, embedding",
        ),
        (f'{ID}{HERE}permit (principal in Role::"admin", action, resource);', "the principal is a UserKey"),
    ],
)
def test_what_the_schema_does_not_know_is_told_where(marked: str, message: str) -> None:
    assert message in sole_mistake(marked).message


def test_a_question_that_is_guarded_elsewhere_is_not_blamed() -> None:
    guarded = 'principal.user has tenant && principal.user.tenant == "a"'
    sole_mistake(when(f'({guarded}) || principal.user.{HERE}tenant == "b"'))


def test_an_unless_knows_what_its_when_has_made_sure() -> None:
    text = f"{ID}{SCOPE}when {{ principal.user has tenant }}\nunless {{ principal.user.tenant == HERE }};"
    assert find_mistakes(text.replace("HERE", '"a"'), "p") == []
    sole_mistake(text.replace("principal.user.tenant == HERE", f"{HERE}principal.user.tenant == 3"))


def test_all_mistakes_are_told_in_the_order_of_the_text() -> None:
    text = f'@id("q")\n{SCOPE}when {{ context.first == 1 }}\nunless {{ context.second == 2 }};'
    assert [(mistake.line, mistake.column) for mistake in find_mistakes(text, "p")] == [(1, 5), (3, 16), (4, 18)]


def test_columns_count_characters_and_not_bytes() -> None:
    sole_mistake(when(f'context.space == "日本語 é 🦊" && context.{HERE}hou == 3'))


@pytest.mark.parametrize(
    ("marked", "message"),
    [
        (f"{HERE}{SCOPE};", 'begin it with @id("p")'),
        (f'{HERE}@description("@id")\n{SCOPE};', 'begin it with @id("p")'),
        (f"@{HERE}id\n{SCOPE};", 'begin it with @id("p")'),
        (f'@id({HERE}"q")\n{SCOPE};', 'saved as "p"'),
        (f'@note("x") @id({HERE}"")\n{SCOPE};', "0 characters"),
        (f'@id({HERE}"{"x" * 129}")\n{SCOPE};', "129 characters"),
        (f'@id({HERE}"a\\nb")\n{SCOPE};', "no backslash"),
    ],
)
def test_the_id_must_be_there_and_be_the_records(marked: str, message: str) -> None:
    assert message in sole_mistake(marked).message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ID + SCOPE + ";", "p"),
        ('@note("a") // @id("no")\n@id ( "yes" ) permit', "yes"),
        (SCOPE + ';@id("p")', None),
        ("@id", None),
        ("", None),
    ],
)
def test_the_id_is_that_of_the_annotation(text: str, expected: str | None) -> None:
    assert policy_id(text) == expected


@pytest.mark.parametrize("nested", [("(", "true", ")"), ("[", "1", "]"), ("if true then ", "true", " else true")])
def test_nesting_is_refused_before_it_can_exhaust_the_stack(nested: tuple[str, str, str]) -> None:
    opening, core, closing = nested
    at_most = find_mistakes(when(opening * (MAX_NESTING - 1) + core + closing * (MAX_NESTING - 1)), "p")
    assert not any("nested" in mistake.message for mistake in at_most)
    for depth in (MAX_NESTING, 800):
        (mistake,) = find_mistakes(when(opening * depth + core + closing * depth), "p")
        assert f"more than {MAX_NESTING} deep" in mistake.message
        assert mistake.line == 4


def test_a_text_may_have_only_so_many_characters_and_words() -> None:
    long_text = when(f'context.space == "{"x" * MAX_CHARACTERS}"')
    assert f"at most {MAX_CHARACTERS}" in find_mistakes(long_text)[0].message
    many_words = when(" || ".join(["context.hour == 3"] * (MAX_WORDS // 6 + 1)))
    assert f"at most {MAX_WORDS}" in find_mistakes(many_words)[0].message
    assert find_mistakes(when(" || ".join(["context.hour == 3"] * 600)), "p") == []


SIGNS = list('(){}[],;:.!-+*=<@#&|%"\0é\ud800')
WORDS = [
    "permit",
    "forbid",
    "when",
    "unless",
    "principal",
    "action",
    "resource",
    "if",
    "then",
    "else",
    "in",
    "has",
    "is",
]
PHRASES = [
    ID,
    SCOPE,
    "\n",
    "::",
    "&&",
    "==",
    "context.hour",
    'Role::"a"',
    '@id("p")',
    "?principal",
    '"x"',
    "//",
    "9" * 20,
]


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(), st.lists(st.sampled_from(SIGNS + WORDS + PHRASES)).map(" ".join)))
@example(f"{ID}{SCOPE}when {{ {'a.' * 2000}a == 3 }};")
@example(f"{ID}{SCOPE}when {{ {'context.hour == 3 && ' * 300} context.hou == 3 }};")
@example('@permit("x") @id permit')
@example("\x1c")
@example("// \ud800")
def test_any_text_is_answered_with_places_inside_it(text: str) -> None:
    lines = text.split("\n")
    for mistake in find_mistakes(text, "p"):
        assert mistake.message
        assert mistake.line is not None
        assert mistake.column is not None
        assert 1 <= mistake.line <= len(lines)
        assert 1 <= mistake.column <= len(lines[mistake.line - 1]) + 1


clauses = st.recursive(
    st.sampled_from(
        ["context.hour", "3", '"x"', "true", "principal", "principal.user.tenant", "context.hou", 'Rle::"a"', "[]"]
    ),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["&&", "||", "==", "<", "+", "*", "in"]), inner).map(
            lambda parts: f"({' '.join(parts)})"
        ),
        st.tuples(inner, inner, inner).map(lambda parts: "(if {} then {} else {})".format(*parts)),
        st.tuples(inner, inner).map(lambda parts: "[{}].contains({})".format(*parts)),
        inner.map(lambda part: f"{{a: {part}}}.a"),
        inner.map(lambda part: f"!({part})"),
        inner.map(lambda part: f"({part} has tenant)"),
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(clauses)
def test_any_condition_is_answered_with_places_inside_it(condition: str) -> None:
    text = when(condition)
    for mistake in find_mistakes(text, "p"):
        assert mistake.line is not None
        assert 2 <= mistake.line <= 4
