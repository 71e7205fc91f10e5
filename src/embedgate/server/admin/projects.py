"""Routes for projects: what keys can be billed under."""

from typing import Annotated

from msgspec import Meta, Struct

from embedgate.core.access import ProjectRecord
from embedgate.server.admin.route import Asked, Route
from embedgate.server.admin.wire import Listed, ListQuery, Moment, listed, moment, sorts


class Project(Struct, frozen=True):
    """A project: what keys can be billed under."""

    id: str
    name: str
    is_disabled: Annotated[bool, Meta(description="Whether its keys are refused.")]
    created_at: Moment


class NewProject(Struct, forbid_unknown_fields=True):
    """A project to be made."""

    name: str


class ProjectChange(Struct, forbid_unknown_fields=True):
    """What is to be different; what is absent or null stays."""

    name: str | None = None
    is_disabled: bool | None = None


class ProjectQuery(ListQuery):
    """Which projects."""

    sort: Annotated[str, sorts("created_at", "name", "is_disabled")] = ""


def _project(record: ProjectRecord) -> Project:
    return Project(record.id, record.name, record.is_disabled, moment(record.created_at_ms))


def _list_projects(asked: Asked) -> Listed:
    return listed(asked.administration.projects.list(asked.query.page), asked.query, _project)


def _show_project(asked: Asked) -> Project:
    return _project(asked.administration.projects.get(asked.path["project"]))


def _create_project(asked: Asked) -> Project:
    return _project(asked.administration.projects.create(asked.body.name))


def _change_project(asked: Asked) -> Project:
    change: ProjectChange = asked.body
    return _project(
        asked.administration.projects.update(asked.path["project"], name=change.name, is_disabled=change.is_disabled)
    )


def _delete_project(asked: Asked) -> None:
    asked.administration.projects.delete(asked.path["project"])


_PROJECT = "/api/projects/{project}"

ROUTES = (
    Route(
        "GET",
        "/api/projects",
        "listProjects",
        "List the projects",
        _list_projects,
        Project,
        query=ProjectQuery,
        is_list=True,
    ),
    Route(
        "POST",
        "/api/projects",
        "createProject",
        "Add a project",
        _create_project,
        Project,
        body=NewProject,
        example={"name": "search"},
        status=201,
    ),
    Route("GET", _PROJECT, "showProject", "Show a project", _show_project, Project),
    Route(
        "PATCH",
        _PROJECT,
        "changeProject",
        "Change a project",
        _change_project,
        Project,
        "The keys of a disabled project are refused until it is enabled again.",
        body=ProjectChange,
        example={"is_disabled": True},
        is_change=True,
    ),
    Route(
        "DELETE",
        _PROJECT,
        "deleteProject",
        "Delete a project",
        _delete_project,
        None,
        "Only once all keys that are billed under it are revoked.",
        is_change=True,
    ),
)
