"""Subjects of limits and budgets: an administrator gives a name, rules go by ids."""

from typing import Annotated

from msgspec import Meta

from embedgate.core.access import EVERY, Subject, SubjectKind
from embedgate.govern.change import Reading
from embedgate.govern.keys import find_key
from embedgate.govern.projects import find_project
from embedgate.govern.users import find_user

KindOfSubject = Annotated[SubjectKind, Meta(description="What the rule is for.", examples=["user"])]
SubjectRef = Annotated[
    str,
    Meta(
        description="Name or id of the key, user or project; or `*` for each one of the kind.",
        examples=["alice"],
    ),
]
SubjectId = Annotated[str, Meta(description="Id of the key, user or project; `*` for each without one of its own.")]


def find_subject(reading: Reading, kind: SubjectKind, named: str) -> Subject:
    """The subject of a kind: a key, user or project by name or id, `*` for each of them.

    Raises UnknownEntity if there is none, Conflict if several keys have the name.
    """
    if named == EVERY:
        return Subject(kind, EVERY)
    if kind == "user":
        return Subject(kind, find_user(reading, named).id)
    if kind == "project":
        return Subject(kind, find_project(reading, named).id)
    key = find_key(reading, named)
    return Subject(kind, key.replaced_by or key.id)  # an old secret has the limits of its key
