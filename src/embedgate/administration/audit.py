"""The audit trail as an administrator sees it: read, verified, and shortened. What is written to it is in `trail`."""

from embedgate.administration.stores import Stores
from embedgate.administration.trail import Actor
from embedgate.core.pages import FIRST_PAGE, Page, PageQuery
from embedgate.storage.audit import EVERY_EVENT, AuditFilter, StoredEvent
from embedgate.storage.fields import check_number
from embedgate.storage.verify import Head, Verification

_MS_PER_DAY = 86_400_000
_MAX_KEEP_DAYS = 36_500


class Audit:
    """The trail, blocking."""

    def __init__(self, stores: Stores, actor: Actor) -> None:
        self._stores = stores
        self._actor = actor

    def events(self, filter_by: AuditFilter = EVERY_EVENT, query: PageQuery = FIRST_PAGE) -> Page[StoredEvent]:
        """A page of the trail, newest first unless sorted otherwise. Raises InvalidInput for an unfit page or time."""
        return self._stores.audit.events(filter_by, query)

    def verify(self, expected: Head | None = None) -> Verification:
        """Follow the whole chain. expected: an end of the trail that was kept elsewhere, which must still be there."""
        return self._stores.audit.verify(expected)

    def prune(self, keep_days: int) -> int:
        """Delete the events that are older than that many days, and say how many they were.

        The trail itself tells of it, in events of the kind `retention`. Raises InvalidInput for less than a day.
        """
        check_number(keep_days, "number of days to keep", param="keep_days", minimum=1, maximum=_MAX_KEEP_DAYS)
        before_ms = self._stores.now_ms() - keep_days * _MS_PER_DAY
        return self._stores.audit.prune(before_ms, actor=self._actor.id)
