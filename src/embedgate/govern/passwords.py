"""Password hashes: Argon2id, made and checked. Who has which password is in `users`, logins are in `logins`."""

import base64
import threading
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import argon2
from argon2.exceptions import VerificationError

from embedgate.core.errors import InvalidInput, Overloaded
from embedgate.govern.password_strength import find_weakness

MIN_PASSWORD_CHARACTERS = 12
MAX_PASSWORD_CHARACTERS = 1_024


class PasswordHashes:
    """Hashes passwords and checks them. Each takes tens of milliseconds and 64 MiB, which is what makes guessing slow.

    Call it outside of transactions: a database must not stay locked for so long.
    """

    def __init__(self, hasher: argon2.PasswordHasher | None = None, *, max_parallel: int = 4) -> None:
        """hasher: with the parameters to use; those that argon2-cffi recommends if None.

        max_parallel: how many may be hashed at once; more are refused, which bounds memory and waiting threads.
        """
        self._hasher = hasher or argon2.PasswordHasher()
        self._max_parallel = max_parallel
        self._places = threading.BoundedSemaphore(max_parallel)
        self._unmatchable = _unmatchable_hash(self._hasher)

    def hash(self, password: str, about: Sequence[str] = ()) -> str:
        """The hash of a new password. about: names and addresses of its user.

        Raises InvalidInput if it is too short, too long or too easily guessed, Overloaded.
        """
        n = len(_normal(password)) if _is_text(password) else 0
        if not MIN_PASSWORD_CHARACTERS <= n <= MAX_PASSWORD_CHARACTERS or len(password) > MAX_PASSWORD_CHARACTERS:
            raise InvalidInput(
                f"The password has {n or len(password)} characters; it must have {MIN_PASSWORD_CHARACTERS} to "
                f"{MAX_PASSWORD_CHARACTERS}.",
                param="password",
            )
        weakness = find_weakness(password, about)
        if weakness is not None:
            raise InvalidInput(
                f"The password {weakness}, and would be guessed. Choose another one, such as four words that do not "
                "belong together.",
                param="password",
            )
        with self._place():
            return self._hasher.hash(_normal(password))

    def is_right(self, password: str, password_hash: str | None) -> bool:
        """Whether the hash is of that password. Takes as long where there is no hash (None). Raises Overloaded."""
        if len(password) > MAX_PASSWORD_CHARACTERS or not _is_text(password):
            return False
        with self._place():
            try:
                self._hasher.verify(password_hash or self._unmatchable, _normal(password))
            except VerificationError:
                return False
        return password_hash is not None

    def renewed(self, password: str, password_hash: str) -> str | None:
        """A hash with the parameters of today for a password that was right; None if the hash has them already."""
        if not self._hasher.check_needs_rehash(password_hash):
            return None
        with self._place():
            return self._hasher.hash(_normal(password))

    @contextmanager
    def _place(self) -> Iterator[None]:
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


def _unmatchable_hash(hasher: argon2.PasswordHasher) -> str:
    """A hash that takes as long to verify as those that `hasher` makes, and that no password has."""
    salt, tag = (base64.b64encode(bytes(n)).rstrip(b"=").decode() for n in (hasher.salt_len, hasher.hash_len))
    costs = f"m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}"
    return f"$argon2id$v=19${costs}${salt}${tag}"
