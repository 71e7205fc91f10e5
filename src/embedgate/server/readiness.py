"""Readiness: named conditions that keep a server from taking requests, and bounds that are reached while it does.

Whoever has such a bound adds it here.
"""

from collections.abc import Callable


class Readiness:
    """Conditions of one server, by name; `/readyz` names those that hold."""

    def __init__(self) -> None:
        """Nothing keeps requests from being taken yet."""
        self._conditions: dict[str, Callable[[], bool]] = {}
        self._bounds: dict[str, Callable[[], bool]] = {}

    def add(self, name: str, holds: Callable[[], bool]) -> None:
        """Add a condition. holds: cheap, and raises nothing."""
        self._conditions[name] = holds

    def missing(self) -> list[str]:
        """The names of the conditions that hold now."""
        return [name for name, holds in self._conditions.items() if holds()]

    def add_bound(self, name: str, is_reached: Callable[[], bool]) -> None:
        """Add a bound that refuses some requests while others are served. is_reached: cheap, and raises nothing."""
        self._bounds[name] = is_reached

    def reached(self) -> list[str]:
        """The names of the bounds that are reached now."""
        return [name for name, is_reached in self._bounds.items() if is_reached()]
