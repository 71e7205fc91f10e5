"""Projects, and the keys that keep one from being deleted."""

from dataclasses import replace
from pathlib import Path

import pytest

from embedgate.core.errors import Conflict, InvalidInput, UnknownEntity
from embedgate.core.pages import PageQuery
from embedgate.govern.budgets import BudgetQuery, NewBudget, list_budgets, set_budget
from embedgate.storage.database import Database
from embedgate.storage.key_management import SqlKeys
from embedgate.storage.projects import SqlProjects
from embedgate.storage.users import SqlUsers
from governing import Governing, resources_for


@pytest.fixture
def projects(database: Database) -> SqlProjects:
    return SqlProjects(database)


def test_a_project_is_made_renamed_and_disabled(projects: SqlProjects) -> None:
    project = projects.create("search")
    assert projects.get("search") == projects.get(project.id) == project
    assert projects.update("search") == project
    changed = projects.update("search", name="Find", is_disabled=True)
    assert changed == replace(project, name="Find", is_disabled=True) == projects.get("Find")
    projects.create("other")
    assert [found.name for found in projects.list(PageQuery(sort="name")).items] == ["Find", "other"]
    assert [found.name for found in projects.list(PageQuery(search=project.id)).items] == ["Find"]
    with pytest.raises(Conflict, match="already a project named 'other'"):
        projects.update("Find", name="other")
    with pytest.raises(Conflict):
        projects.create("other")
    for name in ("", "project_0123456789abcdef"):
        with pytest.raises(InvalidInput):
            projects.create(name)
        with pytest.raises(InvalidInput):
            projects.update("Find", name=name)
    for method in (projects.get, projects.update, projects.delete):
        with pytest.raises(UnknownEntity, match="no project 'search'"):
            method("search")


def test_a_project_is_deleted_only_when_nothing_is_billed_to_it(projects: SqlProjects, database: Database) -> None:
    project = projects.create("search")
    SqlUsers(database).create("ann")
    keys, call = SqlKeys(database, "eg"), Governing(database, resources_for(Path("unused")))
    key, _ = keys.create("ann", "k", project="search")
    keys.rotate(key.id, overlap_s=60)
    keys.set_disabled(key.id, True)  # it could be enabled again
    call(set_budget, NewBudget("project", project.id, "month", "1"))
    with pytest.raises(Conflict, match="has 1 keys that are not revoked"):
        projects.delete("search")
    keys.revoke(key.id)
    assert projects.delete("search") == project
    assert call.every(list_budgets, BudgetQuery()) == []
    found = keys.get(key.id)
    assert (found.project_id, found.project_name) == (project.id, None)  # what it was billed to stays known
