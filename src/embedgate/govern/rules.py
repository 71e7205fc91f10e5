"""Rules: policies, limits, budgets, prices, stored providers, added and cleared models, aliases, as of one revision.

What a gateway loads and, when the revision has moved on, loads again. Each change of a rule counts the revision up, in
its own transaction (`Change.rules_changed`), so that no revision ever names two states.
"""

import sqlalchemy as sa

from embedgate.core.access import Rules
from embedgate.govern.added_models import read_added
from embedgate.govern.aliases import read_aliases
from embedgate.govern.budgets import read_budgets
from embedgate.govern.cleared_models import read_cleared
from embedgate.govern.limits import read_limits
from embedgate.govern.policies import read_policies
from embedgate.govern.prices import read_prices
from embedgate.govern.providers import read_providers
from embedgate.govern.revision import read_revision


def read_rules(connection: sa.Connection) -> Rules:
    """Every rule, and the revision that they are of."""
    return Rules(
        revision=read_revision(connection),
        policies=read_policies(connection),
        limits=read_limits(connection),
        budgets=read_budgets(connection),
        prices=read_prices(connection),
        providers=read_providers(connection),
        added=read_added(connection),
        cleared=read_cleared(connection),
        aliases=read_aliases(connection),
    )
