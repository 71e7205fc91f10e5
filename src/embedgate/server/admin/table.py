"""Every route of the administration API."""

from embedgate.govern import entries, keys, me, projects, reconcile, roles, usage, users
from embedgate.server.admin import (
    audit,
    budgets,
    cache,
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
    policies,
    limits,
    budgets,
    prices,
    providers,
    models,
    audit,
    cache,
)

_DECLARED = (me, users, roles, projects, keys, usage, entries, reconcile)

TABLE = Table(
    [
        *(route for subject in _SUBJECTS for route in subject.ROUTES),
        *(route for subject in _DECLARED for route in routes_of(subject.OPERATIONS)),
    ]
)
