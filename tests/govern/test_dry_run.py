"""Dry run: what the policies say is told without a request, and they are asked what a true request would ask."""

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest

from embedgate.core.access import Question, Subject
from embedgate.core.errors import (
    Conflict,
    InvalidDimension,
    InvalidInput,
    MalformedRequest,
    ModelNotAtProvider,
    UnknownEntity,
    UnknownModel,
)
from embedgate.govern import dry_run, keys, limits, policies, users
from embedgate.govern.dry_run import DryRunOf, Judged, judge
from embedgate.govern.keys import KeyChange, KeyToMake, Rotation, WhichKey
from embedgate.govern.limits import NewLimit
from embedgate.govern.operation import Given
from embedgate.govern.policies import NewPolicy, PolicyChange
from embedgate.govern.users import NewUser, UserChange
from governing import Governing

PERMIT_ALL = "permit-everything"
FORBID = '@id("p")\nforbid (principal, action, resource);\n'
MODEL = "openai/text-embedding-3-small"
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def key_id(call: Governing) -> str:
    """A key of `ann` named `ci`."""
    call(users.create_user, NewUser("ann", tenant="acme"))
    return call(keys.create_key, KeyToMake("ann", "ci")).key.id


def said_of(judged: Judged) -> dict[str, tuple[bool, tuple[str, ...]]]:
    """Whether each provider is permitted, and by which policies."""
    return {verdict.provider: (verdict.is_permitted, verdict.policies) for verdict in judged.providers}


def first_question(call: Governing, wanted: DryRunOf) -> Question:
    """What the policies are asked for the first provider."""
    with call.invocation().read() as reading:
        return dry_run.questions(reading, dry_run.find_request(reading, wanted))[0]


def test_a_dry_run_says_what_each_provider_would_be_permitted_and_why(call: Governing, key_id: str) -> None:
    no_azure = '@id("no-azure")\nforbid (principal, action, resource) when {context.model_provider == "azure"};'
    call(policies.create_policy, NewPolicy(no_azure))
    call(policies.create_policy, NewPolicy(FORBID, is_enabled=False))
    judged = call(judge, DryRunOf("ci", "text-embedding-3-small"))
    assert (judged.key.id, judged.key.state, judged.model, judged.is_permitted) == (key_id, "active", MODEL, True)
    said = said_of(judged)
    assert said["azure"] == (False, ("no-azure",))
    assert said["openai"] == (True, (PERMIT_ALL,))
    pinned = call(judge, DryRunOf(key_id, f"{MODEL}:azure"))
    assert list(said_of(pinned)) == ["azure"]
    assert not pinned.is_permitted
    call(policies.change_policy, PolicyChange("p", is_enabled=True))
    assert not call(judge, DryRunOf(key_id, MODEL)).is_permitted
    assert not call(judge, DryRunOf(key_id, "gpt-4o")).is_permitted


def test_a_dry_run_of_a_model_that_orders_documents_asks_of_that_and_counts_searches(
    call: Governing, key_id: str
) -> None:
    wanted = DryRunOf(key_id, "cohere/rerank-v3.5", n_inputs=101, tokens=10_000)
    question = first_question(call, wanted)
    assert (question.action, question.dim) == ("rerank", 0)
    assert question.cost_picodollars == 2 * 2_000_000_000
    assert [verdict.cost_usd for verdict in call(judge, wanted).providers] == ["0.004"]


def test_a_dry_run_asks_what_a_true_request_would_ask(
    call: Governing,
    key_id: str,
    spend: Callable[..., None],
) -> None:
    call(limits.set_limit, NewLimit("user", "*", requests_per_minute=60))
    for hours, cost in ((13, 5), (12, 7)):
        at_ms = int((NOON - timedelta(hours=hours)).timestamp() * 1000)
        spend(request_id=f"r{hours}", key_id=key_id, at_ms=at_ms, cost_picodollars=cost)
    n_events = len(call.events())
    tokyo = timezone(timedelta(hours=9))
    wanted = DryRunOf(key_id, MODEL, 3, 1000, 256, "query", "::1", NOON.astimezone(tokyo), is_emergency=True)
    question = first_question(call, wanted)
    assert question.caller.subjects == (Subject("key", key_id), Subject("user", question.caller.user_id))
    assert (question.caller.tenant, question.action, question.model) == ("acme", "embedding", MODEL)
    assert (question.n_inputs, question.tokens, question.dim, question.input_type) == (3, 1000, 256, "query")
    assert (question.ip_address, question.is_emergency, question.at) == ("::1", True, NOON)
    assert question.cost_picodollars == 1000 * 20_000
    assert (question.daily_spend_picodollars, question.monthly_spend_picodollars) == (7, 12)
    assert question.requests_per_minute == 60
    call(judge, wanted)
    assert len(call.events()) == n_events
    call(limits.set_limit, NewLimit("user", "ann", tokens_per_minute=5))
    plain = first_question(call, DryRunOf(key_id, MODEL))
    assert (plain.requests_per_minute, plain.dim, plain.at, plain.is_emergency) == (None, 1536, NOON, False)


def test_an_emergency_is_what_the_settings_say_if_nobody_says_otherwise(call: Governing, key_id: str) -> None:
    in_emergency = dataclasses.replace(call, resources=dataclasses.replace(call.resources, is_emergency=True))
    assert first_question(in_emergency, DryRunOf(key_id, MODEL)).is_emergency
    assert not first_question(in_emergency, DryRunOf(key_id, MODEL, is_emergency=False)).is_emergency


def test_a_dry_run_with_a_key_that_is_stopped_says_so(call: Governing, key_id: str) -> None:
    call(keys.change_key, KeyChange(key_id, expires_at=NOON))
    judged = call(judge, DryRunOf(key_id, MODEL))
    assert (judged.key.state, judged.is_permitted) == ("expired", False)
    earlier = call(judge, DryRunOf(key_id, MODEL, at=NOON - timedelta(seconds=1)))
    assert (earlier.key.state, earlier.is_permitted) == ("active", True)
    call(keys.change_key, KeyChange(key_id, expires_at=None))
    call(users.change_user, UserChange("ann", is_disabled=True))
    assert call(judge, DryRunOf(key_id, MODEL)).key.state == "disabled"
    call(keys.revoke_key, WhichKey(key_id))
    assert call(judge, DryRunOf(key_id, MODEL)).key.state == "revoked"


def test_a_name_that_several_keys_have_is_not_guessed(call: Governing, key_id: str) -> None:
    call(keys.rotate_key, Rotation(key_id, overlap_s=60))
    assert call(judge, DryRunOf("ci", MODEL)).key.id == key_id
    other = call(keys.create_key, KeyToMake("ann", "ci"))
    with pytest.raises(Conflict, match=", ".join(sorted([key_id, other.key.id]))):
        call(judge, DryRunOf("ci", MODEL))
    assert call(judge, DryRunOf(other.secret, MODEL)).key.id == other.key.id


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
        ({"ip_address": "here"}, InvalidInput, "'here' is no IP address"),
    ],
)
def test_a_dry_run_of_nonsense_is_refused(
    call: Governing, key_id: str, asked: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        call(judge, DryRunOf(**({"key": key_id, "model": MODEL} | asked)))


def test_a_time_without_a_zone_is_refused(call: Governing, key_id: str) -> None:
    body = msgspec.json.encode({"key": key_id, "model": MODEL, "at": "2026-11-21T00:00:00"})
    with pytest.raises(MalformedRequest, match="timezone"):
        judge.answer(call.invocation(), Given({}, b"", body))
