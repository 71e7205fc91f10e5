"""Aliases: other names of models, for everybody or for the callers of one project. They change while the gateway runs.

A name that has stood for one vector space stands for another only if that is said to be meant: vectors that were stored
under it cannot be compared with new ones.
"""

import re
from typing import Annotated

import sqlalchemy as sa
from msgspec import Meta, Struct

from embedgate.core.access import AliasRule
from embedgate.core.actions import EMBEDDING
from embedgate.core.aliases import Aliases
from embedgate.core.errors import Conflict, GatewayError, InvalidInput, SpaceChange, UnknownEntity, UnknownModel
from embedgate.core.models import Model
from embedgate.core.near_names import did_you_mean
from embedgate.engine.routing.find_model import ModelFinder, alias_of, aliased
from embedgate.govern.change import Change, Reading
from embedgate.govern.lists import Listed, ListQuery, pick, sorts
from embedgate.govern.models import find_model
from embedgate.govern.operation import Facts, changes, reads
from embedgate.govern.projects import find_project
from embedgate.govern.selection import Selection
from embedgate.storage import schema

_TABLE = schema.aliases
_EVERYBODY = ""
"""In the column of the project, which is part of the primary key and so cannot be null."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/@+-]{0,127}")

ProjectRef = Annotated[
    str | None, Meta(description="Name or id of the project whose callers it is for; absent: for everybody.")
]
SpaceAgreed = Annotated[
    bool,
    Meta(description="Whether the name may stand for a model of another vector space than until now."),
]


class Alias(Struct, frozen=True):
    """Another name of a model."""

    name: Annotated[str, Meta(description="What callers may send as `model`.")]
    model: Annotated[str, Meta(description="Id of the model that it stands for.")]
    project: Annotated[str | None, Meta(description="Id of the project whose callers it is for; null: everybody.")]
    space: Annotated[str | None, Meta(description="Vector space that it stands for; null: the model makes no vectors.")]
    is_on: Annotated[bool, Meta(description="Whether the model is there, and a provider that serves it is on.")]


class NewAlias(Struct, forbid_unknown_fields=True):
    """The model that a name stands for."""

    name: Annotated[str, Meta(description="The other name.", examples=["fast-embed"])]
    model: Annotated[str, Meta(description="Id of the model, or its bare name.", examples=["local/all-minilm-l6-v2"])]
    project: ProjectRef = None
    allow_space_change: SpaceAgreed = False


class WhichAlias(Struct, forbid_unknown_fields=True):
    """An alias."""

    name: Annotated[str, Meta(description="The other name.", examples=["fast-embed"])]
    project: ProjectRef = None
    allow_space_change: SpaceAgreed = False


class AliasQuery(ListQuery):
    """Which aliases."""

    project: Annotated[str | None, Meta(description="Only those of this project, by name or id.")] = None
    sort: Annotated[str, sorts("name", "model", "project")] = ""


class AliasSet(Struct, frozen=True):
    """An alias that was set, and what is yet to be done."""

    alias: Alias
    notes: Annotated[tuple[str, ...], Meta(description="What to know or to do, one sentence each.")]


@reads("aliases.list", "GET", "/api/aliases", Facts("listAliases", raises=(UnknownEntity,)))
def list_aliases(reading: Reading, query: AliasQuery) -> Listed[Alias]:
    """List the aliases of models."""
    project = None if query.project is None else find_project(reading, query.project).id
    selection = reading.resources.gateway.selection()
    rules = read_aliases(reading.connection)
    return pick((_alias(rule, selection) for rule in rules if project in (None, rule.project_id)), query)


@changes(
    "aliases.set",
    "PUT",
    "/api/aliases/{name}",
    Facts(
        "setAlias",
        example={"model": "local/all-minilm-l6-v2"},
        raises=(UnknownModel, SpaceChange),
    ),
)
def set_alias(change: Change, new: NewAlias) -> AliasSet:
    """Set an alias of a model.

    Instead of the one that has the name for the same callers. It can be asked for from the answer on.
    """
    selection = change.resources.gateway.selection()
    project = None if new.project is None else find_project(change, new.project).id
    rules = read_aliases(change.connection)
    _check_name(new.name, selection)
    model = _target(new.model, selection, Aliases(rules), project)
    rule = AliasRule(new.name, project, model.id, _space_of(model))
    before = _meaning(new.name, project, selection, Aliases(rules))
    if not new.allow_space_change:
        _check_space(new.name, before, (rule.model, rule.space))
    is_new = change.connection.execute(_TABLE.delete().where(_is(new.name, project))).rowcount == 0
    most = change.resources.max_aliases
    if is_new and len(rules) >= most:
        raise Conflict(f"There are {most} aliases, as many as catalog.max_aliases allows. Remove one first.")
    change.connection.execute(_TABLE.insert().values(_row(rule)))
    change.rules_changed()
    change.note(
        "aliases.set",
        rule.name,
        model=rule.model,
        project_id=project,
        space=rule.space,
        instead_of=before[0] if before else None,
    )
    alias = _alias(rule, selection)
    off = "; ".join(dict.fromkeys(selection.explain_off(route.provider) for route in model.routes))
    return AliasSet(alias, () if alias.is_on else (f"{model.id} cannot be asked yet: {off}.",))


@changes("aliases.remove", "DELETE", "/api/aliases/{name}", Facts("removeAlias", raises=(SpaceChange,)))
def remove_alias(change: Change, which: WhichAlias) -> None:
    """Remove an alias of a model.

    The name then stands for what it would stand for without it, if for anything.
    """
    project = None if which.project is None else find_project(change, which.project).id
    rules = read_aliases(change.connection)
    folded = which.name.casefold()
    removed = next((rule for rule in rules if (rule.name.casefold(), rule.project_id) == (folded, project)), None)
    if removed is None:
        raise UnknownEntity(_not_set(which, rules), param="name")
    if not which.allow_space_change:
        left = Aliases(rule for rule in rules if rule is not removed)
        after = _meaning(removed.name, project, change.resources.gateway.selection(), left)
        _check_space(removed.name, (removed.model, removed.space), after)
    change.connection.execute(_TABLE.delete().where(_is(removed.name, project)))
    change.rules_changed()
    change.note("aliases.remove", removed.name, model=removed.model, project_id=project)


def read_aliases(connection: sa.Connection) -> tuple[AliasRule, ...]:
    """Every alias, by name; of one name, that for everybody first."""
    rows = connection.execute(_TABLE.select().order_by(_TABLE.c.name, _TABLE.c.project_id))
    return tuple(AliasRule(row.name, row.project_id or None, row.model, row.space) for row in rows)


def unaliased(reading: Reading, name: str, project_id: str | None = None) -> str:
    """A name as a caller would write it, `name:provider` too, with the id of the model in place of an alias.

    project_id: whose aliases count. Another name stays as it is. Raises UnknownModel for an alias whose model is gone.
    """
    catalog = reading.resources.catalog()
    bare, provider = catalog.parse_model_name(name)
    found = aliased(bare, project_id, Aliases(read_aliases(reading.connection)), catalog)
    if found == bare:
        return name
    return f"{found}:{provider}" if provider else found


def model_ids(reading: Reading, names: tuple[str, ...], project_id: str | None = None) -> tuple[str, ...]:
    """The ids of models by id, alias or bare name, as they are now; a name that no model has stays as it is.

    project_id: whose aliases count. Raises UnknownModel for an alias whose model is gone.
    """
    catalog, aliases = reading.resources.catalog(), Aliases(read_aliases(reading.connection))
    found = [(catalog.find(aliased(name, project_id, aliases, catalog)), name) for name in names]
    return tuple(name if model is None else model.id for model, name in found)


def without_aliases(connection: sa.Connection, names: tuple[str, ...]) -> tuple[str, ...]:
    """Names with ids in place of everybody's aliases. Needs no catalogue: what it would be may be what is mended."""
    aliases = Aliases(read_aliases(connection))
    found = [(aliases.find(name, None), name) for name in names]
    return tuple(name if alias is None else alias.model for alias, name in found)


def check_unused(connection: sa.Connection, model_id: str) -> None:
    """Raises Conflict if an alias stands for a model that is about to be gone."""
    names = [rule.name for rule in read_aliases(connection) if rule.model == model_id]
    if names:
        raise Conflict(
            f"{model_id} has aliases: {', '.join(names[:5])}. Set them to another model first, or remove them: "
            f"embedgate aliases remove {names[0]}.",
            param="model",
        )


def alias_named(connection: sa.Connection, name: str) -> AliasRule | None:
    """An alias of that name, in any capitals, of whichever project; that for everybody if there is one."""
    return next((rule for rule in read_aliases(connection) if rule.name.casefold() == name.casefold()), None)


def check_no_alias(connection: sa.Connection, model_id: str) -> None:
    """Raises Conflict if an alias has the name of a model that is about to be added: the id would go before it."""
    taken = alias_named(connection, model_id)
    if taken is not None:
        raise Conflict(
            f"{model_id} is an alias of {taken.model}. Give another id, or remove the alias first: "
            f"embedgate aliases remove {taken.name}.",
            param="model",
        )


def _check_name(name: str, selection: Selection) -> None:
    """Raises InvalidInput or Conflict unless a model may have that other name."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"The alias {name[:128]!r} has {len(name)} characters; it must be 1 to 128 letters, digits and ._/@+- "
            "of ASCII, and begin with a letter or a digit.",
            param="name",
        )
    taken = next((model.id for model in selection.catalog.models() if model.id.casefold() == name.casefold()), None)
    if taken is not None:
        raise Conflict(f"{taken} is the id of a model, and cannot stand for another one.", param="name")


def _target(named: str, selection: Selection, aliases: Aliases, project: str | None) -> Model:
    """The model that an alias is set to. Raises InvalidInput for another alias, UnknownModel."""
    other = alias_of(named, project, aliases, selection.catalog)
    if other is not None:
        raise InvalidInput(f"{named[:200]} is an alias itself. Give the id of the model: {other.model}.", param="model")
    model = selection.catalog.find(named)
    if model is None:
        find_model(selection.catalog, named)  # says why not, unless a provider is in the name
        raise InvalidInput(f"{named[:200]!r} names a provider, too. Give the id of the model alone.", param="model")
    return model


_Meaning = tuple[str, str | None]
"""Id of a model and its vector space, None if it makes no vectors."""


def _meaning(name: str, project: str | None, selection: Selection, aliases: Aliases) -> _Meaning | None:
    """What callers of a project get for a name; None for nothing."""
    rule = aliases.find(name, project)
    if rule is not None:
        return rule.model, rule.space
    try:
        model = ModelFinder(selection.catalog, selection.switched_on, "").find(name, None, EMBEDDING)
    except GatewayError:
        return None
    return (model.id, _space_of(model)) if model.is_served_by(selection.switched_on) else None


def _check_space(name: str, before: _Meaning | None, after: _Meaning | None) -> None:
    """Raises SpaceChange if a name that has stood for vectors would stand for others."""
    if before is None or after is None or before[1] is None or before[1] == after[1]:
        return
    (old, old_space), (new, space) = before, after
    others = (
        f"those of {new} are of the space {space}, and cannot be compared with them" if space else f"{new} makes none"
    )
    raise SpaceChange(
        f"{name} stands for {old} now, whose vectors are of the space {old_space}; {others}. What is stored under this "
        "name must be embedded anew. If that is meant, send allow_space_change with true.",
        param="allow_space_change",
    )


def _space_of(model: Model) -> str | None:
    return (model.space or model.id) if model.action == EMBEDDING.name else None


def _is(name: str, project: str | None) -> sa.ColumnElement[bool]:
    """The row of a name in any capitals: names are ASCII."""
    return (sa.func.lower(_TABLE.c.name) == name.lower()) & (_TABLE.c.project_id == (project or _EVERYBODY))


def _row(rule: AliasRule) -> dict[str, str | None]:
    return {
        "project_id": rule.project_id or _EVERYBODY,
        "name": rule.name,
        "model": rule.model,
        "space": rule.space,
    }


def _alias(rule: AliasRule, selection: Selection) -> Alias:
    model = selection.catalog.by_id(rule.model)
    is_on = model is not None and model.is_served_by(selection.switched_on)
    return Alias(rule.name, rule.model, rule.project_id, rule.space, is_on)


def _not_set(which: WhichAlias, rules: tuple[AliasRule, ...]) -> str:
    of = f" of the project {which.project[:100]!r}" if which.project else ""
    there = sorted({rule.name for rule in rules})
    shown = f"There are {', '.join(there[:10])}." if there else "None is set."
    return f"There is no alias {which.name[:200]!r}{of}. {did_you_mean(which.name, there)}{shown}"


OPERATIONS = (list_aliases, set_alias, remove_alias)
