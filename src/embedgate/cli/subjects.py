"""Subjects of limits and budgets: the options that name a key, a user or a project, and how it is shown."""

from collections.abc import Iterable
from typing import Annotated, NamedTuple

import typer

from embedgate.cli.commands import Session
from embedgate.core.access import EVERY, Subject, SubjectKind
from embedgate.govern.keys import WhichKey, show_key
from embedgate.govern.projects import WhichProject, show_project
from embedgate.govern.users import WhichUser, show_user

_EACH = "'*' means each one that has none of its own."

User = Annotated[str | None, typer.Option("--user", metavar="NAME", help=f"For this user, by name or id; {_EACH}")]
Project = Annotated[
    str | None, typer.Option("--project", metavar="NAME", help=f"For this project, by name or id; {_EACH}")
]
Key = Annotated[str | None, typer.Option("--key", metavar="NAME", help=f"For this key, by name or id; {_EACH}")]


class Named(NamedTuple):
    """A subject as it was typed: its kind, and a name, an id or `*`."""

    kind: SubjectKind
    name: str


def named(user: str | None, project: str | None, key: str | None) -> Named:
    """The one subject that was given. Fails if there is none, or several."""
    kinds: dict[SubjectKind, str | None] = {"user": user, "project": project, "key": key}
    found = [Named(kind, name) for kind, name in kinds.items() if name is not None]
    if len(found) != 1:
        raise typer.BadParameter(f"give one of --user, --project and --key; {len(found)} are there")
    return found[0]


def find(session: Session, subject: Named) -> Subject:
    """The subject by id. Raises UnknownEntity if there is none."""
    kind, name = subject
    if name == EVERY:
        return Subject(kind, EVERY)
    if kind == "user":
        return Subject(kind, session.call(show_user, WhichUser(name)).id)
    if kind == "project":
        return Subject(kind, session.call(show_project, WhichProject(name)).id)
    key = session.call(show_key, WhichKey(name))
    return Subject(kind, key.replaced_by or key.id)  # an old secret has the rules of its key


def names(session: Session, subjects: Iterable[Subject]) -> dict[Subject, str]:
    """How each is shown: `user alice`, `key key_... (alice, laptop)`, `each project`."""
    return {subject: _shown(session, subject) for subject in dict.fromkeys(subjects)}


def _shown(session: Session, subject: Subject) -> str:
    kind, subject_id = subject.kind, subject.id
    if subject_id == EVERY:
        return f"each {kind}"
    if kind == "user":
        user = session.find(show_user, WhichUser(subject_id))
        shown = None if user is None else f"user {user.name}"
    elif kind == "project":
        project = session.find(show_project, WhichProject(subject_id))
        shown = None if project is None else f"project {project.name}"
    else:
        key = session.find(show_key, WhichKey(subject_id))
        shown = None if key is None else f"key {key.id} ({key.user_name}, {key.name})"
    return shown or f"{kind} {subject_id}"  # deleted between two looks
