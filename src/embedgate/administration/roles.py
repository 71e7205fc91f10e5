"""Roles: the words that policies give rights to, made and deleted. Users get and lose them in `users`."""

from embedgate.administration.stores import Stores
from embedgate.administration.trail import Trail
from embedgate.core.access import RoleRecord
from embedgate.core.pages import FIRST_PAGE, Page, PageQuery


class Roles:
    """Roles, blocking."""

    def __init__(self, stores: Stores, trail: Trail) -> None:
        self._stores = stores
        self._trail = trail

    def list(self, query: PageQuery = FIRST_PAGE) -> Page[RoleRecord]:
        """A page of the roles, by name. Sorting and errors are those of `SqlRoles.list`."""
        return self._stores.roles.list(query)

    def create(self, name: str, description: str = "") -> RoleRecord:
        """A new role, which nobody has yet. Raises InvalidInput for an unfit name or text, Conflict if it is there."""
        with self._trail.change("roles.create") as note:
            role = self._stores.roles.create(name, description)
            note(role.name)
        return role

    def delete(self, name: str) -> RoleRecord:
        """Take a role away, from everybody who has it. Returns it as it was. Raises UnknownEntity."""
        with self._trail.change("roles.delete") as note:
            role = self._stores.roles.delete(name)
            note(role.name, users=role.users)
        return role
