"""Every route of the administration API."""

from embedgate.govern import entries, projects, reconcile, roles, usage, users
from embedgate.server.admin import (
    audit,
    budgets,
    cache,
    keys,
    limits,
    logins,
    models,
    policies,
    prices,
    providers,
)
from embedgate.server.admin.route import Table, routes_of

_SUBJECTS = (
    logins,
    keys,
    policies,
    limits,
    budgets,
    prices,
    providers,
    models,
    audit,
    cache,
)

_DECLARED = (users, roles, projects, usage, entries, reconcile)

TABLE = Table(
    [
        *(route for subject in _SUBJECTS for route in subject.ROUTES),
        *(route for subject in _DECLARED for route in routes_of(subject.OPERATIONS)),
    ]
)
