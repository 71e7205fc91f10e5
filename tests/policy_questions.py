"""Questions to ask policies, and a slow, obvious way to answer them."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from typing import Any

import cedarpy
from msgspec import structs

from embedgate.core.access import Caller, Decision, PolicyRecord, Question

FRIDAY_NOON = datetime(2026, 11, 20, 12, 30, 15, 250_000, tzinfo=UTC)
DOLLAR = 1_000_000_000_000

CALLER = Caller(user_id="user_ann", user_name="ann", key_id="key_1", email="ann@example.org")
QUESTION = Question(
    caller=CALLER,
    action="embedding",
    model="openai/text-embedding-3-small",
    model_name="text-embedding-3-small",
    provider="openai",
    space="openai/text-embedding-3-small@1",
    at=FRIDAY_NOON,
)


def ask(*, caller: Mapping[str, Any] | None = None, **changes: Any) -> Question:
    """An unremarkable question on a Friday noon, but for what is given."""
    return structs.replace(QUESTION, caller=replace(CALLER, **(caller or {})), **changes)


def record(text: str, policy_id: str = "p", *, is_enabled: bool = True) -> PolicyRecord:
    """A policy as stored; `text` has no @id yet."""
    return PolicyRecord(policy_id, f'@id("{policy_id}")\n{text}', is_enabled=is_enabled)


def _iso(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03}Z"


def _decimal(picodollars: int) -> dict[str, Any]:
    dollars = (Decimal(picodollars) / DOLLAR).quantize(Decimal("0.0001"), rounding=ROUND_CEILING)
    return {"__extn": {"fn": "decimal", "arg": str(dollars)}}


def context_of(question: Question) -> dict[str, Any]:
    """The whole context in Cedar's JSON form."""
    at = question.at.astimezone(UTC)
    return {
        "day_of_week": at.strftime("%A"),
        "hour": at.hour,
        "ip_address": {"__extn": {"fn": "ip", "arg": question.ip_address}},
        "is_emergency": question.is_emergency,
        "model_name": question.model_name,
        "model_provider": question.provider,
        "request_time": _iso(at),
        "model_id": question.model,
        "space": question.space,
        "input_count": question.n_inputs,
        "input_tokens": question.tokens,
        "input_type": question.input_type,
        "dimensions": question.dim,
        "estimated_cost": _decimal(question.cost_picodollars),
    }


def entities_of(question: Question) -> list[dict[str, Any]]:
    """The key and its user with every attribute, in Cedar's JSON form."""
    caller, today = question.caller, question.at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    limit = question.requests_per_minute
    user: dict[str, Any] = {
        "user_id": caller.user_id,
        "email": caller.email,
        "is_agent": caller.is_agent,
        "limit_requests_per_minute": 10**12 if limit is None else limit,
    }
    if caller.tenant is not None:
        user["tenant"] = caller.tenant
    key = {
        "status": "active",
        "current_daily_spend": _decimal(question.daily_spend_picodollars),
        "current_monthly_spend": _decimal(question.monthly_spend_picodollars),
        "last_daily_reset": _iso(today),
        "last_monthly_reset": _iso(today.replace(day=1)),
        "user": {"__entity": {"type": "User", "id": caller.user_id}},
    }
    roles = [{"type": "Role", "id": role} for role in caller.roles]
    return [
        {"uid": {"type": "UserKey", "id": caller.key_id}, "attrs": key, "parents": []},
        {"uid": {"type": "User", "id": caller.user_id}, "attrs": user, "parents": roles},
    ]


def decide_slowly(policies: Sequence[PolicyRecord], question: Question) -> Decision:
    """The decision without any cleverness: all texts, all attributes, all of it parsed now. Errors are only counted.

    A forbid that fails refuses.
    """
    enabled = [policy for policy in policies if policy.is_enabled]
    result = cedarpy.is_authorized(
        {
            "principal": {"type": "UserKey", "id": question.caller.key_id},
            "action": {"type": "Action", "id": question.action},
            "resource": {"type": "Resource", "id": question.model_name},
            "context": json.dumps(context_of(question)),
        },
        "\n".join(policy.text for policy in enabled),
        json.dumps(entities_of(question)),
    )
    decided = set(result.diagnostics.id_annotations_by_reason.values())
    failed = [enabled[int(re.findall(r"`policy(\d+)`", error)[0])] for error in result.diagnostics.errors]
    refusing = {policy.id for policy in failed if re.search(r"^forbid\b", policy.text, re.MULTILINE)}
    if refusing:
        decided = refusing if result.allowed else refusing | decided
    reasons = tuple(policy.id for policy in policies if policy.id in decided)
    return Decision(result.allowed and not refusing, reasons, ("failed",) * len(result.diagnostics.errors))
