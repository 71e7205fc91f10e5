"""Validation of a policy before it is saved: syntax, `@id`, and every name against the schema.

Evaluation is in `decider`.
"""

import re
from collections.abc import Callable

import cedarpy

from embedgate.core.access import PolicyMistake
from embedgate.policy.lexer import annotations, line_and_column, read_lexemes
from embedgate.policy.place import place_of
from embedgate.policy.syntax import find_syntax_mistake, policy_id
from embedgate.policy.vocabulary import ACTIONS, ENTITY_TYPES, names_of, schema

MAX_ID_CHARACTERS = 128

# Cedar reports the same mistake once for each action; it is shown once.
_PER_POLICY = re.compile(r"^for policy `policy0`, | for Action::\"\w+\"")
_CONSEQUENCE = "unable to find an applicable action given the policy scope constraints"


def find_mistakes(text: str, expected_id: str | None = None) -> list[PolicyMistake]:
    """All mistakes in the text of a policy, in its order; empty if it can be saved.

    expected_id: the record's id, which `@id` must repeat; None accepts any. Safe for any text.
    """
    syntax_mistake = find_syntax_mistake(text)
    if syntax_mistake is not None:
        return [syntax_mistake]
    found = [*_id_mistakes(text, expected_id), *_schema_mistakes(text)]
    return sorted(found, key=lambda mistake: (mistake.line or 0, mistake.column or 0, mistake.message))


def _id_mistakes(text: str, expected_id: str | None) -> list[PolicyMistake]:
    lexemes, _ = read_lexemes(text)
    places = [(value or name).start for name, value, _ in annotations(lexemes) if name.text == "id"]
    line, column = line_and_column(text, places[0] if places else lexemes[0].start)
    found = policy_id(text)
    if found is None:
        example = expected_id or "the-policys-name"
        return [PolicyMistake(f'the policy has no id; begin it with @id("{example}")', line, column)]
    if not found or not found.isprintable() or "\\" in found or len(found) > MAX_ID_CHARACTERS:
        message = f"@id has {len(found)} characters; allowed are 1 to {MAX_ID_CHARACTERS}, printable, no backslash"
        return [PolicyMistake(message, line, column)]
    if expected_id is not None and found != expected_id:
        message = f'@id is "{found}", but the policy is saved as "{expected_id}"; make them the same'
        return [PolicyMistake(message, line, column)]
    return []


def _schema_mistakes(text: str) -> list[PolicyMistake]:
    lexemes, _ = read_lexemes(text)
    messages = _schema_messages(text)
    if any(message.startswith("unrecognized") for message in messages):
        messages.discard(_CONSEQUENCE)
    return [
        PolicyMistake(
            f"{message}{_next_step(message)}",
            *line_and_column(text, place_of(message, text, lexemes, _schema_messages)),
        )
        for message in messages
    ]


def _schema_messages(text: str) -> set[str]:
    return {_PER_POLICY.sub("", each.error) for each in cedarpy.validate_policies(text, schema()).errors}


_NEXT_STEPS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"^attribute `.*` in context not found$"), lambda _: f"context has {', '.join(names_of('context'))}"),
    (re.compile(r"^attribute `.*` on entity type `(\w+)` not found$"), lambda m: _what_it_has(m[1])),
    (re.compile(r"optional attribute `(\w+)` on entity type `User`"), lambda m: f"ask `has {m[1]} &&` first"),
    (re.compile(r"^unrecognized entity type"), lambda _: f"there are {', '.join(ENTITY_TYPES)}"),
    (re.compile(r"^unrecognized action"), lambda _: f"there are {', '.join(ACTIONS)}"),
    (re.compile(r"expected Long but saw decimal"), lambda _: 'compare decimals with `.lessThan(decimal("100.0"))`'),
    (re.compile(rf"^{_CONSEQUENCE}$"), lambda _: "the principal is a UserKey and the resource a Resource"),
)


def _next_step(message: str) -> str:
    for pattern, advise in _NEXT_STEPS:
        match = pattern.search(message)
        if match:
            return f"; {advise(match)}"
    return ""


def _what_it_has(entity_type: str) -> str:
    return f"{entity_type} has {', '.join(names_of(entity_type)) or 'no attributes'}"
