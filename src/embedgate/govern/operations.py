"""Every operation of administration, in the order of the API description."""

from embedgate.govern import (
    audit,
    budgets,
    cache,
    discovery,
    dry_run,
    entries,
    keys,
    limits,
    logins,
    me,
    model_changes,
    models,
    own_keys,
    policies,
    prices,
    projects,
    providers,
    reconcile,
    roles,
    settle,
    usage,
    users,
)
from embedgate.govern.operation import Declaration

_SUBJECTS = (
    logins,
    me,
    own_keys,
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
    discovery,
    models,
    model_changes,
    usage,
    entries,
    reconcile,
    settle,
    audit,
    cache,
)

OPERATIONS: tuple[Declaration, ...] = tuple(operation for subject in _SUBJECTS for operation in subject.OPERATIONS)
