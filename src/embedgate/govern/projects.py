"""Projects: what keys can be billed under."""

import re
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
import sqlalchemy as sa
from msgspec import Meta, Struct
from sqlalchemy.exc import IntegrityError

from embedgate.core.errors import Conflict, InvalidInput, UnknownEntity
from embedgate.govern.change import Change, Reading, differences
from embedgate.govern.fields import check_name, findable, new_id
from embedgate.govern.lists import Listed, Listing, ListQuery, read_page
from embedgate.govern.near_names import near_name
from embedgate.govern.operation import Facts, changes, reads
from embedgate.govern.orphans import drop_rules_of
from embedgate.govern.values import Moment, moment
from embedgate.storage import schema

ProjectRef = Annotated[str, Meta(description="Name or id of the project.", examples=["search"])]

_ID = re.compile(r"project_[0-9a-f]{16}")
_TABLE = schema.projects
_LISTING = Listing(
    fields={
        "created_at": _TABLE.c.created_at_ms,
        "name": sa.func.lower(_TABLE.c.name),
        "is_disabled": _TABLE.c.is_disabled,
    },
    unique=_TABLE.c.id,
    searched=(_TABLE.c.name, _TABLE.c.id),
)


class Project(Struct, frozen=True):
    """A project: what keys can be billed under."""

    id: str
    name: str
    is_disabled: Annotated[bool, Meta(description="Whether its keys are refused.")]
    created_at: Moment


class NewProject(Struct, forbid_unknown_fields=True):
    """A project to be made."""

    name: Annotated[str, Meta(description="Up to 64 characters.")]


class ProjectChange(Struct, forbid_unknown_fields=True):
    """The fields to change; those that are absent or null stay."""

    project: ProjectRef
    name: Annotated[str | None, Meta(description="New name.")] = None
    is_disabled: bool | None = None


class ProjectQuery(ListQuery):
    """Which projects."""

    sort: Annotated[str, _LISTING.sorts] = ""


class WhichProject(Struct, forbid_unknown_fields=True):
    """A project."""

    project: ProjectRef


@reads("projects.list", "GET", "/api/projects", Facts("listProjects"))
def list_projects(reading: Reading, query: ProjectQuery) -> Listed[Project]:
    """List the projects."""
    return read_page(reading, _TABLE.select(), _LISTING, query, _projects)


@changes("projects.create", "POST", "/api/projects", Facts("createProject", status=201, example={"name": "search"}))
def create_project(change: Change, new: NewProject) -> Project:
    """Add a project."""
    _check_name(new.name)
    project = Project(new_id("project"), new.name, is_disabled=False, created_at=moment(change.now_ms))
    row = {"id": project.id, "name": new.name, "is_disabled": False, "created_at_ms": change.now_ms}
    try:
        change.connection.execute(_TABLE.insert().values(row))
    except IntegrityError as error:
        raise _taken(new.name) from error
    change.note("projects.create", project.id, name=project.name)
    return project


@reads("projects.show", "GET", "/api/projects/{project}", Facts("showProject"))
def show_project(reading: Reading, which: WhichProject) -> Project:
    """Show a project."""
    return find_project(reading, which.project)


@changes("projects.update", "PATCH", "/api/projects/{project}", Facts("changeProject", example={"is_disabled": True}))
def change_project(change: Change, wanted: ProjectChange) -> Project:
    """Change a project.

    The keys of a disabled project are refused until it is enabled again.
    """
    before = find_project(change, wanted.project)
    after = msgspec.structs.replace(
        before,
        name=before.name if wanted.name is None else wanted.name,
        is_disabled=before.is_disabled if wanted.is_disabled is None else wanted.is_disabled,
    )
    if wanted.name is not None:
        _check_name(wanted.name)
    changed = _TABLE.update().where(_TABLE.c.id == after.id)
    try:
        change.connection.execute(changed.values(name=after.name, is_disabled=after.is_disabled))
    except IntegrityError as error:
        raise _taken(after.name) from error
    change.touched.projects.add(after.id)
    change.note("projects.update", after.id, **differences(before, after))
    return after


@changes("projects.delete", "DELETE", "/api/projects/{project}", Facts("deleteProject"))
def delete_project(change: Change, which: WhichProject) -> None:
    """Delete a project.

    Only once all keys that are billed under it are revoked.
    """
    keys = schema.keys
    found = find_project(change, which.project)
    in_use = (keys.c.project_id == found.id) & keys.c.revoked_at_ms.is_(None)
    n_keys = change.connection.execute(sa.select(sa.func.count()).where(in_use)).scalar_one()
    if n_keys:
        raise Conflict(
            f"The project {found.name!r} has {n_keys} keys that are not revoked. Revoke or delete them first, "
            "or disable the project."
        )
    drop_rules_of(change, "project", found.id)
    change.connection.execute(_TABLE.delete().where(_TABLE.c.id == found.id))
    change.touched.projects.add(found.id)
    change.note("projects.delete", found.id, name=found.name)


def find_project(reading: Reading, name_or_id: str) -> Project:
    """The project of a name or an id. Raises UnknownEntity."""
    given = findable(name_or_id)
    is_meant = sa.or_(_TABLE.c.id == given, _TABLE.c.name == given)
    found = _projects(reading.connection.execute(_TABLE.select().where(is_meant)))
    if not found:
        raise UnknownEntity(
            f"There is no project {name_or_id!r}. {near_name(reading, _TABLE.c.name, name_or_id)}List the projects to "
            "see their names and ids.",
            param="project",
        )
    return found[0]


def _projects(rows: Iterable[sa.Row[Any]]) -> list[Project]:
    return [Project(row.id, row.name, row.is_disabled, moment(row.created_at_ms)) for row in rows]


def _check_name(name: str) -> None:
    check_name(name, "project name")
    if _ID.fullmatch(name):
        raise InvalidInput(f"The project name {name!r} has the form of an id. Choose another name.", param="name")


def _taken(name: str) -> Conflict:
    return Conflict(f"There is already a project named {name!r}. Choose another name.", param="name")


OPERATIONS = (list_projects, create_project, show_project, change_project, delete_project)
