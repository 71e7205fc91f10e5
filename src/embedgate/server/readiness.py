"""Readiness: named conditions that keep a server from taking requests. Whoever has such a bound adds it here."""

from collections.abc import Callable


class Readiness:
    """Conditions of one server, by name; `/readyz` names those that hold."""

    def __init__(self) -> None:
        """Nothing keeps requests from being taken yet."""
        self._conditions: dict[str, Callable[[], bool]] = {}

    def add(self, name: str, holds: Callable[[], bool]) -> None:
        """Add a condition. holds: cheap, and raises nothing."""
        self._conditions[name] = holds

    def missing(self) -> list[str]:
        """The names of the conditions that hold now."""
        return [name for name, holds in self._conditions.items() if holds()]
