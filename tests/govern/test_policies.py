"""Policies: a mistake is told with its place before anything is saved, and what was given is kept."""

import pytest

from embedgate.core.errors import Conflict, GatewayError, InvalidInput, InvalidPolicy, UnknownEntity
from embedgate.govern import policies
from embedgate.govern.policies import (
    Mistake,
    NewPolicy,
    Policy,
    PolicyChange,
    PolicyFromTemplate,
    PolicyQuery,
    PolicyUnderId,
    TextToCheck,
    WhichPolicy,
)
from embedgate.govern.values import moment
from embedgate.policy.syntax import MAX_CHARACTERS
from governing import Governing

PERMIT_ALL = "permit-everything"
FORBID = '@id("p")\nforbid (principal, action, resource);\n'


def ids(call: Governing) -> list[str]:
    return [policy.id for policy in call.every(policies.list_policies, PolicyQuery())]


def show(call: Governing, policy: str) -> Policy:
    return call(policies.show_policy, WhichPolicy(policy))


def test_mistakes_are_refused_with_line_and_column(call: Governing) -> None:
    text = '@id("p")\npermit (principal, action, resource)\nwhen { context.hourr == 5 && principal.naem == "x" };'
    with pytest.raises(InvalidPolicy) as raised:
        call(policies.create_policy, NewPolicy(text))
    error = raised.value
    assert (error.code, error.status, error.param) == ("invalid_policy", 400, "text")
    assert [(mistake.line, mistake.column) for mistake in error.mistakes] == [(3, 16), (3, 40)]
    assert "line 3, column 16: " in error.message
    assert "line 3, column 40: " in error.message
    assert ids(call) == [PERMIT_ALL]
    checked = call(policies.check_policy, TextToCheck(text))
    expected = tuple(Mistake(mistake.message, mistake.line, mistake.column) for mistake in error.mistakes)
    assert (checked.ok, checked.mistakes) == (False, expected)
    fine = call(policies.check_policy, TextToCheck(FORBID))
    assert (fine.ok, fine.mistakes) == (True, ())
    assert not call(policies.check_policy, TextToCheck(FORBID, "q")).ok


def test_a_policy_is_saved_under_the_id_in_its_text(call: Governing) -> None:
    assert call(policies.create_policy, NewPolicy(FORBID, "stop")).id == "p"
    assert show(call, "p").description == "stop"
    with pytest.raises(Conflict):
        call(policies.create_policy, NewPolicy(FORBID))
    with pytest.raises(InvalidPolicy, match="@id"):
        call(policies.put_policy, PolicyUnderId("q", FORBID))
    with pytest.raises(InvalidPolicy, match="@id"):
        call(policies.change_policy, PolicyChange("p", FORBID.replace('"p"', '"q"')))
    with pytest.raises(InvalidPolicy, match="line 1, column 1"):
        call(policies.create_policy, NewPolicy("permit (principal, action, resource);"))
    with pytest.raises(InvalidPolicy):
        call(policies.create_policy, NewPolicy("x" * 1_000_000))


def test_a_policy_is_kept_as_it_was_given(call: Governing) -> None:
    policy = call(policies.create_policy, NewPolicy(FORBID, "nobody", is_enabled=False))
    assert policy.updated_at == moment(call.resources.now_ms())
    assert show(call, "p") == policy
    changed = call(policies.change_policy, PolicyChange("p", FORBID + "// é\n", is_enabled=True))
    assert (changed.text, changed.description, changed.is_enabled) == (FORBID + "// é\n", "nobody", True)
    assert ids(call) == ["p", PERMIT_ALL]
    call(policies.delete_policy, WhichPolicy("p"))
    assert ids(call) == [PERMIT_ALL]
    for policy_id in ("", "x" * 129, "a\nb"):
        with pytest.raises(InvalidPolicy, match="@id has"):
            call(policies.create_policy, NewPolicy(f'@id("{policy_id}")\nforbid (principal, action, resource);'))
    with pytest.raises(InvalidPolicy, match="at most 65536"):
        call(policies.create_policy, NewPolicy(FORBID + "//" + "x" * MAX_CHARACTERS))
    for text in (FORBID + "// \0", FORBID + "// \ud800"):
        with pytest.raises(GatewayError):
            call(policies.create_policy, NewPolicy(text))
    with pytest.raises(InvalidInput, match="description"):
        call(policies.create_policy, NewPolicy(FORBID, "x" * 1_001))


def test_a_policy_is_put_whether_or_not_it_is_there(call: Governing) -> None:
    first = call(policies.put_policy, PolicyUnderId("p", FORBID, "first"))
    second = call(policies.put_policy, PolicyUnderId("p", FORBID, is_enabled=False))
    assert (first.description, first.is_enabled) == ("first", True)
    assert (second.description, second.is_enabled) == ("", False)
    assert show(call, "p") == second


def test_a_policy_that_cannot_be_saved_stays_as_it_was(call: Governing) -> None:
    before = call(policies.create_policy, NewPolicy(FORBID))
    with pytest.raises(InvalidPolicy):
        call(policies.change_policy, PolicyChange("p", "nonsense", is_enabled=False))
    with pytest.raises(UnknownEntity):
        call(policies.change_policy, PolicyChange("nothing", FORBID))
    assert show(call, "p") == before


def test_a_template_becomes_a_policy(call: Governing) -> None:
    template = next(each for each in policies.every_template() if each.parameters)
    filled = dict.fromkeys(template.parameters, "x")
    made = call(policies.create_from_template, PolicyFromTemplate(template.id, filled, id="mine"))
    assert show(call, "mine") == made
    assert made.description == template.description
    with pytest.raises(InvalidInput):
        call(policies.create_from_template, PolicyFromTemplate(template.id))
    with pytest.raises(UnknownEntity):
        call(policies.create_from_template, PolicyFromTemplate("nothing"))
    with pytest.raises(InvalidPolicy):
        call(policies.create_from_template, PolicyFromTemplate(template.id, filled, id="bad\n"))


def test_each_change_leaves_one_event_and_touches_the_rules_alone(call: Governing) -> None:
    before = len(call.events())
    invocation = call.invocation()
    policies.create_policy.run(invocation, NewPolicy(FORBID))
    policies.change_policy.run(invocation, PolicyChange("p", FORBID + "// why\n", "d", is_enabled=False))
    policies.change_policy.run(invocation, PolicyChange("p", is_enabled=True))
    policies.change_policy.run(invocation, PolicyChange("p", is_enabled=False))
    policies.put_policy.run(invocation, PolicyUnderId("p", FORBID, "d", is_enabled=True))
    policies.delete_policy.run(invocation, WhichPolicy("p"))
    policies.create_from_template.run(invocation, PolicyFromTemplate("openai-only", is_enabled=False))
    assert (invocation.touched.rules, invocation.touched.any_key) == (True, False)
    events = call.events()[before:]
    digests = {str(event.detail["text_sha256"]) for event in events if "text_sha256" in event.detail}
    assert {len(digest) for digest in digests} == {64}
    said = [
        (event.action, event.target, {name: "?" if name == "text_sha256" else v for name, v in event.detail.items()})
        for event in events
    ]
    assert said == [
        ("policies.create", "p", {"text_sha256": "?", "is_enabled": True}),
        ("policies.update", "p", {"text_sha256": "?", "description": "changed", "is_enabled": False}),
        ("policies.enable", "p", {}),
        ("policies.disable", "p", {}),
        ("policies.update", "p", {"text_sha256": "?", "is_enabled": True}),
        ("policies.delete", "p", {"text_sha256": "?"}),
        ("policies.create", "openai-only", {"text_sha256": "?", "is_enabled": False}),
    ]
