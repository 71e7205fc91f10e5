"""Passwords of people: Argon2id hashes, set and checked. Who has logged in is in `sessions`."""

import base64
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

import argon2
import sqlalchemy as sa
from argon2.exceptions import VerificationError

from embedgate.core.access import UserRecord
from embedgate.core.errors import InvalidInput, Overloaded
from embedgate.storage import schema
from embedgate.storage.database import Database
from embedgate.storage.fields import findable
from embedgate.storage.users import end_sessions, find_user

MIN_PASSWORD_CHARACTERS = 12
MAX_PASSWORD_CHARACTERS = 1_024
_TABLE = schema.users


class SqlPasswords:
    """Passwords, blocking: one takes tens of milliseconds and 64 MiB, which is their strength."""

    def __init__(
        self, database: Database, *, max_parallel: int = 4, hasher: argon2.PasswordHasher | None = None
    ) -> None:
        """max_parallel: how many may be hashed at once, any further are refused. hasher: how; as is best today."""
        self._database = database
        self._hasher = hasher or argon2.PasswordHasher()
        self._max_parallel = max_parallel
        self._places = threading.BoundedSemaphore(max_parallel)
        self._nobody = _hash_of_nothing(self._hasher)

    def set_password(self, user: str, password: str) -> UserRecord:
        """Give a user, by name or id, a password instead of any other, and log it out everywhere.

        Raises UnknownEntity, InvalidInput if the password is too short or too long, Overloaded.
        """
        if not MIN_PASSWORD_CHARACTERS <= len(password) <= MAX_PASSWORD_CHARACTERS or not _is_text(password):
            raise InvalidInput(
                f"The password has {len(password)} characters; it must have {MIN_PASSWORD_CHARACTERS} to "
                f"{MAX_PASSWORD_CHARACTERS}.",
                param="password",
            )
        with self._place():
            password_hash = self._hasher.hash(_normal(password))
        with self._database.write() as connection:
            found = find_user(connection, user)
            connection.execute(_TABLE.update().where(_TABLE.c.id == found.id).values(password_hash=password_hash))
            end_sessions(connection, found.id)
            return find_user(connection, found.id)

    def check_password(self, name: str, password: str) -> UserRecord | None:
        """The user of that name and password; None if the password is wrong, or there is no such user that may log in.

        Takes as long for one as for the other. A hash of older parameters is replaced. Raises Overloaded.
        """
        if len(password) > MAX_PASSWORD_CHARACTERS or not _is_text(password):
            return None
        stored = sa.select(_TABLE.c.id, _TABLE.c.password_hash).where(
            _TABLE.c.name == findable(name), ~_TABLE.c.is_disabled, _TABLE.c.password_hash.is_not(None)
        )
        with self._database.read() as connection:
            row = connection.execute(stored).one_or_none()
        with self._place():
            try:
                self._hasher.verify(self._nobody if row is None else row.password_hash, _normal(password))
            except VerificationError:
                return None
            if row is None:
                return None
            if self._hasher.check_needs_rehash(row.password_hash):
                self._rehash(row.id, row.password_hash, password)
        with self._database.read() as connection:
            return find_user(connection, row.id)

    def _rehash(self, user_id: str, old_hash: str, password: str) -> None:
        unchanged = (_TABLE.c.id == user_id) & (_TABLE.c.password_hash == old_hash)
        new_hash = self._hasher.hash(_normal(password))
        with self._database.write() as connection:
            connection.execute(_TABLE.update().where(unchanged).values(password_hash=new_hash))

    @contextmanager
    def _place(self) -> Iterator[None]:
        """One of the places for hashing. Refusing bounds the memory, and the threads that would wait."""
        if not self._places.acquire(blocking=False):
            raise Overloaded(f"{self._max_parallel} passwords are being checked. Try again.", retry_after_s=1.0)
        try:
            yield
        finally:
            self._places.release()


def _normal(password: str) -> str:
    """The same password however a keyboard composes its letters."""
    return unicodedata.normalize("NFKC", password)


def _is_text(password: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in password)


def _hash_of_nothing(hasher: argon2.PasswordHasher) -> str:
    """A hash that takes as long to verify as those that `hasher` makes, and that no password has."""
    salt, tag = (base64.b64encode(bytes(n)).rstrip(b"=").decode() for n in (hasher.salt_len, hasher.hash_len))
    costs = f"m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}"
    return f"$argon2id$v=19${costs}${salt}${tag}"
