"""Realistic rules for scenarios: a policy that reads the request, limits, and budgets."""

import time
from pathlib import Path

from embedgate.catalog import Catalog
from embedgate.core.access import EVERY, SubjectKind
from embedgate.govern import budgets, limits, policies
from embedgate.govern.budgets import NewBudget
from embedgate.govern.change import COMMAND_LINE, Invocation
from embedgate.govern.limits import NewLimit
from embedgate.govern.policies import NewPolicy, PolicyChange
from embedgate.govern.resources import Resources
from embedgate.storage.database import open_database
from embedgate.storage.sealing import Sealer

_POLICY = """@id("openai-small-batches")
permit (principal is UserKey, action == Action::"embedding", resource)
when {
    principal.status == "active" && context.model_provider == "openai" &&
    context.input_count <= 2048 && context.hour < 24
};
"""
_FIRST_POLICY_ID = "permit-everything"
_FOLLOWED_WITHIN_S = 2.5
_ONE_MILLION_DOLLARS = "1000000"
_KINDS: tuple[SubjectKind, ...] = ("key", "user")


def put_in_force(folder: Path) -> None:
    """Write the rules into the data folder of a running gateway; return once they are in force. They never refuse."""
    database = open_database(folder)
    try:
        invocation = Invocation(database, Resources("eg", Sealer(folder), Catalog.builtin), COMMAND_LINE)
        policies.create_policy.run(invocation, NewPolicy(_POLICY))
        policies.change_policy.run(invocation, PolicyChange(_FIRST_POLICY_ID, is_enabled=False))
        for kind in _KINDS:
            limits.set_limit.run(invocation, NewLimit(kind, EVERY, 10**9, 10**12, 10_000, 100))
            budgets.set_budget.run(invocation, NewBudget(kind, EVERY, "day", _ONE_MILLION_DOLLARS))
            budgets.set_budget.run(invocation, NewBudget(kind, EVERY, "month", _ONE_MILLION_DOLLARS))
    finally:
        database.close()
    time.sleep(_FOLLOWED_WITHIN_S)
