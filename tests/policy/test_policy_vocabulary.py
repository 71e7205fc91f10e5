"""The words that policies can use are those of the schema, each with a value of the declared type."""

import importlib.resources
import json
import re

import cedarpy
import pytest

from embedgate.policy.check import find_mistakes
from embedgate.policy.decider import CedarDecider
from embedgate.policy.vocabulary import ACTIONS, ATTRIBUTES, ENTITY_TYPES, names_of, schema
from policy_questions import ask, context_of, entities_of, record

QUESTION = ask(caller={"tenant": "red", "roles": ("admin", "reader")}, requests_per_minute=5)
SCHEMA = importlib.resources.files("embedgate.policy").joinpath("schema.cedarschema").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("owner", "declaration"),
    [("context", "type Circumstances"), ("UserKey", "entity UserKey"), ("User", "entity User")],
)
def test_the_schema_declares_the_attributes_that_have_values_and_no_others(owner: str, declaration: str) -> None:
    (block,) = re.findall(rf"^{declaration}\b[^{{]*{{(.*?)^}}", SCHEMA, re.MULTILINE | re.DOTALL)
    assert sorted(re.findall(r"^ +(\w+)\??: ", block, re.MULTILINE)) == list(names_of(owner))


@pytest.mark.parametrize("path", ATTRIBUTES)
def test_every_attribute_can_be_read(path: str) -> None:
    guard = "principal.user has tenant && " if path.endswith(".tenant") else ""
    policy = record(f"permit (principal, action, resource) when {{ {guard}{path} == {path} }};")
    assert find_mistakes(policy.text, "p") == []
    assert CedarDecider([policy]).decide(QUESTION).policies == ("p",)


def test_the_slow_reference_is_what_the_schema_asks_for() -> None:
    entities = cedarpy.Entities.from_json_str(json.dumps(entities_of(QUESTION)), schema())
    request = {
        "principal": 'UserKey::"key_1"',
        "action": 'Action::"embedding"',
        "resource": 'Resource::"b"',
        "context": context_of(QUESTION),
    }
    answer = cedarpy.is_authorized(request, "permit (principal, action, resource);", entities, schema())
    assert answer.allowed


@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_is_in_the_schema(action: str) -> None:
    assert find_mistakes(record(f'permit (principal, action == Action::"{action}", resource);').text) == []


def test_the_schema_has_no_other_action() -> None:
    (names,) = re.findall(r"^action (.*) appliesTo", SCHEMA, re.MULTILINE)
    assert tuple(names.split(", ")) == ACTIONS


@pytest.mark.parametrize("entity_type", ENTITY_TYPES)
def test_every_entity_type_is_in_the_schema(entity_type: str) -> None:
    text = f'permit (principal, action, resource) when {{ [{entity_type}::"a"].contains({entity_type}::"b") }};'
    assert find_mistakes(record(text).text) == []
