"""Warnings of arithmetic that may overflow: none is missing, and templates give none."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from embedgate.core.access import PolicyRecord
from embedgate.policy.decider import CedarDecider
from embedgate.policy.risks import find_risks
from embedgate.policy.syntax import effect_of
from embedgate.policy.templates import templates
from policy_questions import QUESTION


def forbid(condition: str) -> str:
    return f'@id("p")\nforbid (principal, action, resource) when {{\n  {condition}\n}};'


@pytest.mark.parametrize(
    "condition",
    [
        "principal.user.limit_requests_per_minute * 10000000 > 1",
        "context.input_tokens * context.input_tokens > 1",
        "context.hour - 9223372036854775807 - 30 < 0",
        "[context.input_tokens * 9223372036854775807].contains(3)",
        "(if context.hour > 3 then 9223372036854775807 else 1) + 1 > 0",
        "context.hour == 3 && -(0 - 9223372036854775807 - 1) > 0",
    ],
)
def test_arithmetic_that_may_overflow_is_told_with_its_place(condition: str) -> None:
    risks = find_risks(forbid(condition), "forbid")
    assert risks
    for risk in risks:
        assert "may overflow" in risk.message
        assert "a forbid that fails refuses" in risk.message
        assert risk.line == 3
    assert "permits nothing" in find_risks(forbid(condition).replace("forbid", "permit"), "permit")[0].message


@pytest.mark.parametrize(
    "condition",
    [
        "principal.user.limit_requests_per_minute * 1440 > 1000000",
        "principal.user.limit_requests_per_minute * 525600 - context.hour * 60 > 1000000",
        "context.input_count * context.dimensions > 1000000",
        "context.hour >= 9 && context.hour < 18",
        'context.estimated_cost.lessThan(decimal("1.0"))',
    ],
)
def test_arithmetic_that_cannot_overflow_is_not(condition: str) -> None:
    assert find_risks(forbid(condition), "forbid") == []


def test_templates_have_none() -> None:
    for template in templates():
        assert find_risks(template.text.replace("{{", "").replace("}}", ""), effect_of(template.text)) == []


numbers = st.recursive(
    st.sampled_from(
        [
            "context.hour",
            "context.input_tokens",
            "principal.user.limit_requests_per_minute",
            "3",
            "1440",
            "9223372036854775807",
        ]
    ),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda parts: f"({' '.join(parts)})"),
        inner.map(lambda each: f"(-{each})" if each.startswith("(") else f"(0 - {each})"),
        st.tuples(inner, inner).map(lambda parts: "(if context.hour > 3 then {} else {})".format(*parts)),
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(number=numbers, limit=st.none() | st.sampled_from([1, 10**12]), tokens=st.sampled_from([0, 1, 10**12]))
def test_what_is_not_warned_of_never_fails(number: str, limit: int | None, tokens: int) -> None:
    text = forbid(f"{number} > 7")
    if find_risks(text, "forbid"):
        return
    question = structs.replace(QUESTION, requests_per_minute=limit, tokens=tokens)
    decision = CedarDecider([PolicyRecord(id="p", text=text)]).decide(question)
    assert decision.errors == ()
