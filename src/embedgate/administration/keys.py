"""Keys: made, taken over, rotated, stopped and deleted."""

from dataclasses import dataclass, field, replace

from embedgate.administration.stores import Stores
from embedgate.administration.trail import Trail
from embedgate.core.access import KeyRecord
from embedgate.core.errors import Conflict, UnknownEntity
from embedgate.core.pages import FIRST_PAGE, Page, PageQuery
from embedgate.storage.fields import MAX_NAME_CHARACTERS
from embedgate.storage.key_management import SqlKeys
from embedgate.storage.key_rows import KeyState
from embedgate.storage.paging import every


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made, and the key itself, which exists nowhere else."""

    record: KeyRecord
    secret: str = field(repr=False)


class Keys:
    """Keys, blocking. Where a key is meant, its id or the whole key is given; UnknownEntity if there is none.

    user, project: name or id.
    """

    def __init__(self, stores: Stores, trail: Trail) -> None:
        self._stores = stores
        self._trail = trail

    def get(self, key: str) -> KeyRecord:
        """The key as stored, and when it was last used."""
        return self._stores.keys.get(key)

    def list(
        self,
        query: PageQuery = FIRST_PAGE,
        *,
        user: str | None = None,
        project: str | None = None,
        state: KeyState | None = None,
    ) -> Page[KeyRecord]:
        """A page of the keys, oldest first; of a user, a project, in a state if given.

        Sorting and errors are those of `SqlKeys.list`.
        """
        return self._stores.keys.list(query, user=user, project=project, state=state)

    def create(self, user: str, name: str, *, project: str | None = None, expires_at_ms: int | None = None) -> NewKey:
        """A new key of a user.

        Raises UnknownEntity if there is no such user or project, InvalidInput for an unfit name, or an end that is
        not in the future.
        """
        with self._trail.change("keys.create") as note:
            key, secret = self._stores.keys.create(user, name, project=project, expires_at_ms=expires_at_ms)
            note(key.id, user=key.user_id, name=key.name, project=key.project_id, expires_at_ms=key.expires_at_ms)
        return NewKey(key, secret)

    def take_over(
        self,
        user: str,
        name: str,
        key: str,
        *,
        hint: str = "",
        project: str | None = None,
        expires_at_ms: int | None = None,
    ) -> KeyRecord:
        """Make a key that exists already one of ours. key: the whole key, or its SHA-256 as 64 hex digits.

        hint: the last characters of the key, up to four; only with a digest.
        Raises as `create`, InvalidInput if it is neither a key nor a digest, Conflict if it is known already.
        """
        with self._trail.change("keys.import") as note:
            taken = self._stores.keys.take_over(
                user, name, key, hint=hint, project=project, expires_at_ms=expires_at_ms
            )
            note(taken.id, user=taken.user_id, name=taken.name, project=taken.project_id, expires_at_ms=expires_at_ms)
        return taken

    def rotate(self, key: str, *, overlap_s: int = 0, owner_id: str | None = None) -> NewKey:
        """Give a key a new secret; its id, limits, budgets and all it has spent stay.

        overlap_s: how long the old secret still works, at most 30 days; with 0 it is revoked. owner_id: whose key it
        must be; another's is as unknown as one that does not exist.
        Raises Conflict if the key is revoked or has expired, or is itself the old secret of another.
        """
        with self._trail.change("keys.rotate") as note:
            if owner_id is not None:
                self._check_owner(key, owner_id)
            rotated, secret = self._stores.keys.rotate(key, overlap_s=overlap_s)
            note(rotated.id, overlap_s=overlap_s)
        return NewKey(rotated, secret)

    def revoke(self, key: str) -> KeyRecord:
        """Stop a key for good, its old secrets too. Revoking twice changes nothing."""
        with self._trail.change("keys.revoke") as note:
            revoked = self._stores.keys.revoke(key)
            note(revoked.id)
        return revoked

    def disable(self, key: str) -> KeyRecord:
        """Stop a key until it is enabled again. Raises Conflict if it is revoked."""
        return self._set_disabled("keys.disable", key, True)

    def enable(self, key: str) -> KeyRecord:
        """Let a disabled key be used again. Raises Conflict if it is revoked."""
        return self._set_disabled("keys.enable", key, False)

    def expire(self, key: str, expires_at_ms: int | None) -> KeyRecord:
        """Let a key end at a time, which may have come, or never. Raises Conflict if it is revoked, InvalidInput."""
        with self._trail.change("keys.expire") as note:
            changed = self._stores.keys.set_expiry(key, expires_at_ms)
            note(changed.id, expires_at_ms=expires_at_ms)
        return changed

    def delete(self, key: str) -> KeyRecord:
        """Delete a key with its old secrets, limits and budgets; the ledger keeps its facts. Returns it as it was."""
        with self._trail.change("keys.delete") as note:
            deleted = self._stores.keys.delete(key)
            note(deleted.id, user=deleted.user_id, name=deleted.name)
        return deleted

    def _set_disabled(self, action: str, key: str, is_disabled: bool) -> KeyRecord:
        with self._trail.change(action) as note:
            changed = self._stores.keys.set_disabled(key, is_disabled)
            note(changed.id)
        return changed

    def _check_owner(self, key: str, owner_id: str) -> None:
        try:
            is_owner = self._stores.keys.get(key).user_id == owner_id
        except UnknownEntity:
            is_owner = False
        if not is_owner:
            raise UnknownEntity("You have no such key. List your keys to see their ids.", param="key")


def find_key(keys: SqlKeys, named: str) -> KeyRecord:
    """The key of an id, a whole key, or a name that only one key has.

    Raises UnknownEntity, or Conflict, with the ids, if several keys have that name.
    """
    try:
        return keys.get(named)
    except UnknownEntity:
        if not 1 <= len(named) <= MAX_NAME_CHARACTERS or not named.isprintable():
            raise
        alike = every(lambda page: keys.list(replace(page, search=named)))
        found = [key for key in alike if key.name == named and key.replaced_by is None]
        if not found:
            raise
    if len(found) > 1:
        ids = ", ".join(sorted(key.id for key in found)[:5])
        raise Conflict(f"{len(found)} keys have the name {named!r}: {ids}. Give the id of one.", param="key")
    return found[0]


def state_of(key: KeyRecord, now_ms: int) -> KeyState:
    """The state that a list of keys in a state would have it in: revoked before expired, expired before disabled."""
    if key.revoked_at_ms is not None:
        return "revoked"
    if key.expires_at_ms is not None and key.expires_at_ms <= now_ms:
        return "expired"
    is_stopped = key.is_disabled or key.user_is_disabled or key.project_is_disabled
    return "disabled" if is_stopped else "active"
