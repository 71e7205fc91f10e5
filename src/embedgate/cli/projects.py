"""`embedgate projects`: what keys can be billed under. Works on the database, with or without a running gateway."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedgate.cli import asking, options
from embedgate.cli.output import print_json, print_table, utc

if TYPE_CHECKING:
    from embedgate.core.access import ProjectRecord

app = typer.Typer(no_args_is_help=True, help="Make, change and delete projects.")

Project = Annotated[str, typer.Argument(metavar="PROJECT", help="Name or id of the project.")]


@app.command("create")
def create_project(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Up to 64 characters.")],
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Make a project, which has no keys yet."""
    with options.administration(context, config_file) as opened:
        project = opened.projects.create(name)
    if as_json:
        print_json(project)
    else:
        typer.echo(f"{project.id}  {project.name}")


@app.command("list")
def list_projects(
    context: typer.Context,
    search: options.Search = "",
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """List projects, oldest first."""
    with options.administration(context, config_file) as opened:
        projects = options.every(opened.projects.list, search)
    if as_json:
        print_json(projects)
        return
    rows = [
        (project.id, project.name, utc(project.created_at_ms), "disabled" if project.is_disabled else "active")
        for project in projects
    ]
    print_table(("id", "name", "created", "state"), rows)


@app.command("update")
def update_project(
    context: typer.Context,
    project: Project,
    name: Annotated[str, typer.Option(metavar="NAME", help="New name.")],
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Give a project another name. Keys and rules stay, since they go by the id."""
    with options.administration(context, config_file) as opened:
        changed = opened.projects.update(project, name=name)
    _tell(changed, f"is the name of {changed.id} now", as_json=as_json)


@app.command("enable")
def enable_project(
    context: typer.Context, project: Project, as_json: options.AsJson = False, config_file: options.ConfigFile = None
) -> None:
    """Let the keys of a disabled project be used again."""
    _set_disabled(context, project, False, as_json=as_json, config_file=config_file)


@app.command("disable")
def disable_project(
    context: typer.Context, project: Project, as_json: options.AsJson = False, config_file: options.ConfigFile = None
) -> None:
    """Refuse the keys of a project, until it is enabled again."""
    _set_disabled(context, project, True, as_json=as_json, config_file=config_file)


@app.command("delete")
def delete_project(
    context: typer.Context,
    project: Project,
    is_agreed: asking.Yes = False,
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Delete a project with its limits and budgets. The ledger keeps what it spent."""
    with options.administration(context, config_file) as opened:
        found = opened.projects.get(project)
        asking.confirm(f"Delete the project {found.name}?", is_agreed=is_agreed)
        opened.projects.delete(found.id)
    _tell(found, "is deleted", as_json=as_json)


def _set_disabled(
    context: typer.Context, project: str, is_disabled: bool, *, as_json: bool, config_file: Path | None
) -> None:
    with options.administration(context, config_file) as opened:
        changed = opened.projects.update(project, is_disabled=is_disabled)
    _tell(changed, "is disabled" if is_disabled else "is enabled", as_json=as_json)


def _tell(project: "ProjectRecord", told: str, *, as_json: bool) -> None:
    if as_json:
        print_json(project)
    else:
        typer.echo(f"{project.name} {told}")
