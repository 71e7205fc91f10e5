"""Each template decides what its description says, at its boundaries too."""

from datetime import UTC, datetime
from typing import Any

import pytest

from embedgate.core.access import Decision
from embedgate.core.errors import InvalidInput, UnknownEntity
from embedgate.policy.check import find_mistakes
from embedgate.policy.decider import CedarDecider
from embedgate.policy.syntax import policy_id
from embedgate.policy.templates import Template, render, templates
from policy_questions import DOLLAR, ask, record

IDS = [
    "agent-high-rate",
    "agent-limited-actions",
    "allow-completion-active-keys",
    "approved-providers",
    "basic-allow-user",
    "business-hours-only",
    "business-hours-weekdays",
    "combined-spend-limits",
    "corporate-network-access",
    "daily-spend-limit-100",
    "engineering-full-access",
    "forbid-premium-models",
    "gpt-models-only",
    "multi-office-network-access",
    "openai-only",
    "research-limited-access",
    "role-admin-full-access",
    "role-analyst-limited-actions",
    "role-engineer-tenant-scoped",
]
PERMIT_ALL = record("permit (principal, action, resource);", "all")


def at(hour: int, minute: int = 0, day: int = 20) -> datetime:
    """A time on a day of November 2026, whose 20th is a Friday."""
    return datetime(2026, 11, day, hour, minute, tzinfo=UTC)


def by(**caller: Any) -> dict[str, Any]:
    return {"caller": caller}


COMPLETION: dict[str, Any] = {"action": "completion"}
DAY, MONTH = "daily_spend_picodollars", "monthly_spend_picodollars"
STEP = DOLLAR // 10_000

PERMITTED: list[tuple[str, dict[str, Any]]] = [
    ("allow-completion-active-keys", COMPLETION),
    ("engineering-full-access", by(tenant="engineering")),
    ("engineering-full-access", by(tenant="engineering") | COMPLETION),
    ("research-limited-access", by(tenant="research")),
    ("research-limited-access", by(tenant="research") | COMPLETION),
    ("corporate-network-access", {"ip_address": "10.0.0.0"}),
    ("corporate-network-access", {"ip_address": "10.255.255.255"}),
    ("multi-office-network-access", {"ip_address": "10.9.8.7"}),
    ("multi-office-network-access", {"ip_address": "172.16.0.1"}),
    ("multi-office-network-access", {"ip_address": "172.31.255.255"}),
    ("multi-office-network-access", {"ip_address": "192.168.255.255"}),
    ("business-hours-only", {"at": at(9)}),
    ("business-hours-only", {"at": at(17, 59)}),
    ("business-hours-only", {"at": at(12, day=21)}),
    ("business-hours-weekdays", {"at": at(9)}),
    ("business-hours-weekdays", {"at": at(17, 59, day=16)}),
    ("openai-only", {"provider": "openai"}),
    ("approved-providers", {"provider": "openai"}),
    ("approved-providers", {"provider": "anthropic"}),
    ("approved-providers", {"provider": "google"}),
    *(
        ("gpt-models-only", {"model_name": name} | COMPLETION)
        for name in ("gpt-4", "gpt-4-turbo", "gpt-4o", "gpt-4o-mini")
    ),
    ("daily-spend-limit-100", {DAY: 100 * DOLLAR - STEP, MONTH: 5000 * DOLLAR}),
    ("combined-spend-limits", {DAY: 100 * DOLLAR - STEP, MONTH: 1000 * DOLLAR - STEP}),
    ("agent-high-rate", by(is_agent=True) | {"requests_per_minute": 100}),
    ("agent-high-rate", by(is_agent=True) | {"requests_per_minute": None}),
    ("agent-limited-actions", by(is_agent=True)),
    ("agent-limited-actions", by(is_agent=True) | COMPLETION),
    ("role-admin-full-access", by(roles=("other", "admin_llm"))),
    ("role-analyst-limited-actions", by(roles=("analyst",))),
    ("role-analyst-limited-actions", by(roles=("analyst",)) | COMPLETION),
    ("role-engineer-tenant-scoped", by(roles=("engineer",), tenant="engineering")),
]
REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("allow-completion-active-keys", {}),
    ("engineering-full-access", {}),
    ("engineering-full-access", by(tenant="research")),
    ("research-limited-access", by(tenant="engineering")),
    ("corporate-network-access", {"ip_address": "11.0.0.0"}),
    ("corporate-network-access", {"ip_address": "192.168.0.1"}),
    ("multi-office-network-access", {"ip_address": "172.32.0.0"}),
    ("multi-office-network-access", {"ip_address": "192.169.0.0"}),
    ("multi-office-network-access", {"ip_address": "2001:db8::1"}),
    ("business-hours-only", {"at": at(8, 59)}),
    ("business-hours-only", {"at": at(18)}),
    ("business-hours-weekdays", {"at": at(18)}),
    ("business-hours-weekdays", {"at": at(12, day=21)}),
    ("business-hours-weekdays", {"at": at(12, day=22)}),
    ("openai-only", {"provider": "google"}),
    ("approved-providers", {"provider": "local"}),
    ("gpt-models-only", {"model_name": "gpt-4"}),
    ("gpt-models-only", {"model_name": "gpt-4-32k"} | COMPLETION),
    ("daily-spend-limit-100", {DAY: 100 * DOLLAR}),
    ("daily-spend-limit-100", {DAY: 100 * DOLLAR - 1}),
    ("combined-spend-limits", {DAY: 100 * DOLLAR}),
    ("combined-spend-limits", {MONTH: 1000 * DOLLAR}),
    ("agent-high-rate", {"requests_per_minute": 100}),
    ("agent-high-rate", by(is_agent=True) | {"requests_per_minute": 99}),
    ("agent-limited-actions", {}),
    ("role-admin-full-access", by(roles=("admin",))),
    ("role-analyst-limited-actions", {}),
    ("role-engineer-tenant-scoped", by(roles=("engineer",))),
    ("role-engineer-tenant-scoped", by(roles=("engineer",), tenant="research")),
    ("role-engineer-tenant-scoped", by(tenant="engineering")),
]


def filled(template: Template) -> dict[str, str]:
    return dict.fromkeys(template.parameters, "some-key")


def test_there_are_the_templates_of_the_list() -> None:
    assert [template.id for template in templates()] == IDS


@pytest.mark.parametrize("template", templates(), ids=lambda template: template.id)
def test_every_template_can_be_saved_as_it_is(template: Template) -> None:
    made = render(template.id, filled(template))
    assert (made.id, made.description) == (template.id, template.description)
    assert made.description.endswith(".")
    assert find_mistakes(made.text, template.id) == []


def test_every_template_is_seen_to_permit_and_to_refuse() -> None:
    tested_elsewhere = {"basic-allow-user", "forbid-premium-models"}
    assert {name for name, _ in PERMITTED} == {name for name, _ in REFUSED} == set(IDS) - tested_elsewhere


@pytest.mark.parametrize(("name", "changes"), PERMITTED)
def test_a_template_permits(name: str, changes: dict[str, Any]) -> None:
    assert CedarDecider([render(name)]).decide(ask(**changes)) == Decision(True, (name,))


@pytest.mark.parametrize(("name", "changes"), REFUSED)
def test_a_template_does_not_permit(name: str, changes: dict[str, Any]) -> None:
    assert CedarDecider([render(name)]).decide(ask(**changes)) == Decision(False)


# `moderation` and the like are no requests of ours, but policies may name them.
@pytest.mark.parametrize("name", ["research-limited-access", "agent-limited-actions", "role-analyst-limited-actions"])
def test_limited_actions_are_completion_and_embedding(name: str) -> None:
    changes = by(tenant="research", is_agent=True, roles=("analyst",))
    decider = CedarDecider([render(name)])
    for action, is_permitted in [("embedding", True), ("completion", True), ("moderation", False)]:
        assert decider.decide(ask(**changes, action=action)).is_permitted is is_permitted


@pytest.mark.parametrize("model_name", ["gpt-4", "gpt-4-32k", "claude-3-opus-20240229", "o1-preview"])
@pytest.mark.parametrize(
    ("tenant", "is_permitted"), [("executive", True), ("ml_engineering", True), ("research", False), (None, False)]
)
def test_premium_models_are_for_two_tenants(model_name: str, tenant: str | None, is_permitted: bool) -> None:
    decider = CedarDecider([PERMIT_ALL, render("forbid-premium-models")])
    question = ask(**by(tenant=tenant), **COMPLETION, model_name=model_name)
    decided_by = "all" if is_permitted else "forbid-premium-models"
    assert decider.decide(question) == Decision(is_permitted, (decided_by,))


def test_premium_models_are_forbidden_for_completions_only_and_no_other_model_is() -> None:
    decider = CedarDecider([PERMIT_ALL, render("forbid-premium-models")])
    assert decider.decide(ask(model_name="gpt-4")).is_permitted
    assert decider.decide(ask(model_name="gpt-4o", **COMPLETION)).is_permitted


def test_one_key_is_permitted_everything() -> None:
    decider = CedarDecider([render("basic-allow-user", {"key_id": "key_1"})])
    assert decider.decide(ask()) == Decision(True, ("basic-allow-user",))
    assert decider.decide(ask(**COMPLETION)).is_permitted
    assert not decider.decide(ask(**by(key_id="key_2"))).is_permitted


def test_a_template_that_is_used_twice_gets_two_ids() -> None:
    made = [render("basic-allow-user", {"key_id": key_id}, f"allow-{key_id}") for key_id in ("key_1", "key_2")]
    assert [(policy.id, policy_id(policy.text)) for policy in made] == [("allow-key_1",) * 2, ("allow-key_2",) * 2]
    decider = CedarDecider(made)
    assert decider.decide(ask(**by(key_id="key_2"))) == Decision(True, ("allow-key_2",))


@pytest.mark.parametrize(
    "key_id", ['a"b', "a\\", 'x", action, resource); permit (principal == UserKey::"y', "a\n//b", "é🦊"]
)
def test_a_parameter_is_a_name_whatever_it_holds(key_id: str) -> None:
    made = render("basic-allow-user", {"key_id": key_id})
    assert find_mistakes(made.text, made.id) == []
    decider = CedarDecider([made])
    assert decider.decide(ask(**by(key_id=key_id))).is_permitted
    assert not decider.decide(ask(**by(key_id="y"))).is_permitted


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "missing: key_id"),
        ({"key_id": ""}, "missing: key_id"),
        ({"key_id": "a", "tenant": "b"}, "unknown: tenant"),
    ],
)
def test_parameters_must_be_those_of_the_template(parameters: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as raised:
        render("basic-allow-user", parameters)
    assert raised.value.param == "parameters"


def test_an_unknown_template_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownEntity, match="openai-only"):
        render("allow-all")
