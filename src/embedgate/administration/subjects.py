"""Whom a limit or a budget is for: an administrator gives a name, rules go by ids."""

from typing import get_args

from embedgate.administration.stores import Stores
from embedgate.core.access import EVERY, Subject, SubjectKind
from embedgate.core.errors import InvalidInput


def find_subject(stores: Stores, kind: SubjectKind, named: str) -> Subject:
    """The subject of a kind: a user or project by name or id, a key by id or the whole key, `*` for each of them.

    Raises UnknownEntity if there is none, InvalidInput for an unknown kind.
    """
    if kind not in get_args(SubjectKind):
        kinds = ", ".join(get_args(SubjectKind))
        raise InvalidInput(f"The kind of subject is {kind!r}; it must be one of {kinds}.", param="subject")
    if named == EVERY:
        return Subject(kind, EVERY)
    if kind == "user":
        return Subject(kind, stores.users.get(named).id)
    if kind == "project":
        return Subject(kind, stores.projects.get(named).id)
    key = stores.keys.get(named)
    return Subject(kind, key.replaced_by or key.id)  # an old secret has the limits of its key
