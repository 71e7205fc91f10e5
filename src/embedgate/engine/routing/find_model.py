"""Finds the model that a request names, or says why there is none and which model may have been meant."""

from collections.abc import Collection

from embedgate.catalog import Catalog
from embedgate.core.access import AliasRule
from embedgate.core.actions import EMBEDDING, Action
from embedgate.core.aliases import NO_ALIASES, Aliases
from embedgate.core.errors import (
    InvalidInput,
    ModelNotAtProvider,
    NotAnEmbeddingModel,
    ProviderKeyMissing,
    UnknownModel,
    UnknownProvider,
    WrongAction,
)
from embedgate.core.model_names import bare_name
from embedgate.core.models import Model

_MAX_KEPT = 4_096
_MAX_EXPLAINED = 256
_LONGEST_KEPT = 200


class ModelFinder:
    """Finds models by the catalogue and by which providers are on."""

    def __init__(
        self, catalog: Catalog, switched_on: Collection[str], default_model: str, aliases: Aliases = NO_ALIASES
    ) -> None:
        """switched_on: providers that can be called. default_model: an embedding model, named when nothing fits.

        aliases: names that go before all but the ids of the catalogue.
        """
        self._catalog = catalog
        self._switched_on = switched_on
        self._default_model = default_model
        self._aliases = aliases
        self._projects = aliases.projects
        self._called: dict[tuple[str, str], list[Model]] | None = None
        self._found: dict[tuple[str, str | None, str, str | None], Model] = {}
        """What was found before: the same as long as this object lives."""
        self._explained: dict[tuple[str, str], str] = {}
        """Why there is no model of a name: to look for names that are near takes milliseconds of the event loop, and a
        client that is set up wrong asks for the same again and again."""

    def find(self, name: str, provider: str | None, action: Action, project_id: str | None = None) -> Model:
        """The model of that name, made for `action`. provider: the only one that may serve it; then `name` may be its.

        project_id: of the caller, whose project may have aliases of its own. An id means its model, an alias the model
        that it was set to. Another name that the catalogue does not have as it is, means the one model that is on and
        is called so: in other capitals, behind another author, with the tag of a build. A model that is off means its
        twin that is on: one whose vectors are of the same space. Raises InvalidInput, UnknownProvider,
        ModelNotAtProvider, UnknownModel, ProviderKeyMissing, NotAnEmbeddingModel or WrongAction.
        """
        asked = (name, provider, action.name, project_id if project_id in self._projects else None)
        known = self._found.get(asked)
        if known is not None:
            return known
        found = self._find(aliased(name, project_id, self._aliases, self._catalog), provider, action)
        if len(name) <= _LONGEST_KEPT:
            if len(self._found) >= _MAX_KEPT:  # a name may be spelled in many ways
                self._found.clear()
            self._found[asked] = found
        return found

    def _find(self, name: str, provider: str | None, action: Action) -> Model:
        if not name.strip():
            raise InvalidInput("The model is empty. Name one; see GET /v1/models.", param="model")
        if provider and provider not in self._catalog.providers():
            if provider in self._switched_on:
                raise ModelNotAtProvider(
                    f"{provider} has no model yet. Ask an administrator to add one: embedgate models add ID "
                    f"--provider {provider}.",
                    param="provider",
                )
            raise UnknownProvider(f"There is no provider {provider[:100]!r} here.", param="provider")
        model = self._catalog.at_provider(provider, name) if provider else self._catalog.find(name)
        if model is None and provider and self._catalog.find(name):
            raise ModelNotAtProvider(f"Model {name[:200]} is not served by {provider}.", param="model")
        if provider is None and (model is None or not model.is_served_by(self._switched_on)):
            model = self._twin(model, action) if model is not None else self._called_so(name, action)
        if model is None:
            raise UnknownModel(self._explanation(name, action), param="model")
        if not model.routes:
            raise ProviderKeyMissing(
                f"{model.id} is known, but the providers that could serve it are set to serve other models "
                "(providers.<name>.models).",
                param="model",
            )
        if model.action != action.name:
            error = NotAnEmbeddingModel if action is EMBEDDING else WrongAction
            suggestion = self._suggest(model, provider, action)
            advice = f"Use {suggestion} instead." if suggestion else "See GET /v1/models for models that do."
            raise error(f"Model {name} does not support {action.policy_name} action. {advice}", param="model")
        return model

    def _twin(self, model: Model, action: Action) -> Model:
        """A model that is on and makes vectors of the same space as one that is off; that one if there is none."""
        if model.space is None or model.action != action.name:
            return model
        same = (other for other in self._catalog.models() if other.space == model.space)
        return next((other for other in same if other.is_served_by(self._switched_on)), model)

    def _called_so(self, name: str, action: Action) -> Model | None:
        """The model that is on and is called so by its id or by a provider; None if there is none, or are several.

        Models of one space count as one. The table is made at the first such name.
        """
        if self._called is None:
            self._called = self._by_bare_name()
        found = self._called.get((action.name, bare_name(name)), ())
        return found[0] if found and len({model.space or model.id for model in found}) == 1 else None

    def _by_bare_name(self) -> dict[tuple[str, str], list[Model]]:
        """Models that are on, by what they are for and each of their names without author and tag."""
        found: dict[tuple[str, str], list[Model]] = {}
        for model in self._catalog.models():
            routes = [route for route in model.routes if route.provider in self._switched_on]
            names = {bare_name(model.id), *(bare_name(route.upstream_model) for route in routes)} if routes else ()
            for each in names:
                found.setdefault((model.action, each), []).append(model)
        return found

    def _suggest(self, model: Model, provider: str | None, action: Action) -> str | None:
        """The cheapest model near the one asked for: of the provider that was named, else one that is on."""
        wanted = {provider} if provider else set(self._switched_on)
        near = [
            (route.price.picodollars_per_token, other)
            for other in self._catalog.models()
            for route in other.routes
            if other.action == action.name
            and route.provider in wanted
            and route.price
            and (provider or other.author == model.author)
        ]
        if not near:
            return self._default_model if action.has_default_model else None
        _, cheapest = min(near, key=lambda pair: pair[0])
        return cheapest.name if provider else cheapest.id

    def _explanation(self, name: str, action: Action) -> str:
        asked = (name, action.name)
        known = self._explained.get(asked)
        if known is None:
            known = self._explain_unknown(name, action)
            if len(name) <= _LONGEST_KEPT:
                if len(self._explained) >= _MAX_EXPLAINED:
                    self._explained.clear()
                self._explained[asked] = known
        return known

    def _explain_unknown(self, name: str, action: Action) -> str:
        ambiguous = self._catalog.ambiguous(name)
        if ambiguous:
            return f"The model name {name!r} fits several models: {', '.join(ambiguous[:5])}. Use one of these ids."
        replacement = self._catalog.retired(name)
        if replacement:
            found = self._catalog.find(replacement)
            if found is not None and found.is_served_by(self._switched_on):
                return f"The model {name!r} was shut down by its provider. Use {replacement} instead."
            usual = f"Use {self._default_model}, or see" if action.has_default_model else "See"
            return (
                f"The model {name!r} was shut down by its provider, and {replacement}, which came after it, is not "
                f"switched on. {usual} GET /v1/models."
            )
        return f"The model {name[:200]!r} does not exist here. {self._hint(name, action)}"

    def _hint(self, name: str, action: Action) -> str:
        """Which model may have been meant; at the end one that is on, if there is any."""
        usual = f"Use {self._default_model}, or see" if action.has_default_model else "See"
        close = self._catalog.close_matches(name, action.name)
        if not close:
            return f"{usual} GET /v1/models."
        near = self._catalog.close_matches(name, action.name, self._switched_on)
        off = [each for each in close if each not in near]
        hint = f"Did you mean {' or '.join(close)}?"
        if not off:
            return hint
        instead = f"Use {near[0]}, or see" if near else usual
        return f"{hint} Not switched on here: {', '.join(off)}. {instead} GET /v1/models."


def alias_of(name: str, project_id: str | None, aliases: Aliases, catalog: Catalog) -> AliasRule | None:
    """The alias that a name is; None for an id, which goes before, and for any other name.

    project_id: of the caller.
    """
    return None if catalog.by_id(name) else aliases.find(name, project_id)


def aliased(name: str, project_id: str | None, aliases: Aliases, catalog: Catalog) -> str:
    """The id of the model that an alias stands for; the name itself if it is an id or no alias. Raises UnknownModel.

    project_id: of the caller.
    """
    alias = alias_of(name, project_id, aliases, catalog)
    if alias is None:
        return name
    if catalog.by_id(alias.model) is None:
        raise UnknownModel(
            f"{alias.name} is an alias of {alias.model}, which does not exist here any more. Ask an administrator to "
            f"set it to another model: embedgate aliases set {alias.name} MODEL.",
            param="model",
        )
    return alias.model
