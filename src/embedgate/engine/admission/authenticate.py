"""Authentication: turns the API key that came with a request into a Caller. Grants nothing; that is `admit`."""

from collections.abc import Callable, Sequence

from embedgate.core.access import Caller, KeyRecord, caller_of
from embedgate.core.clock import utc_ms
from embedgate.core.errors import MalformedKey, MissingKey, RevokedKey, UnknownKey
from embedgate.core.keys import digest, is_well_formed
from embedgate.core.ports import KeyStore

_MAX_CALLERS = 10_000
_MAX_CHARACTERS = 4_096
"""Of a key; those of other gateways may be signed tokens."""
_Known = tuple[KeyRecord, Caller, str | None]
"""A record, its caller, and why its key is not taken."""


class Authenticator:
    """Looks keys up by digest, so that neither memory nor disk holds a secret."""

    def __init__(
        self, keys: KeyStore, prefix: str, now_ms: Callable[[], int] = utc_ms, accepted_prefixes: Sequence[str] = ()
    ) -> None:
        """prefix: start of the keys that this gateway issues. now_ms: UTC milliseconds.

        accepted_prefixes: those of other keys. Which keys are known is not decided by their form, since keys may have
        been imported by digest or made under another prefix; it only tells what is wrong with one that is unknown.
        """
        self._keys = keys
        self._prefixes = (prefix, *accepted_prefixes)
        self._now_ms = now_ms
        self._callers: dict[bytes, _Known] = {}

    async def authenticate(self, secret: str | None) -> Caller:
        """The caller of the key.

        Raises MissingKey, MalformedKey, UnknownKey or RevokedKey. No message repeats what was sent.
        """
        if not secret:
            raise MissingKey("No API key came with the request. Send it as `Authorization: Bearer <key>`.")
        if len(secret) > _MAX_CHARACTERS:
            raise self._malformed()
        key = digest(secret)
        record = await self._keys.find(key)
        if record is None:
            if not is_well_formed(secret, *self._prefixes):
                raise self._malformed()
            raise UnknownKey("The API key is not known here. Check it, or ask your administrator for one.")
        known = self._callers.get(key)
        if known is None or known[0] is not record:
            known = self._remember(key, record)
        caller, fault = known[1], known[2]
        if fault is None and record.expires_at_ms is not None and record.expires_at_ms <= self._now_ms():
            fault = "has expired"
        if fault is not None:
            raise RevokedKey(f"The API key {fault}. Ask your administrator for a new one.")
        return caller

    def _malformed(self) -> MalformedKey:
        ours, *others = (f"`{prefix}_`" for prefix in self._prefixes)
        accepted = f" (or {', '.join(others)})" if others else ""
        return MalformedKey(
            f"The API key does not have the form of a key, and was not imported. Keys of this gateway "
            f"are {ours}{accepted} and 32 hexadecimal digits."
        )

    def _remember(self, key: bytes, record: KeyRecord) -> "_Known":
        """What follows from a record, worked out once for each time that it is read; its use is noted as often."""
        if len(self._callers) >= _MAX_CALLERS:
            self._callers.clear()
        known = self._callers[key] = (record, caller_of(record), _fault(record))
        now_ms = self._now_ms()
        if known[2] is None and (record.expires_at_ms is None or record.expires_at_ms > now_ms):
            self._keys.note_use(key, now_ms)
        return known


def _fault(record: KeyRecord) -> str | None:
    """Why a known key is not taken, apart from its age; None if it is."""
    if record.revoked_at_ms is not None or record.user_is_disabled:
        return "was revoked or its user disabled"
    if record.is_disabled or record.project_is_disabled:
        return "or its project is disabled"
    return None
