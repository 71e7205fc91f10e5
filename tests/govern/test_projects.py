"""Projects: made, renamed, switched, deleted; each change leaves its event and touches what it changed."""

import pytest

from embedgate.core.errors import Conflict, InvalidInput, UnknownEntity
from embedgate.govern import projects
from embedgate.govern.projects import NewProject, ProjectChange, ProjectQuery, WhichProject
from governing import Governing


def test_a_project_is_found_by_name_and_by_id(call: Governing) -> None:
    made = call(projects.create_project, NewProject("search"))
    assert call(projects.show_project, WhichProject("search")) == made
    assert call(projects.show_project, WhichProject(made.id)) == made


def test_names_are_unique_and_no_ids(call: Governing) -> None:
    made = call(projects.create_project, NewProject("search"))
    call(projects.create_project, NewProject("find"))
    with pytest.raises(Conflict, match="already a project named 'search'"):
        call(projects.create_project, NewProject("search"))
    with pytest.raises(Conflict, match="already a project named 'search'"):
        call(projects.change_project, ProjectChange("find", name="search"))
    with pytest.raises(InvalidInput, match="form of an id"):
        call(projects.create_project, NewProject(made.id))


def test_a_change_touches_the_project_and_no_rules(call: Governing) -> None:
    made = call(projects.create_project, NewProject("search"))
    invocation = call.invocation()
    projects.change_project.run(invocation, ProjectChange("search", is_disabled=True))
    assert invocation.touched.projects == {made.id}
    assert not invocation.touched.rules


def test_a_deleted_project_is_unknown(call: Governing) -> None:
    call(projects.create_project, NewProject("search"))
    call(projects.delete_project, WhichProject("search"))
    assert call(projects.list_projects, ProjectQuery()).total == 0
    with pytest.raises(UnknownEntity, match="no project 'search'"):
        call(projects.show_project, WhichProject("search"))
