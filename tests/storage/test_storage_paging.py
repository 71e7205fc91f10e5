"""Pages of lists: order, search, count, bounds."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedgate.core.errors import InvalidInput
from embedgate.core.pages import PageQuery
from embedgate.storage.database import Database
from embedgate.storage.paging import every
from embedgate.storage.projects import SqlProjects

NAMES = ("alpha", "Beta", "ALPHA2", "50%", "5_0", "5a0", "a\\b", "a/b", "a/%b", "gamma ray")


@pytest.fixture
def projects(database: Database) -> SqlProjects:
    projects = SqlProjects(database)
    for name in NAMES:
        projects.create(name)
    return projects


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    search=st.text("aAbB%_/\\50 ", max_size=3),
    offset=st.integers(0, len(NAMES) + 2),
    limit=st.integers(1, len(NAMES)),
    sort=st.sampled_from(["name", "+name", "-name"]),
)
def test_a_page_is_what_a_slow_search_finds(
    projects: SqlProjects, search: str, offset: int, limit: int, sort: str
) -> None:
    page = projects.list(PageQuery(offset=offset, limit=limit, sort=sort, search=search))
    project_ids = {project.name: project.id for project in every(projects.list)}
    found = [name for name in NAMES if search.lower() in name.lower() or search.lower() in project_ids[name]]
    found.sort(key=str.lower, reverse=sort.startswith("-"))
    assert page.total == len(found)
    assert [project.name for project in page.items] == found[offset : offset + limit]


def test_a_list_has_an_order_of_its_own_that_can_be_reversed(projects: SqlProjects) -> None:
    own = [project.created_at_ms for project in projects.list().items]
    assert own == sorted(own)
    backwards = [project.created_at_ms for project in projects.list(PageQuery(sort="-")).items]
    assert backwards == sorted(own, reverse=True)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        (PageQuery(offset=-1), "offset"),
        (PageQuery(offset=2**70), "offset"),
        (PageQuery(limit=0), "limit"),
        (PageQuery(limit=501), "limit"),
        (PageQuery(sort="digest"), "sort"),
        (PageQuery(sort="--name"), "sort"),
        (PageQuery(search="x" * 255), "search"),
        (PageQuery(search="\udcff"), "search"),
    ],
)
def test_what_a_list_has_not_is_refused_by_name(projects: SqlProjects, query: PageQuery, param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        projects.list(query)
    assert caught.value.param == param


def test_a_search_knows_no_wildcards_and_no_injection(projects: SqlProjects) -> None:
    assert projects.list(PageQuery(search="5_0")).total == 1
    assert projects.list(PageQuery(search="' OR 1=1 --")).total == 0
    assert projects.list(PageQuery(search="GAMMA RAY")).total == 1
