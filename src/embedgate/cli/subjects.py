"""Whom a limit or a budget is for: the options that name a key, a user or a project, and how it is shown."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from embedgate.core.access import EVERY, Subject, SubjectKind
from embedgate.core.errors import UnknownEntity

if TYPE_CHECKING:
    from embedgate.administration import Administration

_EACH = "'*' means each one that has none of its own."

User = Annotated[str | None, typer.Option("--user", metavar="NAME", help=f"For this user, by name or id; {_EACH}")]
Project = Annotated[
    str | None, typer.Option("--project", metavar="NAME", help=f"For this project, by name or id; {_EACH}")
]
Key = Annotated[str | None, typer.Option("--key", metavar="ID", help=f"For this key (key_...); {_EACH}")]


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


def found(opened: "Administration", subject: Named) -> Subject:
    """The subject by id. Raises UnknownEntity if there is none."""
    if subject.name == EVERY:
        return Subject(subject.kind, EVERY)
    if subject.kind == "user":
        return Subject("user", opened.users.get(subject.name).id)
    if subject.kind == "project":
        return Subject("project", opened.projects.get(subject.name).id)
    key = opened.keys.get(subject.name)
    return Subject("key", key.replaced_by or key.id)  # an old secret has the rules of its key


def names(opened: "Administration", subjects: Iterable[Subject]) -> dict[Subject, str]:
    """How each is shown: `user alice`, `key key_... (alice, laptop)`, `each project`."""
    return {subject: _shown(opened, subject) for subject in subjects}


def _shown(opened: "Administration", subject: Subject) -> str:
    if subject.id == EVERY:
        return f"each {subject.kind}"
    try:
        if subject.kind == "user":
            return f"user {opened.users.get(subject.id).name}"
        if subject.kind == "project":
            return f"project {opened.projects.get(subject.id).name}"
        key = opened.keys.get(subject.id)
    except UnknownEntity:  # deleted between two looks
        return f"{subject.kind} {subject.id}"
    return f"key {key.id} ({key.user_name}, {key.name})"
