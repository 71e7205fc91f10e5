"""Users: made, changed, given roles and passwords, deleted."""

from collections.abc import Collection

from embedgate.administration.stores import Stores
from embedgate.administration.trail import Trail, differences, plain
from embedgate.core.access import UserRecord
from embedgate.core.pages import FIRST_PAGE, Page, PageQuery


class Users:
    """Users, blocking. Where a user is meant, the name or the id is given; UnknownEntity if there is none."""

    def __init__(self, stores: Stores, trail: Trail) -> None:
        self._stores = stores
        self._trail = trail

    def get(self, user: str) -> UserRecord:
        """The user as stored."""
        return self._stores.users.get(user)

    def list(self, query: PageQuery = FIRST_PAGE) -> Page[UserRecord]:
        """A page of the users, oldest first. Sorting and errors are those of `SqlUsers.list`."""
        return self._stores.users.list(query)

    def create(
        self,
        name: str,
        *,
        is_admin: bool = False,
        email: str = "",
        tenant: str | None = None,
        is_agent: bool = False,
        roles: Collection[str] = (),
    ) -> UserRecord:
        """A new user, without key or password.

        Raises InvalidInput for an unfit field, Conflict if the name is taken, UnknownEntity for an unknown role.
        """
        with self._trail.change("users.create") as note:
            user = self._stores.users.create(
                name, is_admin=is_admin, email=email, tenant=tenant, is_agent=is_agent, roles=roles
            )
            note(user.id, name=user.name, is_admin=user.is_admin, roles=plain(user.roles))
        return user

    def update(
        self,
        user: str,
        *,
        name: str | None = None,
        is_admin: bool | None = None,
        is_disabled: bool | None = None,
        email: str | None = None,
        tenant: str | None = None,
        is_agent: bool | None = None,
        roles: Collection[str] | None = None,
    ) -> UserRecord:
        """Change what is given; an empty `email` or `tenant` takes it away, `roles` are all that there will be.

        A user who is disabled is logged out, and its keys are refused until it is enabled again.
        Raises as `create`, and Conflict if no enabled administrator would be left.
        """
        with self._trail.change("users.update") as note:
            before = self._stores.users.get(user)
            after = self._stores.users.update(
                before.id,
                name=name,
                is_admin=is_admin,
                is_disabled=is_disabled,
                email=email,
                tenant=tenant,
                is_agent=is_agent,
                roles=roles,
            )
            # The trail cannot be changed, so what a person may want forgotten is not in it.
            note(after.id, **differences(before, after, unsaid=("email",)))
        return after

    def give_role(self, user: str, role: str) -> UserRecord:
        """Add a role; one that the user has already changes nothing. Raises UnknownEntity for an unknown role."""
        with self._trail.change("users.give_role") as note:
            changed = self._stores.users.give_role(user, role)
            note(changed.id, role=role)
        return changed

    def take_role(self, user: str, role: str) -> UserRecord:
        """Take a role away; one that the user has not changes nothing."""
        with self._trail.change("users.take_role") as note:
            changed = self._stores.users.take_role(user, role)
            note(changed.id, role=role)
        return changed

    def set_password(self, user: str, password: str) -> UserRecord:
        """Give a user a password instead of any other, and log it out everywhere.

        Raises InvalidInput if the password is too short or too long, Overloaded if too many are being hashed.
        """
        with self._trail.change("users.set_password") as note:
            changed = self._stores.passwords.set_password(user, password)
            note(changed.id)
        return changed

    def delete(self, user: str) -> UserRecord:
        """Delete a user with its keys, sessions, limits and budgets, and return it as it was.

        The ledger keeps what it spent. Raises Conflict if it is the last enabled administrator.
        """
        with self._trail.change("users.delete") as note:
            deleted = self._stores.users.delete(user)
            note(deleted.id, name=deleted.name)
        return deleted
