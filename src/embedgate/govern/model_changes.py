"""Models that are added to a provider and removed again while the gateway runs."""

from typing import Annotated

from msgspec import Meta, Struct

from embedgate.catalog import Catalog
from embedgate.core.access import AddedModel
from embedgate.core.actions import ActionName
from embedgate.core.errors import Conflict, InvalidInput, UnknownEntity, UnknownProvider
from embedgate.core.models import LOCAL, Model
from embedgate.govern.added_models import TABLE, detail_of, read_added
from embedgate.govern.aliases import alias_named, check_no_alias, check_unused
from embedgate.govern.change import Change, Reading
from embedgate.govern.fields import check_number, check_text, findable
from embedgate.govern.models import CatalogModel, find_model, model_facts
from embedgate.govern.operation import Facts, changes
from embedgate.govern.prices import picodollars_per_token
from embedgate.govern.selection import FAKE, Selection
from embedgate.govern.soundness import check_sound, faults_of
from embedgate.govern.values import UsdGiven

_MAX_ID_CHARACTERS = 255
_MAX_DIM = 65_536
"""Far above any model; a size in the millions is a slip of the finger."""
_MAX_TOKENS = 1_000_000_000
_USUAL_MAX_TOKENS = 512
"""What an encoder takes where nobody says otherwise; a longer text would be cut there without a word."""


class NewModel(Struct, forbid_unknown_fields=True):
    """A model at a provider. What the catalogue knows of a model is not given again."""

    model: Annotated[str, Meta(description="Its id, `author/name`: what callers ask for.", examples=["acme/encoder"])]
    provider: Annotated[str, Meta(description="The provider that serves it.")]
    upstream_model: Annotated[str | None, Meta(description="What the provider calls it; absent: as its id.")] = None
    action: Annotated[ActionName | None, Meta(description="What it is for; absent: embedding.")] = None
    dim: Annotated[int | None, Meta(description="Length of its vectors.")] = None
    max_tokens: Annotated[int | None, Meta(description="Longest input, in tokens; absent: 512.")] = None
    max_output_tokens: Annotated[int | None, Meta(description="Longest answer of a chat model, in tokens.")] = None
    usd_per_million_tokens: UsdGiven | None = None
    usd_per_million_output_tokens: Annotated[
        UsdGiven | None, Meta(description="Dollars per million tokens that a chat model writes.")
    ] = None
    space: Annotated[
        str | None, Meta(description="What its vectors share with those of other models; absent: nothing.")
    ] = None
    is_matryoshka: Annotated[bool | None, Meta(description="Whether a vector may be cut and rescaled.")] = None
    is_normalised: Annotated[
        bool | None, Meta(description="Whether its vectors are compared at length 1; absent: they are.")
    ] = None
    query_prefix: Annotated[str | None, Meta(description="What goes before each query.")] = None
    document_prefix: Annotated[str | None, Meta(description="What goes before each document.")] = None


class ModelAtProvider(Struct, forbid_unknown_fields=True):
    """A model that was added, at one provider or at all."""

    model: Annotated[str, Meta(description="Id of the model.", examples=["acme/encoder"])]
    provider: Annotated[str | None, Meta(description="Only there; absent: at every provider.")] = None


class ModelAdded(Struct, frozen=True):
    """A model that was added, and what is yet to be done."""

    provider: str
    model: CatalogModel
    is_on: Annotated[bool, Meta(description="Whether it can be asked of that provider now.")]
    notes: Annotated[tuple[str, ...], Meta(description="What to know or to do, one sentence each.")]


@changes(
    "models.add",
    "POST",
    "/api/models",
    Facts(
        "addModel",
        status=201,
        example={"model": "acme/encoder", "provider": "acme", "dim": 768, "max_tokens": 512},
        raises=(UnknownProvider, Conflict),
    ),
)
def add_model(change: Change, new: NewModel) -> ModelAdded:
    """Add a model to a provider.

    In place of what was added of it there before. It can be asked for from the answer on.
    """
    faults = faults_of(change)
    check_sound(faults, was_sound=True, param="model")
    selection = change.resources.gateway.decide(change.connection)
    added = read_added(change.connection)
    _check_place(new, selection, added)
    record = _record(new, selection, added, change.now_ms)
    check_no_alias(change.connection, record.model)
    _store(change, record)
    check_sound(faults_of(change), was_sound=True, param="model")
    change.rules_changed()
    change.note("models.add", record.model, **detail_of(record))
    return _added(record, change.resources.gateway.decide(change.connection), new)


@changes("models.remove", "DELETE", "/api/models/{model}", Facts("removeModel", raises=(UnknownEntity,)))
def remove_model(change: Change, which: ModelAtProvider) -> None:
    """Remove a model that was added.

    From one provider, or from all. What the catalogue has of it stays.
    """
    was_sound = not faults_of(change)
    ours = TABLE.c.model == findable(which.model)
    if which.provider is not None:
        ours &= TABLE.c.provider == findable(which.provider)
    removed = change.connection.execute(TABLE.delete().where(ours).returning(TABLE.c.provider)).scalars().all()
    if not removed:
        raise UnknownEntity(_not_added(change, which), param="model")
    check_sound(faults_of(change), was_sound=was_sound, param="model")
    is_left = any(each.model == which.model for each in read_added(change.connection))
    if not is_left and which.model in change.resources.gateway.selection().own_models:
        check_unused(change.connection, which.model)
    change.rules_changed()
    change.note("models.remove", which.model, providers=", ".join(sorted(removed)))


def _not_added(reading: Reading, which: ModelAtProvider) -> str:
    at = f" to {which.provider[:100]}" if which.provider else ""
    alias = alias_named(reading.connection, which.model)
    if alias is not None:
        return f"{alias.name} is an alias of {alias.model}. A model is removed by its id, an alias by aliases remove."
    there = sorted({f"{each.model} at {each.provider}" for each in read_added(reading.connection)})
    shown = f"Added are {', '.join(there[:10])}." if there else "No model was added."
    return f"{which.model[:200]!r} was not added{at}. {shown}"


def _check_place(new: NewModel, selection: Selection, added: tuple[AddedModel, ...]) -> None:
    """Raises UnknownProvider, InvalidInput or Conflict unless the provider can have the model."""
    name = new.provider
    if name in (LOCAL, FAKE):
        raise InvalidInput(
            f"The models of {name} are part of this program. Local ones come from the settings (local.models).",
            param="provider",
        )
    known = selection.rows.keys() - {"generic"} | selection.entries.keys()
    if name not in known:
        raise UnknownProvider(
            f"There is no provider {name[:100]!r} yet. Set it up: embedgate providers set {name[:100]} --base-url URL.",
            param="provider",
        )
    entry = selection.entries.get(name)
    row = selection.rows.get(entry.host if entry is not None and entry.host else name)
    others = [each.model for each in added if each.provider == name and each.model != new.model]
    if row is not None and row.ignores_model and others:
        raise Conflict(
            f"{name} answers for any name with the one model that it has, which is {others[0]} here. Remove that "
            f"first: embedgate models remove {others[0]} --provider {name}.",
            param="model",
        )


def _record(new: NewModel, selection: Selection, added: tuple[AddedModel, ...], now_ms: int) -> AddedModel:
    """What is to be stored. Raises InvalidInput or Conflict."""
    check_text(new.model, "id", param="model", max_characters=_MAX_ID_CHARACTERS)
    mine = [each for each in added if each.model == new.model and each.provider != new.provider]
    listed = selection.catalog.by_id(new.model)
    upstream = new.upstream_model or _name_there(selection, new) or new.model
    check_text(upstream, "name at the provider", param="upstream_model")
    _check_numbers(new)
    prices = _prices(new)
    if listed is not None and listed.id not in selection.own_models:
        _check_as_listed(new, listed)
        facts = AddedModel(new.model, new.provider, upstream, listed.action, max_input_tokens=new.max_tokens)
    else:
        # What only administrators know of a model is what they have said of it at its other providers.
        facts = _own_facts(new, selection.catalog, mine[0] if mine else None, upstream)
    return AddedModel(
        facts.model, facts.provider, facts.upstream_model, facts.action, facts.dim, facts.max_input_tokens,
        facts.max_output_tokens, facts.space, facts.is_matryoshka, facts.is_normalised, new.query_prefix,
        new.document_prefix, *prices, now_ms,
    )  # fmt: skip


def _name_there(selection: Selection, new: NewModel) -> str | None:
    """What the catalogue says that such a provider calls the model."""
    known = selection.catalog.by_id(new.model)
    entry = selection.entries.get(new.provider)
    at = {new.provider, entry.host if entry is not None else None}
    return next((route.upstream_model for route in known.routes if route.provider in at), None) if known else None


def _own_facts(new: NewModel, catalog: Catalog, before: AddedModel | None, upstream: str) -> AddedModel:
    """What is known of a model that the catalogue does not know. before: at another provider. Raises InvalidInput."""
    twin = next((model for model in catalog.models() if model.id.casefold() == new.model.casefold()), None)
    if twin is not None and twin.id != new.model:
        raise Conflict(f"{new.model} differs from {twin.id} only in capitals. Use that id.", param="model")
    if before is not None:
        same = {"action": before.action, "dim": before.dim, "space": before.space or before.model}
        for name, value in same.items():
            given = getattr(new, name)
            if given is not None and given != value:
                raise InvalidInput(
                    f"{new.model} has {name} {value} at {before.provider}, and the same model cannot have {given} "
                    f"at {new.provider}. Give another id.",
                    param=name,
                )
    action = new.action or (before.action if before else "embedding")
    dim = new.dim or (before.dim if before else None)
    if action == "embedding" and dim is None:
        raise InvalidInput(
            f"The catalogue does not know {new.model}: give the length of its vectors (--dim), or have it "
            f"found out: embedgate models discover {new.provider} --add.",
            param="dim",
        )
    if action != "embedding" and dim is not None:
        raise InvalidInput(f"A model for {action} makes no vectors. Leave dim out.", param="dim")
    _check_space(new, catalog, dim)
    return AddedModel(
        new.model,
        new.provider,
        upstream,
        action,
        dim,
        new.max_tokens or (before.max_input_tokens if before else None) or _USUAL_MAX_TOKENS,
        new.max_output_tokens or (before.max_output_tokens if before else None),
        new.space or (before.space if before else None),
        _one_of(new.is_matryoshka, before.is_matryoshka if before else False),
        _one_of(new.is_normalised, before.is_normalised if before else True),
    )


def _one_of(given: bool | None, else_: bool) -> bool:
    return else_ if given is None else given


def _check_space(new: NewModel, catalog: Catalog, dim: int | None) -> None:
    if new.space is None:
        return
    check_text(new.space, "space", param="space", max_characters=_MAX_ID_CHARACTERS)
    for model in catalog.embedding_models():
        if model.space == new.space and model.id != new.model and model.dims and model.dims.default != dim:
            raise InvalidInput(
                f"The space {new.space} is that of {model.id}, whose vectors have {model.dims.default} numbers; those "
                f"of {new.model} have {dim}, so they cannot be compared. Leave space out.",
                param="space",
            )


def _check_as_listed(new: NewModel, listed: Model) -> None:
    """Raises InvalidInput for a fact of a model that the catalogue knows otherwise."""
    facts: dict[str, object] = {
        "action": listed.action,
        "dim": listed.dims.default if listed.dims else None,
        "max_output_tokens": listed.max_output_tokens,
        "space": listed.space,
        "is_matryoshka": listed.is_matryoshka,
        "is_normalised": listed.is_normalised,
    }
    for name, value in facts.items():
        given = getattr(new, name)
        if given is not None and given != value:
            raise InvalidInput(
                f"The catalogue knows {listed.id}, with {name} {value}; {given} would be another model. Leave it out, "
                "or give another id.",
                param=name,
            )


def _check_numbers(new: NewModel) -> None:
    for name, value, most in (
        ("dim", new.dim, _MAX_DIM),
        ("max_tokens", new.max_tokens, _MAX_TOKENS),
        ("max_output_tokens", new.max_output_tokens, _MAX_TOKENS),
    ):
        if value is not None:
            check_number(value, name, param=name, minimum=1, maximum=most)
    for name, text in (("query_prefix", new.query_prefix), ("document_prefix", new.document_prefix)):
        if text is not None:
            check_text(text, name, param=name)


def _prices(new: NewModel) -> tuple[int | None, int | None]:
    of_input, of_output = new.usd_per_million_tokens, new.usd_per_million_output_tokens
    if of_output is not None and of_input is None:
        raise InvalidInput("A price of what is written needs one of what is read, too.", param="usd_per_million_tokens")
    return (
        None if of_input is None else picodollars_per_token(of_input),
        None if of_output is None else picodollars_per_token(of_output),
    )


def _store(change: Change, record: AddedModel) -> None:
    values = {name: getattr(record, name) for name in AddedModel.__dataclass_fields__}
    ours = (TABLE.c.model == record.model) & (TABLE.c.provider == record.provider)
    if change.connection.execute(TABLE.update().where(ours).values(values)).rowcount == 0:
        change.connection.execute(TABLE.insert().values(values))


def _added(record: AddedModel, selection: Selection, new: NewModel) -> ModelAdded:
    """The answer, with what is yet to be known or done."""
    model, routes = find_model(selection.catalog, f"{record.model}:{record.provider}")
    is_on = selection.is_on(record.provider)
    notes = [] if is_on else [f"It cannot be asked yet: {selection.explain_off(record.provider)}."]
    if new.max_tokens is None and record.max_input_tokens == _USUAL_MAX_TOKENS:
        notes.append(f"Inputs of more than {_USUAL_MAX_TOKENS} tokens are refused; --max-tokens says otherwise.")
    if any(not route.has_price(model.action) for route in routes):
        notes.append(
            "Its price is not known, so callers with a budget are refused. Set it: embedgate prices set "
            f"{record.model} {record.provider} DOLLARS, or say that the server is yours: embedgate providers set "
            f"{record.provider} --free."
        )
    return ModelAdded(record.provider, model_facts(model, selection.switched_on), is_on, tuple(notes))


OPERATIONS = (add_model, remove_model)
