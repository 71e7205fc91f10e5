"""Every route of the administration API."""

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
    projects,
    providers,
    roles,
    usage,
    users,
)
from embedgate.server.admin.route import Table

_SUBJECTS = (
    logins,
    users,
    roles,
    projects,
    keys,
    policies,
    limits,
    budgets,
    prices,
    providers,
    models,
    usage,
    audit,
    cache,
)

TABLE = Table(route for subject in _SUBJECTS for route in subject.ROUTES)
