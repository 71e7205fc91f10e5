"""Aliases of models: looks up which model another name stands for, for the callers of a project."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from embedgate.core.access import AliasRule

_LATEST = ":latest"
"""The tag that clients of Ollama write behind names."""


class Aliases:
    """Aliases by name and project. Immutable. Capitals in names make no difference."""

    __slots__ = ("_by_project", "projects")

    def __init__(self, rules: Iterable[AliasRule] = ()) -> None:
        """rules: at most one for a name and a project; one of a project goes before one for everybody."""
        found: dict[str | None, dict[str, AliasRule]] = defaultdict(dict)
        for rule in rules:
            found[rule.project_id][rule.name.casefold()] = rule
        self._by_project: Mapping[str | None, Mapping[str, AliasRule]] = dict(found)
        self.projects = frozenset(found)
        """The projects that have aliases of their own."""

    def find(self, name: str, project_id: str | None) -> AliasRule | None:
        """The alias of that name for the callers of a project, or for callers without one; None if there is none."""
        folded = name.casefold().removesuffix(_LATEST)
        for owner in (project_id, None):
            rule = self._by_project.get(owner, {}).get(folded)
            if rule is not None:
                return rule
        return None

    def of(self, project_id: str | None) -> tuple[AliasRule, ...]:
        """The aliases that count for the callers of a project, by name."""
        both = {**self._by_project.get(None, {}), **self._by_project.get(project_id, {})}
        return tuple(both[name] for name in sorted(both))


NO_ALIASES = Aliases()
