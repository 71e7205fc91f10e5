"""What a set of policies decides, why, and that remembering decisions changes none."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from embedgate.core.access import Decision, PolicyRecord, Question
from embedgate.core.ports import PolicyDecider
from embedgate.policy.decider import CedarDecider
from forms import scaled
from policy_questions import CALLER, DOLLAR, QUESTION, ask, decide_slowly, record

PERMIT_ALL = record("permit (principal, action, resource);", "permit-all")
FORBID_ALL = record("forbid (principal, action, resource);", "forbid-all")


def permits(condition: str, question: Question) -> bool:
    """Whether a single permit with this condition permits."""
    decision = CedarDecider([record(f"permit (principal, action, resource) when {{ {condition} }};")]).decide(question)
    assert decision.errors == ()
    return decision.is_permitted


def test_everything_is_denied_without_a_policy() -> None:
    decider: PolicyDecider = CedarDecider([])
    assert decider.decide(QUESTION) == Decision(False)


def test_what_no_policy_permits_is_denied_for_no_policys_sake() -> None:
    decider = CedarDecider([record('permit (principal, action == Action::"completion", resource);')])
    assert decider.decide(QUESTION) == Decision(False)


def test_a_permit_is_named_by_its_id() -> None:
    assert CedarDecider([PERMIT_ALL]).decide(QUESTION) == Decision(True, ("permit-all",))


def test_every_permit_that_holds_is_named_in_the_order_given() -> None:
    names = [f"p{number}" for number in range(12)]
    policies = [record("permit (principal, action, resource) when { context.hour == 12 };", name) for name in names]
    assert CedarDecider(policies).decide(QUESTION) == Decision(True, tuple(names))


@pytest.mark.parametrize(
    "forbid", [FORBID_ALL, record("forbid (principal is UserKey, action, resource);", "forbid-all")]
)
def test_a_forbid_wins_over_every_permit_and_alone_is_named(forbid: PolicyRecord) -> None:
    assert CedarDecider([PERMIT_ALL, forbid]).decide(QUESTION) == Decision(False, ("forbid-all",))


@pytest.mark.parametrize("condition", ["", " when { true }"])
def test_a_disabled_policy_is_as_if_deleted(condition: str) -> None:
    forbid = record(f"forbid (principal, action, resource){condition};", "no", is_enabled=False)
    permit = record(f"permit (principal, action, resource){condition};", "yes")
    assert CedarDecider([permit, forbid]).decide(QUESTION) == Decision(True, ("yes",))
    assert CedarDecider([replace(permit, is_enabled=False)]).decide(QUESTION) == Decision(False)


def test_a_permit_that_fails_does_not_apply_and_is_named() -> None:
    failing = record('permit (principal, action, resource) when { principal.user.tenant == "x" };', "careless")
    for policies, permits in (([PERMIT_ALL, failing], ("permit-all",)), ([failing], ())):
        decision = CedarDecider(policies).decide(QUESTION)
        assert (decision.is_permitted, decision.policies) == (bool(permits), permits)
        assert (len(decision.errors), decision.failed_forbids) == (1, ())
        assert decision.errors[0].startswith('policy "careless" does not apply: ')
        assert "tenant" in decision.errors[0]


@pytest.mark.parametrize(
    ("condition", "why"),
    [
        ('principal.user.tenant == "x"', "tenant"),
        ("principal.user.limit_requests_per_minute * 10000000 > 1000000", "overflow"),
        ("0 - 9223372036854775807 - 2 < context.hour", "overflow"),
    ],
)
def test_a_forbid_that_fails_refuses_and_is_named(condition: str, why: str) -> None:
    failing = record(f"forbid (principal, action, resource) when {{ {condition} }};", "careless")
    other = record("forbid (principal, action, resource) when { context.hour == 12 };", "noon")
    for policies, deciding in (
        ([PERMIT_ALL, failing], ("careless",)),
        ([failing], ("careless",)),
        ([other, PERMIT_ALL, failing], ("noon", "careless")),
    ):
        decision = CedarDecider(policies).decide(QUESTION)
        assert (decision.is_permitted, decision.policies) == (False, deciding)
        assert decision.failed_forbids == ("careless",)
        (error,) = decision.errors
        assert error.startswith('policy "careless" could not be evaluated and refuses: ')
        assert why in error


@pytest.mark.parametrize("clause", ["when", "unless"])
@pytest.mark.parametrize(
    "condition",
    [
        'principal.user.tenant == "x"',  # absent
        'principal.user.nothing == "x"',
        "context.nothing",
        'context["no such"] == 1',
        'User::"nobody".email == "x"',
        "[1, 2].contains(context.nothing)",
        '{"a": 1}.b',
        'context.model_id like "*" && context.nothing',
        'context.hour < "x"',  # of another type
        "context.hour",
        '"x"',
        "context.model_id + 1 > 2",
        "!context.hour",
        "if context.hour then true else false",
        "context.hour in resource",
        'principal in "x"',
        "principal.user.is_agent.x",
        'context.ip_address.isInRange("x")',
        'context.hour.lessThan(decimal("1.0"))',
        'ip("garbage").isIpv4()',  # that no text of that kind is
        "ip(context.model_id).isIpv4()",
        'context.ip_address.isInRange(ip("10.0.0.0/99"))',
        'decimal("1.23456").lessThan(decimal("1.0"))',
        'decimal(context.model_id).lessThan(decimal("1.0"))',
        'datetime(context.model_id) < datetime("2026-01-01")',
        'duration("1x") < duration("1h")',
    ],
)
def test_however_it_fails_a_forbid_refuses_and_a_permit_permits_nothing(condition: str, clause: str) -> None:
    text = f"(principal, action, resource) {clause} {{ {condition} }};"
    decision = CedarDecider([PERMIT_ALL, record(f"forbid {text}", "careless")]).decide(QUESTION)
    assert (decision.is_permitted, decision.failed_forbids) == (False, ("careless",))
    decision = CedarDecider([record(f"permit {text}", "careless")]).decide(QUESTION)
    assert (decision.is_permitted, len(decision.errors)) == (False, 1)


@pytest.mark.parametrize("factor", [60, 1_440, 44_640, 525_600, 9_000_000])
@pytest.mark.parametrize(("limit", "is_refused"), [(None, True), (2**53, True), (1, False)])
def test_no_limit_is_a_value_to_calculate_with(factor: int, limit: int | None, is_refused: bool) -> None:
    text = f"principal.user.limit_requests_per_minute * {factor} > 10000000"
    decider = CedarDecider([PERMIT_ALL, record(f"forbid (principal, action, resource) when {{ {text} }};")])
    decision = decider.decide(ask(requests_per_minute=limit))
    assert (decision.is_permitted, decision.errors) == (not is_refused, ())


@pytest.mark.parametrize(
    "text",
    [
        "forbid (principal, action, resource)",
        "forbid (principal, action, resource); permit (principal, action, resource);",
        "forbid (principal == ?principal, action, resource);",
        "",
        "forbid (principal, action, resource) when { " + "(" * 5000 + "true" + ")" * 5000 + " };",
    ],
)
def test_a_policy_that_cannot_be_read_denies_everything_and_says_so(text: str) -> None:
    decision = CedarDecider([PERMIT_ALL, record(text, "broken")]).decide(QUESTION)
    assert (decision.is_permitted, decision.policies) == (False, ())
    assert len(decision.errors) == 1
    assert decision.errors[0].startswith('policy "broken" cannot be read')
    assert CedarDecider([PERMIT_ALL, record(text, "broken", is_enabled=False)]).decide(QUESTION).is_permitted


def test_an_address_that_is_none_matters_only_to_policies_that_read_it() -> None:
    question = ask(ip_address="not an address")
    by_address = record('permit (principal, action, resource) when { context.ip_address.isInRange(ip("::/0")) };')
    decision = CedarDecider([by_address]).decide(question)
    assert not decision.is_permitted
    assert "not an address" in decision.errors[0]
    assert permits("context.hour == 12", question)


@pytest.mark.parametrize(
    ("address", "is_inside"),
    [("10.1.2.3", True), ("::ffff:10.1.2.3", True), ("11.0.0.1", False), ("fe80::1%eth0", False), ("::1", False)],
)
def test_addresses_are_compared_as_the_addresses_they_are(address: str, is_inside: bool) -> None:
    question = ask(ip_address=address)
    assert permits('context.ip_address.isInRange(ip("10.0.0.0/8"))', question) is is_inside


@pytest.mark.parametrize(
    ("spend_picodollars", "dollars"),
    [
        (0, "0.0"),
        (1, "0.0001"),
        (99_999_999, "0.0001"),
        (100_000_000, "0.0001"),
        (100_000_001, "0.0002"),
        (100 * DOLLAR - 100_000_000, "99.9999"),
        (100 * DOLLAR - 1, "100.0"),
        (100 * DOLLAR, "100.0"),
    ],
)
def test_money_is_rounded_up_to_four_places(spend_picodollars: int, dollars: str) -> None:
    question = ask(
        daily_spend_picodollars=spend_picodollars,
        monthly_spend_picodollars=spend_picodollars,
        cost_picodollars=spend_picodollars,
    )
    for path in ("principal.current_daily_spend", "principal.current_monthly_spend", "context.estimated_cost"):
        assert permits(f'{path} == decimal("{dollars}")', question)


@pytest.mark.parametrize(
    ("at", "condition"),
    [
        (datetime(2026, 11, 1, 0, 0, tzinfo=UTC), 'context.day_of_week == "Sunday" && context.hour == 0'),
        (datetime(2026, 11, 2, 23, 59, tzinfo=UTC), 'context.day_of_week == "Monday" && context.hour == 23'),
        # One hour behind, it is already Tuesday in UTC.
        (datetime(2026, 11, 2, 23, 30, tzinfo=timezone(-timedelta(hours=1))), 'context.day_of_week == "Tuesday"'),
        (QUESTION.at, 'context.request_time == "2026-11-20T12:30:15.250Z"'),
        (QUESTION.at, 'principal.last_daily_reset == "2026-11-20T00:00:00.000Z"'),
        (QUESTION.at, 'principal.last_monthly_reset == "2026-11-01T00:00:00.000Z"'),
    ],
)
def test_times_are_those_of_utc(at: datetime, condition: str) -> None:
    assert permits(condition, ask(at=at))


@pytest.mark.parametrize(
    ("condition", "allowed", "refused"),
    [
        ("context.input_count <= 100", {"n_inputs": 100}, {"n_inputs": 101}),
        ("context.input_tokens <= 8000", {"tokens": 8000}, {"tokens": 8001}),
        ("context.dimensions == 256", {"dim": 256}, {"dim": 512}),
        ('context.input_type == "query"', {"input_type": "query"}, {"input_type": "none"}),
        ('context.space == "a/b@1"', {"space": "a/b@1"}, {"space": "a/b@2"}),
        ('context.model_id == "a/b"', {"model": "a/b"}, {"model": "c/b"}),
        ('resource == Resource::"b"', {"model_name": "b"}, {"model_name": "c"}),
        (
            'context.estimated_cost.lessThanOrEqual(decimal("0.01"))',
            {"cost_picodollars": DOLLAR // 100},
            {"cost_picodollars": DOLLAR // 100 + 1},
        ),
        ("context.is_emergency", {"is_emergency": True}, {}),
        ('principal.user.tenant == "x"', {"caller": {"tenant": "x"}}, {"caller": {"tenant": "y"}}),
        ("principal.user has tenant", {"caller": {"tenant": ""}}, {"caller": {"tenant": None}}),
        ("principal has user.tenant", {"caller": {"tenant": ""}}, {"caller": {"tenant": None}}),
        ('principal.user == User::"u"', {"caller": {"user_id": "u"}}, {"caller": {"user_id": "v"}}),
        (
            "principal.user.limit_requests_per_minute >= 1000000000",
            {"requests_per_minute": None},
            {"requests_per_minute": 60},
        ),
    ],
)
def test_a_policy_can_ask_for(condition: str, allowed: Mapping[str, Any], refused: Mapping[str, Any]) -> None:
    assert permits(condition, ask(**allowed))
    assert not permits(condition, ask(**refused))


def test_a_policy_that_reads_nothing_that_changed_is_not_asked_again() -> None:
    decider = CedarDecider([record("permit (principal, action, resource) when { context.hour == 12 };")])
    first = decider.decide(ask(tokens=1, daily_spend_picodollars=5))
    assert decider.decide(ask(tokens=2, daily_spend_picodollars=6)) is first
    assert decider.decide(ask(at=QUESTION.at + timedelta(hours=1))) == Decision(False)


def test_a_policy_that_reads_the_time_is_asked_every_time() -> None:
    text = 'permit (principal, action, resource) when { context.request_time like "2026*" };'
    decider = CedarDecider([record(text)])
    assert decider.decide(QUESTION) is not decider.decide(QUESTION)


def test_no_more_decisions_are_remembered_than_allowed() -> None:
    policy = record("permit (principal, action, resource) when { context.input_tokens < 5 };")
    decider = CedarDecider([policy], max_cached=2)
    first = decider.decide(ask(tokens=1))
    decider.decide(ask(tokens=2))
    assert decider.decide(ask(tokens=1)) is first
    decider.decide(ask(tokens=3))
    decider.decide(ask(tokens=4))
    assert decider.decide(ask(tokens=1)) is not first


def test_a_very_long_policy_decides_too() -> None:
    text = " || ".join(["context.hour == 3"] * 400 + ["context.input_count == 7"])
    assert permits(text, ask(n_inputs=7))
    assert not permits(text, ask(n_inputs=8))


CONDITIONS = (
    "context.hour < 12",
    'context.day_of_week == "Friday"',
    'context.ip_address.isInRange(ip("10.0.0.0/8"))',
    'context.request_time like "*:30:*"',
    "context == {hour: 3}",
    "context has input_count && context.input_count > 2",
    "context has no_such_thing",
    "context.no_such_thing == 1",
    'principal.user has tenant && ["red", "blue"].contains(principal.user.tenant)',
    'principal.user.tenant == "red"',
    "principal has user.tenant",
    "{hour: context.hour} == {hour: 13}",
    'principal.current_daily_spend.lessThan(decimal("1.0"))',
    '{key: principal}.key.current_monthly_spend.lessThan(decimal("1.0"))',
    '(if context.is_emergency then principal else UserKey::"key_2").user.is_agent',
    'UserKey::"key_1".user.email like "*@example.org"',
    "principal.user.limit_requests_per_minute >= 100",
    'principal.user in [Role::"admin", Role::"reader"]',
    'principal == UserKey::"key_2" || [principal.user].contains(User::"user_bob")',
    "context.dimensions * 2 == context.input_tokens - 1",
    'principal.last_monthly_reset == "2026-11-01T00:00:00.000Z"',
    "!(principal.user.is_agent) && context.input_type == context.input_type",
    'context["space"] == "a@1" || context.model_id == "a/b"',
    'resource == Resource::"b"',
    'resource.name == "b"',
    'context.estimated_cost.greaterThan(decimal("0.0"))',
    'principal.user.getTag("colour") == context.model_provider',
)
SCOPES = (
    "principal, action, resource",
    'principal, action == Action::"embedding", resource',
    'principal is UserKey, action in [Action::"completion", Action::"moderation"], resource',
    'principal == UserKey::"key_1", action, resource == Resource::"b"',
)

texts = st.builds(
    lambda effect, scope, clauses: f"{effect} ({scope}) {' '.join(clauses)};",
    st.sampled_from(["permit", "permit", "forbid"]),
    st.sampled_from(SCOPES),
    st.lists(
        st.builds(
            lambda word, condition: f"{word} {{ {condition} }}",
            st.sampled_from(["when", "unless"]),
            st.sampled_from(CONDITIONS),
        ),
        max_size=2,
    ),
)
policy_sets = st.lists(st.tuples(texts, st.booleans()), max_size=4).map(
    lambda drawn: [record(text, f"p{index}", is_enabled=is_on) for index, (text, is_on) in enumerate(drawn)]
)
questions = st.builds(
    Question,
    caller=st.builds(
        replace,
        st.just(CALLER),
        key_id=st.sampled_from(["key_1", "key_2"]),
        user_id=st.sampled_from(["user_ann", "user_bob"]),
        email=st.sampled_from(["ann@example.org", ""]),
        tenant=st.sampled_from([None, "red", "green"]),
        is_agent=st.booleans(),
        roles=st.sampled_from([(), ("admin",), ("reader", "writer")]),
    ),
    action=st.sampled_from(["embedding", "completion"]),
    model=st.sampled_from(["a/b", "c/b", "a/d"]),
    model_name=st.sampled_from(["b", "d"]),
    provider=st.sampled_from(["openai", "local"]),
    space=st.sampled_from(["a@1", "a@2"]),
    at=st.integers(-30, 90).map(lambda hours: QUESTION.at + timedelta(hours=hours)),
    ip_address=st.sampled_from(["127.0.0.1", "10.0.0.9", "2001:db8::1"]),
    is_emergency=st.booleans(),
    n_inputs=st.integers(1, 4),
    tokens=st.integers(0, 5),
    dim=st.integers(0, 2),
    input_type=st.sampled_from(["query", "document", "none"]),
    cost_picodollars=st.sampled_from([0, 1]),
    daily_spend_picodollars=st.sampled_from([0, DOLLAR - 1, DOLLAR - 100_000_000]),
    monthly_spend_picodollars=st.sampled_from([0, DOLLAR, 2 * DOLLAR]),
    requests_per_minute=st.sampled_from([None, 99, 100]),
)


QUESTION_FIELDS = sorted(name for name in Question.__struct_fields__ if name != "caller")
CALLER_FIELDS = ["email", "is_agent", "key_id", "roles", "tenant", "user_id"]


def with_one_change(question: Question, other: Question, name: str) -> Question:
    """The question with one field of the other: what a decision wrongly remembered would overlook."""
    if name in CALLER_FIELDS:
        return structs.replace(question, caller=replace(question.caller, **{name: getattr(other.caller, name)}))
    return structs.replace(question, **{name: getattr(other, name)})


ONE = ask(
    caller={"tenant": "red", "is_agent": True, "roles": ("admin",)},
    model="a/b",
    model_name="b",
    provider="openai",
    space="a@1",
    at=datetime(2026, 11, 3, 4, 30, tzinfo=UTC),
    ip_address="10.0.0.9",
    is_emergency=True,
    n_inputs=3,
    tokens=3,
    dim=1,
    input_type="query",
    cost_picodollars=1,
    requests_per_minute=100,
)
OTHER = Question(
    caller=replace(CALLER, key_id="key_2", user_id="user_bob", email=""),
    action="completion",
    model="c/d",
    model_name="d",
    provider="local",
    space="a@2",
    at=datetime(2026, 10, 30, 13, 0, tzinfo=UTC),
    daily_spend_picodollars=DOLLAR,
    monthly_spend_picodollars=DOLLAR,
    requests_per_minute=99,
)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_each_field_that_a_condition_reads_is_seen_to_be_read(condition: str) -> None:
    policies = [record(f"permit (principal, action, resource) when {{ {condition} }};")]
    for question, other in ((ONE, OTHER), (OTHER, ONE)):
        decider = CedarDecider(policies)
        for name in ("key_id", *QUESTION_FIELDS, *CALLER_FIELDS):
            asked = with_one_change(question, other, name)
            decider.decide(question)
            expected, decision = decide_slowly(policies, asked), decider.decide(asked)
            assert (decision.policies, len(decision.errors)) == (expected.policies, len(expected.errors)), name


@pytest.mark.hostile
@settings(max_examples=scaled(150, 1500), deadline=None)
@given(
    policies=policy_sets,
    question=questions,
    other=questions,
    changed=st.lists(st.sampled_from([*QUESTION_FIELDS, *CALLER_FIELDS]), unique=True, max_size=12),
    max_cached=st.sampled_from([1, 64]),
)
def test_a_remembering_decider_decides_as_one_that_parses_everything_anew(
    policies: list[PolicyRecord], question: Question, other: Question, changed: list[str], max_cached: int
) -> None:
    decider = CedarDecider(policies, max_cached=max_cached)
    for asked in [question, *(with_one_change(question, other, name) for name in changed), question]:
        expected, decision = decide_slowly(policies, asked), decider.decide(asked)
        assert (decision.is_permitted, decision.policies) == (expected.is_permitted, expected.policies)
        assert len(decision.errors) == len(expected.errors)
