"""Policies: checked, saved, switched on and off, made from templates, and tried without a request."""

import hashlib
from collections.abc import Callable, Mapping, Sequence

from embedgate.administration.dry_run import DryRun, Trial, run_dry
from embedgate.administration.stores import Stores
from embedgate.administration.trail import Trail
from embedgate.catalog import Catalog
from embedgate.core.access import PolicyMistake, PolicyRecord
from embedgate.core.errors import InvalidPolicy
from embedgate.policy import templates
from embedgate.policy.check import find_mistakes
from embedgate.policy.syntax import policy_id
from embedgate.policy.templates import Template


class Policies:
    """Policies, blocking. A policy is known by its id, which its text repeats as `@id`."""

    def __init__(self, stores: Stores, trail: Trail, catalog: Callable[[], Catalog]) -> None:
        """catalog: the one in force."""
        self._stores = stores
        self._trail = trail
        self._catalog = catalog

    def get(self, policy: str) -> PolicyRecord:
        """Raises UnknownEntity if there is no such policy."""
        return self._stores.policies.get(policy)

    def list(self) -> tuple[PolicyRecord, ...]:
        """Every policy, those that are off too, by id."""
        return self._stores.rules.load().policies

    def templates(self) -> tuple[Template, ...]:
        """What policies can be made from, by id."""
        return templates.templates()

    def check(self, text: str, expected_id: str | None = None) -> Sequence[PolicyMistake]:
        """Everything wrong with a text; empty if it can be saved. expected_id: what `@id` must be; None takes any."""
        return find_mistakes(text, expected_id)

    def create(
        self, text: str, *, expected_id: str | None = None, description: str = "", is_enabled: bool = True
    ) -> PolicyRecord:
        """A new policy, under the id of its `@id`. expected_id: what that must be.

        Raises InvalidPolicy for a text with mistakes, InvalidInput for an unfit description, Conflict if it is there.
        """
        _refuse_mistakes(find_mistakes(text, expected_id))
        with self._trail.change("policies.create") as note:
            created = self._stores.policies.create(
                policy_id(text) or "", text, description=description, is_enabled=is_enabled
            )
            note(created.id, text_sha256=_digest(text), is_enabled=is_enabled)
        return created

    def from_template(
        self,
        template: str,
        parameters: Mapping[str, str] | None = None,
        *,
        new_id: str | None = None,
        is_enabled: bool = True,
    ) -> PolicyRecord:
        """A new policy made from a template. new_id: if not the id of the template.

        Raises UnknownEntity if there is no such template, InvalidInput if a parameter is missing, empty or unknown,
        InvalidPolicy if the parameters make no policy, Conflict if there is one of that id.
        """
        made = templates.render(template, parameters, new_id)
        return self.create(made.text, expected_id=made.id, description=made.description, is_enabled=is_enabled)

    def update(
        self,
        policy: str,
        *,
        text: str | None = None,
        description: str | None = None,
        is_enabled: bool | None = None,
    ) -> PolicyRecord:
        """Change what is given. Raises UnknownEntity, InvalidPolicy for a text with mistakes, InvalidInput."""
        with self._trail.change("policies.update") as note:
            before = self._stores.policies.get(policy)
            if text is not None:
                _refuse_mistakes(find_mistakes(text, before.id))
            after = self._stores.policies.update(before.id, text=text, description=description, is_enabled=is_enabled)
            said: dict[str, str | bool] = {}
            if after.text != before.text:
                said["text_sha256"] = _digest(after.text)
            if after.description != before.description:
                said["description"] = "changed"
            if after.is_enabled != before.is_enabled:
                said["is_enabled"] = after.is_enabled
            note(after.id, **said)
        return after

    def enable(self, policy: str) -> PolicyRecord:
        """Put a policy in force. Raises UnknownEntity."""
        return self._switch("policies.enable", policy, True)

    def disable(self, policy: str) -> PolicyRecord:
        """Keep a policy, but not in force. Raises UnknownEntity."""
        return self._switch("policies.disable", policy, False)

    def delete(self, policy: str) -> PolicyRecord:
        """Delete a policy, and return it. Raises UnknownEntity."""
        with self._trail.change("policies.delete") as note:
            deleted = self._stores.policies.delete(policy)
            note(deleted.id, text_sha256=_digest(deleted.text))
        return deleted

    def dry_run(self, trial: Trial) -> DryRun:
        """What a key would get for a model, and which policies say so. Asks no provider, counts nothing.

        Raises UnknownEntity or Conflict for the key, UnknownModel, ModelNotAtProvider, InvalidDimension, InvalidInput.
        """
        return run_dry(self._stores, self._catalog(), trial)

    def _switch(self, action: str, policy: str, is_enabled: bool) -> PolicyRecord:
        with self._trail.change(action) as note:
            changed = self._stores.policies.update(policy, is_enabled=is_enabled)
            note(changed.id)
        return changed


def _refuse_mistakes(mistakes: Sequence[PolicyMistake]) -> None:
    if mistakes:
        raise InvalidPolicy(mistakes)


def _digest(text: str) -> str:
    """Tells one text from another in the trail, where a whole policy has no room."""
    return hashlib.sha256(text.encode()).hexdigest()
