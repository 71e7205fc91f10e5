"""Projects: what keys can be billed under, made, changed and deleted."""

from embedgate.administration.stores import Stores
from embedgate.administration.trail import Trail, differences
from embedgate.core.access import ProjectRecord
from embedgate.core.pages import FIRST_PAGE, Page, PageQuery


class Projects:
    """Projects, blocking. Where one is meant, the name or the id is given; UnknownEntity if there is none."""

    def __init__(self, stores: Stores, trail: Trail) -> None:
        self._stores = stores
        self._trail = trail

    def get(self, project: str) -> ProjectRecord:
        """The project as stored."""
        return self._stores.projects.get(project)

    def list(self, query: PageQuery = FIRST_PAGE) -> Page[ProjectRecord]:
        """A page of the projects, oldest first. Sorting and errors are those of `SqlProjects.list`."""
        return self._stores.projects.list(query)

    def create(self, name: str) -> ProjectRecord:
        """A new project. Raises InvalidInput for an unfit name, Conflict if it is taken."""
        with self._trail.change("projects.create") as note:
            project = self._stores.projects.create(name)
            note(project.id, name=project.name)
        return project

    def update(self, project: str, *, name: str | None = None, is_disabled: bool | None = None) -> ProjectRecord:
        """Change what is given. The keys of a disabled project are refused until it is enabled again.

        Raises InvalidInput for an unfit name, Conflict if it is taken.
        """
        with self._trail.change("projects.update") as note:
            before = self._stores.projects.get(project)
            after = self._stores.projects.update(before.id, name=name, is_disabled=is_disabled)
            note(after.id, **differences(before, after))
        return after

    def delete(self, project: str) -> ProjectRecord:
        """Delete a project with its limits and budgets, and return it as it was. The ledger keeps what it spent.

        Raises Conflict while keys that are not revoked are billed under it.
        """
        with self._trail.change("projects.delete") as note:
            deleted = self._stores.projects.delete(project)
            note(deleted.id, name=deleted.name)
        return deleted
