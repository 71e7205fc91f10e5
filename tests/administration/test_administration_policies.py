"""Policies: a mistake is told with its place before anything is saved, and what they say is told without a request."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from embedgate.administration import Administration, Trial
from embedgate.core.access import AuditEvent, Subject
from embedgate.core.errors import (
    Conflict,
    InvalidDimension,
    InvalidInput,
    InvalidPolicy,
    ModelNotAtProvider,
    UnknownEntity,
    UnknownModel,
)

PERMIT_ALL = "permit-everything"
FORBID = '@id("p")\nforbid (principal, action, resource);\n'
MODEL = "openai/text-embedding-3-small"
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def key_id(administration: Administration) -> str:
    """A key of `ann` named `ci`."""
    administration.users.create("ann", tenant="acme")
    return administration.keys.create("ann", "ci").record.id


def test_mistakes_are_refused_with_line_and_column(administration: Administration) -> None:
    text = '@id("p")\npermit (principal, action, resource)\nwhen { context.hourr == 5 && principal.naem == "x" };'
    with pytest.raises(InvalidPolicy) as raised:
        administration.policies.create(text)
    error = raised.value
    assert (error.code, error.status, error.param) == ("invalid_policy", 400, "text")
    assert [(mistake.line, mistake.column) for mistake in error.mistakes] == [(3, 16), (3, 40)]
    assert "line 3, column 16: " in error.message
    assert "line 3, column 40: " in error.message
    assert [policy.id for policy in administration.policies.list()] == [PERMIT_ALL]
    assert administration.policies.check(text) == list(error.mistakes)
    assert administration.policies.check(FORBID) == []


def test_a_policy_is_saved_under_the_id_in_its_text(administration: Administration) -> None:
    assert administration.policies.create(FORBID, description="stop").id == "p"
    assert administration.policies.get("p").description == "stop"
    with pytest.raises(Conflict):
        administration.policies.create(FORBID)
    with pytest.raises(InvalidPolicy, match="@id"):
        administration.policies.create(FORBID, expected_id="q")
    with pytest.raises(InvalidPolicy, match="@id"):
        administration.policies.update("p", text=FORBID.replace('"p"', '"q"'))
    with pytest.raises(InvalidPolicy, match="line 1, column 1"):
        administration.policies.create("permit (principal, action, resource);")
    with pytest.raises(InvalidPolicy):
        administration.policies.create("x" * 1_000_000)


def test_a_policy_that_cannot_be_saved_stays_as_it_was(administration: Administration) -> None:
    before = administration.policies.create(FORBID)
    with pytest.raises(InvalidPolicy):
        administration.policies.update("p", text="nonsense", is_enabled=False)
    with pytest.raises(UnknownEntity):
        administration.policies.update("nothing", text=FORBID)
    assert administration.policies.get("p") == before


def test_a_template_becomes_a_policy(administration: Administration) -> None:
    template = next(each for each in administration.policies.templates() if each.parameters)
    filled = dict.fromkeys(template.parameters, "x")
    made = administration.policies.from_template(template.id, filled, new_id="mine")
    assert administration.policies.get("mine") == made
    assert made.description == template.description
    with pytest.raises(InvalidInput):
        administration.policies.from_template(template.id)
    with pytest.raises(UnknownEntity):
        administration.policies.from_template("nothing")
    with pytest.raises(InvalidPolicy):
        administration.policies.from_template(template.id, filled, new_id="bad\n")


def test_a_dry_run_says_what_each_provider_would_be_permitted_and_why(
    administration: Administration, key_id: str
) -> None:
    policies = administration.policies
    policies.create('@id("no-azure")\nforbid (principal, action, resource) when {context.model_provider == "azure"};')
    policies.create(FORBID, is_enabled=False)
    run = policies.dry_run(Trial(key="ci", model="text-embedding-3-small"))
    assert (run.key.id, run.key_state, run.model, run.is_permitted) == (key_id, "active", MODEL, True)
    said = {each.provider: (each.decision.is_permitted, each.decision.policies) for each in run.tried}
    assert said["azure"] == (False, ("no-azure",))
    assert said["openai"] == (True, (PERMIT_ALL,))
    pinned = policies.dry_run(Trial(key=key_id, model=f"{MODEL}:azure"))
    assert [each.provider for each in pinned.tried] == ["azure"]
    assert not pinned.is_permitted
    policies.enable("p")
    assert not policies.dry_run(Trial(key=key_id, model=MODEL)).is_permitted
    assert not policies.dry_run(Trial(key=key_id, model="gpt-4o")).is_permitted


def test_a_dry_run_of_a_model_that_orders_documents_asks_of_that_and_counts_searches(
    administration: Administration, key_id: str
) -> None:
    run = administration.policies.dry_run(Trial(key_id, "cohere/rerank-v3.5", n_inputs=101, tokens=10_000))
    (tried,) = run.tried
    assert (tried.question.action, tried.question.dim) == ("rerank", 0)
    assert tried.question.cost_picodollars == 2 * 2_000_000_000


def test_a_dry_run_asks_what_a_true_request_would_ask(
    administration: Administration,
    key_id: str,
    spend: Callable[..., None],
    happened: Callable[[], list[AuditEvent]],
) -> None:
    administration.limits.set("user", "*", requests_per_minute=60)
    for hours, cost in ((13, 5), (12, 7)):
        at_ms = int((NOON - timedelta(hours=hours)).timestamp() * 1000)
        spend(request_id=f"r{hours}", key_id=key_id, at_ms=at_ms, cost_picodollars=cost)
    n_events = len(happened())
    tokyo = timezone(timedelta(hours=9))
    trial = Trial(key_id, MODEL, 3, 1000, 256, "query", "::1", NOON.astimezone(tokyo), is_emergency=True)
    question = administration.policies.dry_run(trial).tried[0].question
    assert question.caller.subjects == (Subject("key", key_id), Subject("user", question.caller.user_id))
    assert (question.caller.tenant, question.action, question.model) == ("acme", "embedding", MODEL)
    assert (question.n_inputs, question.tokens, question.dim, question.input_type) == (3, 1000, 256, "query")
    assert (question.ip_address, question.is_emergency, question.at) == ("::1", True, NOON)
    assert question.cost_picodollars == 1000 * 20_000
    assert (question.daily_spend_picodollars, question.monthly_spend_picodollars) == (7, 12)
    assert question.requests_per_minute == 60
    administration.limits.set("user", "ann", tokens_per_minute=5)
    plain = administration.policies.dry_run(Trial(key_id, MODEL)).tried[0].question
    assert (plain.requests_per_minute, plain.dim, plain.at) == (None, 1536, NOON)
    assert len(happened()) == n_events + 1


def test_a_dry_run_with_a_key_that_is_stopped_says_so(administration: Administration, key_id: str) -> None:
    administration.keys.expire(key_id, int(NOON.timestamp() * 1000))
    run = administration.policies.dry_run(Trial(key_id, MODEL))
    assert (run.key_state, run.is_permitted) == ("expired", False)
    earlier = administration.policies.dry_run(Trial(key_id, MODEL, at=NOON - timedelta(seconds=1)))
    assert earlier.is_permitted
    administration.keys.expire(key_id, None)
    administration.users.update("ann", is_disabled=True)
    assert administration.policies.dry_run(Trial(key_id, MODEL)).key_state == "disabled"
    administration.keys.revoke(key_id)
    assert administration.policies.dry_run(Trial(key_id, MODEL)).key_state == "revoked"


def test_a_name_that_several_keys_have_is_not_guessed(administration: Administration, key_id: str) -> None:
    administration.keys.rotate(key_id, overlap_s=60)
    assert administration.policies.dry_run(Trial("ci", MODEL)).key.id == key_id
    other = administration.keys.create("ann", "ci")
    with pytest.raises(Conflict, match=", ".join(sorted([key_id, other.record.id]))):
        administration.policies.dry_run(Trial("ci", MODEL))
    assert administration.policies.dry_run(Trial(other.secret, MODEL)).key.id == other.record.id


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"key": "nothing"}, UnknownEntity, "no such key"),
        ({"key": ""}, UnknownEntity, "no such key"),
        ({"key": "\udcff"}, UnknownEntity, "no such key"),
        ({"key": "c"}, UnknownEntity, "no such key"),
        ({"model": "text-embedding-3-smal"}, UnknownModel, f"mean {MODEL}"),
        ({"model": "nothing at all"}, UnknownModel, "List the models"),
        ({"model": f"{MODEL}:voyage"}, ModelNotAtProvider, "openai"),
        ({"dim": 1537}, InvalidDimension, "1537"),
        ({"dim": 8, "model": "gpt-4o"}, InvalidDimension, "no vectors"),
        ({"n_inputs": 0}, InvalidInput, "number of inputs is 0"),
        ({"tokens": -1}, InvalidInput, "number of tokens is -1"),
        ({"at": datetime(2026, 11, 21)}, InvalidInput, "no zone"),  # noqa: DTZ001 - what is refused
        ({"ip_address": "here"}, InvalidInput, "'here' is no IP address"),
    ],
)
def test_a_dry_run_of_nonsense_is_refused(
    administration: Administration, key_id: str, asked: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        administration.policies.dry_run(Trial(**({"key": key_id, "model": MODEL} | asked)))
