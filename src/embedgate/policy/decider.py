"""Policy decider: evaluates the enabled policies, compiled once, and caches decisions.

Validation of texts and the values of attributes are elsewhere. No clock, no storage: a decision
depends on the question only.
"""

import functools
import operator
import re
from collections.abc import Collection, Mapping, Sequence

import cedarpy

from embedgate.core.access import Decision, PolicyRecord, Question
from embedgate.policy.reads import PolicyAnalysis, analyse
from embedgate.policy.syntax import effect_of, find_syntax_mistake
from embedgate.policy.vocabulary import ATTRIBUTES, Owner, Value

_Identity = tuple[str, str, tuple[str, ...], str, str]
_Attributes = Mapping[Owner, dict[str, object]]

_identity_of = operator.attrgetter("caller.key_id", "caller.user_id", "caller.roles", "action", "model_name")
_REQUEST_TIME = "context.request_time"
_EVALUATION_ERROR = re.compile(r"error while evaluating policy `policy(\d+)`: ")


class CedarDecider:
    """The policies of one revision, as core.ports.PolicyDecider. Thread-safe.

    A permit that fails to evaluate does not apply; a forbid that fails refuses, since it might have applied. Both are
    named in the decision's errors. A policy that cannot be parsed could be a forbid: then everything is denied, and
    the errors name the policy to repair.
    """

    def __init__(self, policies: Sequence[PolicyRecord], *, max_cached: int = 4096) -> None:
        """policies: disabled ones are left out. max_cached: size of the LRU cache of decisions."""
        enabled = [policy for policy in policies if policy.is_enabled]
        self._ids = tuple(policy.id for policy in enabled)
        self._is_forbid: tuple[bool, ...] = ()
        self._policy_set = cedarpy.PolicySet.from_str("")
        analyses: list[PolicyAnalysis] = []
        self.constant = _deny_if_unreadable(enabled)
        if self.constant is None:
            # Cedar numbers policies in the order of the text: the i-th is the i-th record.
            self._policy_set = cedarpy.PolicySet.from_str("\n".join(policy.text for policy in enabled))
            analyses = [analyse(policy.text) for policy in enabled]
            self._is_forbid = tuple(effect_of(policy.text) == "forbid" for policy in enabled)
            self.constant = _constant_decision(self._ids, analyses)
        self.reads = frozenset[str]().union(*(analysis.reads for analysis in analyses))
        """The attributes that decisions depend on, such as `context.hour`."""
        reads = sorted(self.reads)
        self._attributes = [ATTRIBUTES[path] for path in reads]
        self._readers = [attribute.read for attribute in self._attributes]
        # Decisions that depend on a value that differs for each request are not cached.
        self._answer = self._ask if _REQUEST_TIME in reads else functools.lru_cache(max_cached)(self._ask)

    def decide(self, question: Question) -> Decision:
        """Deny unless a policy permits and none forbids; names the policies that decided. Never raises."""
        if self.constant is not None:
            return self.constant
        return self._answer(_identity_of(question), tuple([read(question) for read in self._readers]))

    def _ask(self, identity: _Identity, values: tuple[Value, ...]) -> Decision:
        """Evaluate with Cedar. Depends on the arguments only, so that the result can be cached."""
        try:
            attributes = self._encode(values)
            result = cedarpy.is_authorized(
                _request(identity, attributes), self._policy_set, _entities(identity, attributes)
            )
        except ValueError as error:
            return Decision(False, errors=(f"no policy could be asked: {error}",))
        failed = frozenset(map(_number, result.diagnostics.errors))
        errors = tuple(sorted(self._name(each) for each in result.diagnostics.errors))
        if result.decision is cedarpy.Decision.NoDecision:
            return Decision(False, errors=errors or ("no policy could be asked: Cedar did not decide",))
        if None in failed:  # it is not known which, so it may be a forbid
            return Decision(False, errors=errors)
        deciding = {index for index in range(len(self._ids)) if f"policy{index}" in result.diagnostics.reasons}
        refusing = {index for index in failed if index is not None and self._is_forbid[index]}
        if refusing:
            deciding = refusing if result.allowed else refusing | deciding
        return Decision(
            result.allowed and not refusing, self._names(deciding), errors, failed_forbids=self._names(refusing)
        )

    def _encode(self, values: tuple[Value, ...]) -> _Attributes:
        found: _Attributes = {"context": {}, "UserKey": {}, "User": {}}
        for attribute, value in zip(self._attributes, values, strict=True):
            if value is not None:
                found[attribute.owner][attribute.name] = attribute.encode(value)
        return found

    def _name(self, error: str) -> str:
        """Cedar's message with the policy's id in place of its number, and what follows from it."""
        number = _number(error)
        if number is None:
            return error
        consequence = "could not be evaluated and refuses" if self._is_forbid[number] else "does not apply"
        return _EVALUATION_ERROR.sub(lambda _: f'policy "{self._ids[number]}" {consequence}: ', error)

    def _names(self, indexes: Collection[int]) -> tuple[str, ...]:
        return tuple(self._ids[index] for index in sorted(indexes))


def _number(error: str) -> int | None:
    """The number of the policy that an error is about."""
    match = _EVALUATION_ERROR.match(error)
    return int(match[1]) if match else None


def _deny_if_unreadable(policies: Sequence[PolicyRecord]) -> Decision | None:
    mistakes = [(policy.id, find_syntax_mistake(policy.text)) for policy in policies]
    errors = tuple(
        f'policy "{name}" cannot be read, so every request is denied; repair it or switch it off: {mistake}'
        for name, mistake in mistakes
        if mistake is not None
    )
    return Decision(False, errors=errors) if errors else None


def _constant_decision(ids: Sequence[str], analyses: Sequence[PolicyAnalysis]) -> Decision | None:
    """The decision on every question if no policy has a condition, such as one that permits everything; else None."""
    if any(analysis.effect is None for analysis in analyses):
        return None
    by_effect = {
        effect: tuple(name for name, analysis in zip(ids, analyses, strict=True) if analysis.effect == effect)
        for effect in ("permit", "forbid")
    }
    return Decision(not by_effect["forbid"] and bool(by_effect["permit"]), by_effect["forbid"] or by_effect["permit"])


def _uid(entity_type: str, name: str) -> dict[str, str]:
    return {"type": entity_type, "id": name}


def _request(identity: _Identity, attributes: _Attributes) -> dict[str, object]:
    key_id, _, _, action, model_name = identity
    return {
        "principal": _uid("UserKey", key_id),
        "action": _uid("Action", action),
        "resource": _uid("Resource", model_name),
        "context": attributes["context"],
    }


def _entities(identity: _Identity, attributes: _Attributes) -> list[dict[str, object]]:
    key_id, user_id, roles, _, _ = identity
    link = {"user": {"__entity": _uid("User", user_id)}}
    return [
        {"uid": _uid("UserKey", key_id), "attrs": attributes["UserKey"] | link, "parents": []},
        {
            "uid": _uid("User", user_id),
            "attrs": attributes["User"],
            "parents": [_uid("Role", role) for role in roles],
        },
    ]
