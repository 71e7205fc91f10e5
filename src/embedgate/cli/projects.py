"""`embedgate projects`: what keys can be billed under."""

from embedgate.cli.commands import Commands, Form
from embedgate.cli.output import Table, time_of
from embedgate.govern import projects
from embedgate.govern.projects import Project

commands = Commands("Make, change and delete projects.")
app = commands.app


def _state(project: Project) -> str:
    return "disabled" if project.is_disabled else "active"


commands.add(
    "create", projects.create_project, lambda project: f"{project.id}  {project.name}", Form(arguments=("name",))
)
commands.add_list(
    "list",
    projects.list_projects,
    lambda found: Table(
        ("id", "name", "created", "state"),
        [(project.id, project.name, time_of(project.created_at), _state(project)) for project in found],
    ),
)
commands.add(
    "update",
    projects.change_project,
    lambda project: f"{project.name} is the name of {project.id} now",
    Form(hidden=("is_disabled",), is_partial=True),
    "Give a project another name. Keys and rules stay, since they go by the id.",
)
commands.add(
    "enable",
    projects.change_project,
    lambda project: f"{project.name} is enabled",
    Form(hidden=("name",), fixed={"is_disabled": False}),
    "Let the keys of a disabled project in again.",
)
commands.add(
    "disable",
    projects.change_project,
    lambda project: f"{project.name} is disabled",
    Form(hidden=("name",), fixed={"is_disabled": True}),
    "Refuse the keys of a project, until it is enabled again.",
)
commands.add_delete(
    "delete",
    projects.delete_project,
    projects.show_project,
    lambda project: f"Delete the project {project.name}?",
    lambda project: f"{project.name} is deleted",
)
