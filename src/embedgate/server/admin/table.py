"""Every route of the administration API."""

from embedgate.govern import (
    budgets,
    cache,
    dry_run,
    entries,
    keys,
    limits,
    logins,
    me,
    models,
    policies,
    prices,
    projects,
    providers,
    reconcile,
    roles,
    usage,
    users,
)
from embedgate.server.admin import audit
from embedgate.server.admin.route import Table, routes_of

_SUBJECTS = (audit,)
_DECLARED = (
    logins,
    me,
    users,
    roles,
    projects,
    keys,
    policies,
    dry_run,
    limits,
    budgets,
    prices,
    providers,
    models,
    usage,
    entries,
    reconcile,
    cache,
)

TABLE = Table(
    [
        *(route for subject in _SUBJECTS for route in subject.ROUTES),
        *(route for subject in _DECLARED for route in routes_of(subject.OPERATIONS)),
    ]
)
