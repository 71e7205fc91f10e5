"""What a user may see and change without being an administrator: itself.

What is another's is as unknown here as what does not exist.
"""

from embedgate.administration.keys import Keys, NewKey
from embedgate.administration.logins import Logins
from embedgate.administration.stores import Stores
from embedgate.administration.trail import Trail
from embedgate.core.access import KeyRecord, UserRecord
from embedgate.core.pages import FIRST_PAGE, Page, PageQuery
from embedgate.storage.key_rows import KeyState


class Me:
    """One user's own, blocking."""

    def __init__(self, stores: Stores, trail: Trail, user_id: str) -> None:
        """user_id: of whoever asks, and was identified."""
        self._stores = stores
        self._trail = trail
        self._user_id = user_id

    def profile(self) -> UserRecord:
        """The user as stored. Raises UnknownEntity if it is no more."""
        return self._stores.users.get(self._user_id)

    def keys(self, query: PageQuery = FIRST_PAGE, *, state: KeyState | None = None) -> Page[KeyRecord]:
        """A page of the user's keys, oldest first. Sorting and errors are those of `SqlKeys.list`."""
        return self._stores.keys.list(query, user=self._user_id, state=state)

    def rotate_key(self, key: str, *, overlap_s: int = 0) -> NewKey:
        """Give a key of the user a new secret. Raises as `Keys.rotate`, UnknownEntity for a key of somebody else."""
        return Keys(self._stores, self._trail).rotate(key, overlap_s=overlap_s, owner_id=self._user_id)

    def change_password(self, password: str, new_password: str, *, ip_address: str = "") -> UserRecord:
        """Exchange the user's password for another, and log it out everywhere. ip_address: where it comes from.

        Raises as `Logins.log_in` if the present password is wrong, InvalidInput if the new one is unfit.
        """
        user = Logins(self._stores, self._trail).check(
            self.profile().name, password, action="users.set_password", ip_address=ip_address
        )
        with self._trail.change("users.set_password") as note:
            changed = self._stores.passwords.set_password(user.id, new_password)
            note(changed.id)
        return changed
