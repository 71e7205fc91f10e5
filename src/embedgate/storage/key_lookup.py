"""Key look-up for requests: asynchronous, by digest, with answers cached for a second; and notes of their use.

Only digests of keys are stored and cached. Whether a key may do something is decided in the engine.
"""

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import sqlalchemy as sa

from embedgate.core.access import KeyRecord
from embedgate.core.errors import InternalError, Overloaded
from embedgate.storage import schema
from embedgate.storage.database import Database
from embedgate.storage.key_rows import KEYS, key_records
from embedgate.storage.key_uses import store_uses

_CACHE_TTL_S = 1.0
_KEY_BY_DIGEST = KEYS.where(schema.keys.c.digest == sa.bindparam("digest"))


class _Cached(NamedTuple):
    record: KeyRecord | None
    expires_s: float


class SqlKeyStore:
    """core.ports.KeyStore. Belongs to one event loop: call `find`, `note_use`, `forget` and `forget_all` there.

    Look-ups run on one named worker. Answers are kept for a second, "unknown" too, so that a revocation by another
    process is seen within that time; concurrent look-ups of one digest are one.
    """

    def __init__(
        self,
        database: Database,
        *,
        max_cached: int = 10_000,
        max_lookups: int = 1_000,
        store_uses_after_s: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """max_cached: bound of the cached keys, and again of the cached unknown digests. max_lookups: different
        digests that may wait for the worker, beside those of cached keys. store_uses_after_s: how long uses are
        gathered: a write for each would cost more than the use. clock: monotonic seconds.
        """
        self._database = database
        self._max_cached = max_cached
        self._max_lookups = max_lookups
        self._store_uses_after_s = store_uses_after_s
        self._clock = clock
        # Two caches, so that guessing keys cannot push the real ones out.
        self._known: dict[bytes, _Cached] = {}
        self._unknown: dict[bytes, _Cached] = {}
        self._lookups: dict[bytes, asyncio.Future[KeyRecord | None]] = {}
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedgate-keys")
        # Uses have a worker of their own: it may wait for another writer, and look-ups must not.
        self._uses: dict[bytes, int] = {}
        self._uses_worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedgate-key-uses")
        self._storing: asyncio.TimerHandle | asyncio.Future[None] | None = None
        self._is_closed = False

    async def find(self, digest: bytes) -> KeyRecord | None:
        """The key of a digest, revoked ones included; None if there is none. At most a second old.

        Raises InternalError if the database fails, Overloaded if too many look-ups wait.
        """
        now_s = self._clock()
        cached = self._known.get(digest) or self._unknown.get(digest)
        if cached is not None and now_s < cached.expires_s:
            return cached.record
        lookup = self._lookups.get(digest)
        if lookup is None:
            # Who was known a moment ago is looked up in any case: strangers who guess must not keep callers out.
            if len(self._lookups) >= self._max_lookups and digest not in self._known:
                raise Overloaded(f"{self._max_lookups} keys are being looked up. Try again.", retry_after_s=1.0)
            lookup = asyncio.get_running_loop().run_in_executor(self._worker, self._load, digest)
            self._lookups[digest] = lookup
            lookup.add_done_callback(functools.partial(self._keep, digest, now_s + _CACHE_TTL_S))
        return await asyncio.shield(lookup)  # one caller that leaves must not end the look-up of the others

    def note_use(self, digest: bytes, at_ms: int) -> None:
        """Note that a key was accepted. It is stored within a few seconds; beyond `max_cached` keys, it is not."""
        if digest in self._uses or len(self._uses) < self._max_cached:
            self._uses[digest] = at_ms
        self._store_soon()

    def forget(self, is_meant: Callable[[KeyRecord], bool]) -> None:
        """Drop what is known of some keys, and of every digest that was unknown: it may be of a key that is new."""
        for digest in [digest for digest, cached in self._known.items() if cached.record and is_meant(cached.record)]:
            del self._known[digest]
        self._unknown.clear()
        self._lookups.clear()

    def forget_all(self) -> None:
        """Drop what is known of every digest, after a change of users, projects or roles."""
        self._known.clear()
        self._unknown.clear()
        self._lookups.clear()

    def close(self) -> None:
        """Let the look-up that runs end, store what was noted, and stop the workers."""
        self._worker.shutdown(cancel_futures=True)
        self._is_closed = True
        if isinstance(self._storing, asyncio.TimerHandle):
            self._storing.cancel()
        self._uses_worker.shutdown()
        if self._uses:
            # What may be lost is when a key was last used, and nothing hangs on it.
            with contextlib.suppress(InternalError):
                store_uses(self._database, self._uses)

    def _load(self, digest: bytes) -> KeyRecord | None:
        with self._database.read() as connection:
            found = key_records(connection, connection.execute(_KEY_BY_DIGEST, {"digest": digest}))
        return found[0] if found else None

    def _store_soon(self) -> None:
        if self._storing is None:
            self._storing = asyncio.get_running_loop().call_later(self._store_uses_after_s, self._store_uses)

    def _store_uses(self) -> None:
        noted, self._uses = self._uses, {}
        storing = asyncio.get_running_loop().run_in_executor(self._uses_worker, store_uses, self._database, noted)
        self._storing = storing
        storing.add_done_callback(functools.partial(self._stored, noted))

    def _stored(self, noted: dict[bytes, int], storing: asyncio.Future[None]) -> None:
        """What could not be stored is tried again, with what was noted meanwhile."""
        self._storing = None
        if storing.cancelled() or storing.exception() is not None:
            self._uses = noted | self._uses
        if self._uses and not self._is_closed:
            self._store_soon()

    def _keep(self, digest: bytes, expires_s: float, lookup: asyncio.Future[KeyRecord | None]) -> None:
        """Cache what a look-up found, unless it failed or the digest was forgotten meanwhile."""
        was_forgotten = self._lookups.get(digest) is not lookup
        if not was_forgotten:
            del self._lookups[digest]
        if lookup.cancelled() or lookup.exception() is not None or was_forgotten:
            return
        record = lookup.result()
        self._unknown.pop(digest, None)
        self._known.pop(digest, None)
        cache = self._unknown if record is None else self._known
        if len(cache) >= self._max_cached:
            del cache[next(iter(cache))]  # the entry that was read first, which expires first
        cache[digest] = _Cached(record, expires_s)
