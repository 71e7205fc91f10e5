"""Who asks: turns the secret that came with a request into a Caller. Grants nothing; that is `admit`."""

from embedgate.core.access import Caller
from embedgate.core.errors import MalformedKey, MissingKey, RevokedKey, UnknownKey
from embedgate.core.keys import digest, is_well_formed
from embedgate.core.ports import KeyStore


class Authenticator:
    """Looks keys up by digest, so that neither memory nor disk holds a secret."""

    def __init__(self, keys: KeyStore, prefix: str) -> None:
        """prefix: start of the keys that this gateway issues."""
        self._keys = keys
        self._prefix = prefix

    async def __call__(self, secret: str | None) -> Caller:
        """The owner of the key.

        Raises MissingKey, MalformedKey, UnknownKey or RevokedKey. No message repeats what was sent.
        """
        if not secret:
            raise MissingKey("No API key came with the request. Send it as `Authorization: Bearer <key>`.")
        if not is_well_formed(secret, self._prefix):
            raise MalformedKey(
                f"The API key has not the form of a key. Keys of this gateway are `{self._prefix}_` "
                "and 32 hexadecimal digits."
            )
        record = await self._keys.find(digest(secret))
        if record is None:
            raise UnknownKey("The API key is not known here. Check it, or ask your administrator for one.")
        if record.revoked_at_ms is not None or record.user_is_disabled:
            raise RevokedKey("The API key was revoked or its user disabled. Ask your administrator for a new one.")
        return Caller(record.user_id, record.user_name, record.id, record.is_admin)
