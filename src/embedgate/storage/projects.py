"""Projects: what keys can be billed under."""

import re
from dataclasses import replace

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from embedgate.core.access import ProjectRecord
from embedgate.core.clock import utc_ms
from embedgate.core.errors import Conflict, InvalidInput, UnknownEntity
from embedgate.core.pages import FIRST_PAGE, Page, PageQuery
from embedgate.storage import schema
from embedgate.storage.database import Database
from embedgate.storage.fields import check_name, findable, new_id
from embedgate.storage.limits import drop_rules_of
from embedgate.storage.paging import Listing, read_page

_ID = re.compile(r"project_[0-9a-f]{16}")
_TABLE = schema.projects
_LISTING = Listing(
    fields={
        "created_at_ms": _TABLE.c.created_at_ms,
        "name": sa.func.lower(_TABLE.c.name),
        "is_disabled": _TABLE.c.is_disabled,
    },
    unique=_TABLE.c.id,
    searched=(_TABLE.c.name, _TABLE.c.id),
)


class SqlProjects:
    """Projects, blocking. Every method is one transaction, and raises InternalError if the database fails.

    Where a project is meant, its name or its id is given.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, name: str) -> ProjectRecord:
        """A new project. Raises InvalidInput for an unfit name, Conflict if it is taken."""
        _check_name(name)
        project = ProjectRecord(new_id("project"), name, utc_ms())
        try:
            with self._database.write() as connection:
                connection.execute(
                    _TABLE.insert().values(
                        id=project.id, name=name, is_disabled=False, created_at_ms=project.created_at_ms
                    )
                )
        except IntegrityError as error:
            raise _taken(name) from error
        return project

    def get(self, project: str) -> ProjectRecord:
        """Raises UnknownEntity if there is no such project."""
        with self._database.read() as connection:
            return find_project(connection, project)

    def list(self, query: PageQuery = FIRST_PAGE) -> Page[ProjectRecord]:
        """A page of the projects, oldest first; `sort` may be `name`, `created_at_ms` or `is_disabled`.

        Raises InvalidInput as `read_page`.
        """
        with self._database.read() as connection:
            rows, total = read_page(connection, _TABLE.select(), _LISTING, query)
            return Page(tuple(ProjectRecord(**row._mapping) for row in rows), total)

    def update(self, project: str, *, name: str | None = None, is_disabled: bool | None = None) -> ProjectRecord:
        """Change what is given. The keys of a disabled project are refused until it is enabled again.

        Raises UnknownEntity, InvalidInput for an unfit name, Conflict if it is taken.
        """
        if name is not None:
            _check_name(name)
        try:
            with self._database.write() as connection:
                before = find_project(connection, project)
                after = replace(
                    before,
                    name=before.name if name is None else name,
                    is_disabled=before.is_disabled if is_disabled is None else is_disabled,
                )
                changed = _TABLE.update().where(_TABLE.c.id == after.id)
                connection.execute(changed.values(name=after.name, is_disabled=after.is_disabled))
        except IntegrityError as error:
            raise _taken(name or "") from error
        return after

    def delete(self, project: str) -> ProjectRecord:
        """Delete a project with its limits and budgets, and return it as it was. The ledger keeps what it spent.

        Raises UnknownEntity, or Conflict while keys that are not revoked are billed under it.
        """
        keys = schema.keys
        with self._database.write() as connection:
            found = find_project(connection, project)
            in_use = (keys.c.project_id == found.id) & keys.c.revoked_at_ms.is_(None)
            n_keys = connection.execute(sa.select(sa.func.count()).where(in_use)).scalar_one()
            if n_keys:
                raise Conflict(
                    f"The project {found.name!r} has {n_keys} keys that are not revoked. Revoke or delete them first, "
                    "or disable the project."
                )
            drop_rules_of(connection, "project", found.id)
            connection.execute(_TABLE.delete().where(_TABLE.c.id == found.id))
        return found


def find_project(connection: sa.Connection, name_or_id: str) -> ProjectRecord:
    """The project of a name or an id. Raises UnknownEntity."""
    given = findable(name_or_id)
    row = connection.execute(_TABLE.select().where(sa.or_(_TABLE.c.id == given, _TABLE.c.name == given))).one_or_none()
    if row is None:
        raise UnknownEntity(
            f"There is no project {name_or_id!r}. List the projects to see their names and ids.", param="project"
        )
    return ProjectRecord(**row._mapping)


def _check_name(name: str) -> None:
    check_name(name, "project name")
    if _ID.fullmatch(name):
        raise InvalidInput(f"The project name {name!r} has the form of an id. Choose another name.", param="name")


def _taken(name: str) -> Conflict:
    return Conflict(f"There is already a project named {name!r}. Choose another name.", param="name")
