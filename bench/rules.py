"""Realistic rules for scenarios: a policy that reads the request, limits, and budgets."""

import time
from pathlib import Path

from embedgate.core.access import EVERY, BudgetRule, LimitRule, Subject
from embedgate.storage.database import open_database
from embedgate.storage.limits import SqlLimits
from embedgate.storage.policies import SqlPolicies

_POLICY = """@id("openai-small-batches")
permit (principal is UserKey, action == Action::"embedding", resource)
when {
    principal.status == "active" && context.model_provider == "openai" &&
    context.input_count <= 2048 && context.hour < 24
};
"""
_FIRST_POLICY_ID = "permit-everything"
_FOLLOWED_WITHIN_S = 2.5
_ONE_MILLION_DOLLARS = 10**18


def put_in_force(folder: Path) -> None:
    """Write the rules into the data folder of a running gateway; return once they are in force. They never refuse."""
    database = open_database(folder)
    try:
        policies, limits = SqlPolicies(database), SqlLimits(database)
        policies.create("openai-small-batches", _POLICY)
        policies.update(_FIRST_POLICY_ID, is_enabled=False)
        for subject in (Subject("key", EVERY), Subject("user", EVERY)):
            limits.set_limit(LimitRule(subject, 10**9, 10**12, 10_000, 100))
            limits.set_budget(BudgetRule(subject, "day", _ONE_MILLION_DOLLARS))
            limits.set_budget(BudgetRule(subject, "month", _ONE_MILLION_DOLLARS))
    finally:
        database.close()
    time.sleep(_FOLLOWED_WITHIN_S)
