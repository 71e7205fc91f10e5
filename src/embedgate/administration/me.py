"""What a user may see and change without being an administrator: itself.

What is another's is as unknown here as what does not exist.
"""

from collections.abc import Sequence
from dataclasses import replace

from embedgate.administration.keys import Keys, NewKey
from embedgate.administration.logins import Logins
from embedgate.administration.stores import Stores
from embedgate.administration.trail import Trail
from embedgate.administration.usage import UsageReport, dimensions_of, entry_of_request
from embedgate.core.access import KeyRecord, UserRecord
from embedgate.core.pages import FIRST_PAGE, Page, PageQuery
from embedgate.core.types import LedgerEntry
from embedgate.storage.key_rows import KeyState
from embedgate.storage.paging import every
from embedgate.storage.reports import EVERY_ENTRY, Dimension, LedgerFilter


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

    def usage(self, by: Sequence[str] = (), filter_by: LedgerFilter = EVERY_ENTRY) -> UsageReport:
        """What the user has used, as `Usage.report` has it. filter_by: by ids; its user is always this one."""
        dimensions = dimensions_of(by)
        rows = self._stores.reports.usage(dimensions, self._own(filter_by))
        return UsageReport(dimensions, tuple(rows), self._names(dimensions))

    def entries(self, filter_by: LedgerFilter = EVERY_ENTRY, query: PageQuery = FIRST_PAGE) -> Page[LedgerEntry]:
        """A page of the user's ledger entries, newest first. filter_by: by ids; its user is always this one."""
        return self._stores.reports.entries(self._own(filter_by), query)

    def entry(self, request_id: str) -> LedgerEntry:
        """The ledger entry of one request of the user. Raises UnknownEntity if it left none, or is another's."""
        return entry_of_request(self._stores, request_id, self._user_id)

    def _own(self, filter_by: LedgerFilter) -> LedgerFilter:
        return replace(filter_by, user_id=self._user_id)

    def _names(self, dimensions: Sequence[Dimension]) -> dict[str, str]:
        names: dict[str, str] = {}
        if "user" in dimensions:
            names[self._user_id] = self.profile().name
        if "key" in dimensions or "project" in dimensions:
            for key in every(self.keys):
                names[key.id] = key.name
                if key.project_id is not None and key.project_name is not None:
                    names[key.project_id] = key.project_name
        return names
