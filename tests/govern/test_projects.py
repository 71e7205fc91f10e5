"""Projects: made, renamed, switched, deleted; each change leaves its event and touches what it changed."""

import msgspec
import pytest

from embedgate.core.errors import Conflict, InvalidInput, UnknownEntity
from embedgate.govern import keys, projects, users
from embedgate.govern.projects import NewProject, ProjectChange, ProjectQuery, WhichProject
from embedgate.storage import schema
from embedgate.storage.database import Database
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


def test_a_project_is_made_renamed_and_disabled(call: Governing) -> None:
    project = call(projects.create_project, NewProject("search"))
    assert call.last_event() == ("projects.create", project.id, {"name": "search"})
    assert call(projects.change_project, ProjectChange("search")) == project
    changed = call(projects.change_project, ProjectChange("search", "Find", is_disabled=True))
    assert changed == msgspec.structs.replace(project, name="Find", is_disabled=True)
    assert changed == call(projects.show_project, WhichProject("Find"))
    assert call.last_event() == ("projects.update", project.id, {"name": "Find", "is_disabled": True})
    call(projects.create_project, NewProject("other"))
    by_name = call(projects.list_projects, ProjectQuery(sort="name")).items
    assert [found.name for found in by_name] == ["Find", "other"]
    assert call(projects.list_projects, ProjectQuery(search=project.id)).items == (changed,)
    for name in ("", "project_0123456789abcdef"):
        with pytest.raises(InvalidInput):
            call(projects.create_project, NewProject(name))
        with pytest.raises(InvalidInput):
            call(projects.change_project, ProjectChange("Find", name))
    with pytest.raises(UnknownEntity, match="no project 'search'"):
        call(projects.change_project, ProjectChange("search"))
    with pytest.raises(UnknownEntity, match="no project 'search'"):
        call(projects.delete_project, WhichProject("search"))


def test_a_project_is_deleted_only_when_nothing_is_billed_to_it(call: Governing, database: Database) -> None:
    project = call(projects.create_project, NewProject("search"))
    call(users.create_user, users.NewUser("ann"))
    key = call(keys.create_key, keys.KeyToMake("ann", "k", project="search")).key
    call(keys.rotate_key, keys.Rotation(key.id, 60))
    call(keys.change_key, keys.KeyChange(key.id, is_disabled=True))  # it could be enabled again
    of_it = {"subject_kind": "project", "subject_id": project.id}
    with database.write() as connection:
        connection.execute(schema.budgets.insert().values(**of_it, period="month", cap_picodollars=1))
    with pytest.raises(Conflict, match="has 1 keys that are not revoked"):
        call(projects.delete_project, WhichProject("search"))
    call(keys.revoke_key, keys.WhichKey(key.id))
    call(projects.delete_project, WhichProject("search"))
    assert call.last_event() == ("projects.delete", project.id, {"name": "search"})
    with database.read() as connection:
        assert connection.execute(schema.budgets.select()).all() == []
    found = call(keys.show_key, keys.WhichKey(key.id))
    assert (found.project_id, found.project_name) == (project.id, None)  # what it was billed to stays known
