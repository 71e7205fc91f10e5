"""Every route of the administration API."""

from embedgate.govern import cache, entries, keys, me, models, projects, providers, reconcile, roles, usage, users
from embedgate.server.admin import (
    audit,
    budgets,
    limits,
    logins,
    policies,
    prices,
)
from embedgate.server.admin.route import Table, routes_of

_SUBJECTS = (
    logins,
    policies,
    limits,
    budgets,
    prices,
    audit,
)

_DECLARED = (me, users, roles, projects, keys, providers, models, usage, entries, reconcile, cache)

TABLE = Table(
    [
        *(route for subject in _SUBJECTS for route in subject.ROUTES),
        *(route for subject in _DECLARED for route in routes_of(subject.OPERATIONS)),
    ]
)
