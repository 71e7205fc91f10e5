"""Limits: how much a key, a user or a project may ask at a time."""

from embedgate.administration.stores import Stores
from embedgate.administration.subjects import find_subject
from embedgate.administration.trail import Trail
from embedgate.core.access import LimitRule, SubjectKind


class Limits:
    """Limits, blocking. A subject is a kind and a name: see `find_subject`, whose errors every method raises."""

    def __init__(self, stores: Stores, trail: Trail) -> None:
        self._stores = stores
        self._trail = trail

    def list(self) -> tuple[LimitRule, ...]:
        """Every limit, by subject."""
        return self._stores.rules.load().limits

    def set(
        self,
        kind: SubjectKind,
        subject: str,
        *,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        max_parallel: int | None = None,
        max_waiting: int = 0,
    ) -> LimitRule:
        """Put a limit in force, instead of the one that the subject has. None means no limit of that sort.

        Raises InvalidInput if a number is not positive or none is given.
        """
        with self._trail.change("limits.set") as note:
            rule = LimitRule(
                find_subject(self._stores, kind, subject),
                requests_per_minute=requests_per_minute,
                tokens_per_minute=tokens_per_minute,
                max_parallel=max_parallel,
                max_waiting=max_waiting,
            )
            replaced = self._stores.limits.set_limit(rule)
            note(
                rule.subject.id,
                subject_kind=rule.subject.kind,
                requests_per_minute=requests_per_minute,
                tokens_per_minute=tokens_per_minute,
                max_parallel=max_parallel,
                max_waiting=max_waiting,
                is_new=replaced is None,
            )
        return rule

    def delete(self, kind: SubjectKind, subject: str) -> LimitRule:
        """Take away the limit of a subject, and return it. Raises UnknownEntity if it has none."""
        with self._trail.change("limits.delete") as note:
            deleted = self._stores.limits.delete_limit(find_subject(self._stores, kind, subject))
            note(deleted.subject.id, subject_kind=deleted.subject.kind)
        return deleted
