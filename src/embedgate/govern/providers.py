"""Providers: which there are and which are on, what is set of them at run time, and a call that tries one.

Keys of providers come in here, are stored sealed, and never go out. The settings file holds wherever nothing is stored.
"""

import re
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any

import sqlalchemy as sa
from msgspec import Meta, Struct

from embedgate.core.access import ProviderRecord
from embedgate.core.errors import (
    ConfigError,
    GatewayError,
    InternalError,
    InvalidInput,
    UnknownEntity,
    UnknownProvider,
)
from embedgate.core.money import usd_text
from embedgate.core.near_names import did_you_mean
from embedgate.govern.added_models import models_of, models_text
from embedgate.govern.addresses import check_base_url
from embedgate.govern.aliases import without_aliases
from embedgate.govern.change import Change, Invocation, Plain, Reading, plain
from embedgate.govern.fields import MAX_TEXT_CHARACTERS, check_name, check_number, check_text, findable
from embedgate.govern.lists import Listed, ListQuery, pick, sorts
from embedgate.govern.models import unknown_provider
from embedgate.govern.operation import Facts, changes, reads, runs
from embedgate.govern.selection import Selection
from embedgate.govern.soundness import check_sound, faults_of
from embedgate.govern.trial import explained
from embedgate.govern.values import Moment, Usd, moment
from embedgate.storage import schema
from embedgate.storage.sealing import Sealer

ProviderName = Annotated[str, Meta(description="Name of the provider.", examples=["openai"])]

_PATH = "/api/providers/{provider}"
_MAX_KEY_CHARACTERS = 4_096
_MAX_MODEL_CHARACTERS = 255
_HINT_CHARACTERS = 4
_MIN_HINTED_CHARACTERS = 16
_TABLE = schema.providers
_PROVIDERS = sa.select(*(column for column in _TABLE.c if column.name != "sealed_key"))
_SETTINGS = (
    "is_enabled", "host", "base_url", "max_parallel", "batching", "models", "weight", "precision",
    "requests_per_minute", "tokens_per_minute", "free", "names_freely",
)  # fmt: skip
_PRECISION = re.compile(r"[a-z0-9][a-z0-9_.-]{0,31}")
_KEY = re.compile(rf"[!-~]{{1,{_MAX_KEY_CHARACTERS}}}")


class ProviderInUse(Struct, frozen=True):
    """How a provider is called now, by what is set here or else by the settings file. null: as the provider says."""

    base_url: str
    max_parallel: Annotated[int, Meta(description="Calls in flight at once.")]
    requests_per_minute: Annotated[int | None, Meta(description="With one key.")]
    tokens_per_minute: Annotated[int | None, Meta(description="With one key.")]


class Provider(Struct, frozen=True):
    """A provider, and what is stored of it. What is null there is as the settings file says."""

    name: str
    is_on: Annotated[
        bool | None,
        Meta(description="Whether it serves requests now; null if a gateway could not start with what is stored."),
    ]
    how_to_switch_on: Annotated[
        str | None, Meta(description="What it lacks, or what a gateway lacks that could not start; null if it is on.")
    ]
    models: Annotated[int, Meta(description="How many embedding models it has.")]
    is_stored: Annotated[bool, Meta(description="Whether anything was set here.")]
    is_enabled: bool | None
    host: str | None
    base_url: str | None
    max_parallel: int | None
    batching: bool | None
    models_served: Annotated[tuple[str, ...] | None, Meta(description="The ids that were set of it.")]
    weight: int | None
    precision: str | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    free: bool | None
    names_freely: bool | None
    keys: Annotated[int, Meta(description="How many keys of it are in use, stored or not.")]
    key_hint: Annotated[str, Meta(description="The last four characters of its stored key, if it is a long one.")]
    updated_at: Moment | None
    in_use: Annotated[
        ProviderInUse | None, Meta(description="null if it is off, or is part of this program and not called.")
    ]


class ProviderToSet(Struct, forbid_unknown_fields=True):
    """All that is set of a provider. Null or absent: as the settings file says; a key that is stored stays."""

    provider: ProviderName
    is_enabled: bool | None = None
    host: Annotated[
        str | None, Meta(description="The known provider whose API it has, if that is not the one of its own name.")
    ] = None
    base_url: Annotated[str | None, Meta(description="Address of its API, up to and without `/embeddings`.")] = None
    max_parallel: Annotated[int | None, Meta(description="Calls in flight at once.")] = None
    batching: Annotated[bool | None, Meta(description="Whether inputs of different requests share a call.")] = None
    models: Annotated[
        tuple[str, ...] | None, Meta(description="Ids of the models that it serves, if not all that are known there.")
    ] = None
    weight: Annotated[int | None, Meta(description="Share of requests where routes are drawn by weight.")] = None
    precision: Annotated[str | None, Meta(description="Precision of its weights, such as `f16` or `int8`.")] = None
    requests_per_minute: Annotated[int | None, Meta(description="Of one key.")] = None
    tokens_per_minute: Annotated[int | None, Meta(description="Of one key.")] = None
    free: Annotated[
        bool | None, Meta(description="true: a server of one's own, where what has no price costs nothing.")
    ] = None
    names_freely: Annotated[
        bool | None, Meta(description="true: its answers may give the model that was asked another name.")
    ] = None
    key: Annotated[str | None, Meta(description="Its credential, which is stored sealed and never shown.")] = None
    allow_private: Annotated[bool, Meta(description="Permits an address of this machine or its network.")] = False


class ProviderQuery(ListQuery):
    """Which providers."""

    is_on: bool | None = None
    sort: Annotated[str, sorts("name", "is_on", "models", "updated_at")] = ""


class WhichProvider(Struct, forbid_unknown_fields=True):
    """A provider."""

    provider: ProviderName


class TrialOf(Struct, forbid_unknown_fields=True):
    """What to try a provider with."""

    provider: ProviderName
    model: Annotated[str | None, Meta(description="A model; absent: its first.")] = None


class TrialResult(Struct, frozen=True):
    """What came of one embedding."""

    ok: bool
    provider: str
    ms: Annotated[float, Meta(description="How long it took.")]
    model: Annotated[str | None, Meta(description="The model that answered.")] = None
    dim: Annotated[int | None, Meta(description="Length of its vector.")] = None
    tokens: Annotated[int | None, Meta(description="What was used.")] = None
    cost_usd: Annotated[Usd | None, Meta(description="What it cost; 0.0 where no price is known.")] = None
    error: Annotated[str | None, Meta(description="What went wrong.")] = None
    code: Annotated[str | None, Meta(description="The code of the error.")] = None


@reads("providers.list", "GET", "/api/providers", Facts("listProviders"))
def list_providers(reading: Reading, query: ProviderQuery) -> Listed[Provider]:
    """List the providers."""
    known = _Known.in_force(reading)
    found = (known.provider(name) for name in sorted(known.names()))
    return pick((each for each in found if query.is_on in (None, each.is_on)), query)


@reads("providers.show", "GET", _PATH, Facts("showProvider", raises=(UnknownProvider,)))
def show_provider(reading: Reading, which: WhichProvider) -> Provider:
    """Show a provider."""
    known = _Known.in_force(reading)
    return known.provider(known.find(which.provider))


@changes("providers.put", "PUT", _PATH, Facts("setProvider", example={"is_enabled": True, "key": "sk-…"}))
def set_provider(change: Change, wanted: ProviderToSet) -> Provider:
    """Set up a provider.

    Instead of what was set before; its key stays unless another is given. It holds from the answer on.
    """
    _check(wanted)
    was_sound = not faults_of(change)
    if wanted.key is None:
        _check_key_stays(change, wanted)
    fields = {name: getattr(wanted, name) for name in _SETTINGS}
    if wanted.models is not None:
        fields["models"] = without_aliases(change.connection, wanted.models)
    columns = {**fields, "models": models_text(fields["models"])}
    _store(change, wanted.provider, **columns, allow_private=wanted.allow_private)
    if wanted.key is not None:
        _seal(change, wanted.provider, wanted.key)
    has_new_key = wanted.key is not None
    return _changed(
        change,
        "providers.put",
        wanted.provider,
        was_sound=was_sound,
        detail={
            **{name: plain(value) for name, value in fields.items()},
            "has_new_key": has_new_key,
            "allow_private": wanted.allow_private,
        },
    )


@changes("providers.enable", "POST", f"{_PATH}/enable", Facts("enableProvider", raises=(UnknownProvider,)))
def enable_provider(change: Change, which: WhichProvider) -> Provider:
    """Switch a provider on.

    Whatever the settings file says. All else that is set of it stays.
    """
    return _switch(change, "providers.enable", which.provider, is_enabled=True)


@changes("providers.disable", "POST", f"{_PATH}/disable", Facts("disableProvider", raises=(UnknownProvider,)))
def disable_provider(change: Change, which: WhichProvider) -> Provider:
    """Switch a provider off.

    Whatever the settings file says. All else that is set of it stays.
    """
    return _switch(change, "providers.disable", which.provider, is_enabled=False)


@changes("providers.remove_key", "DELETE", f"{_PATH}/key", Facts("removeProviderKey"))
def remove_key(change: Change, which: WhichProvider) -> Provider:
    """Forget a provider's stored key.

    One in the environment or the settings is used again.
    """
    was_sound = not faults_of(change)
    found = _find(change, which.provider)
    _store(change, found.name, sealed_key=None, key_hint="")
    return _changed(change, "providers.remove_key", found.name, was_sound=was_sound)


@changes("providers.delete", "DELETE", _PATH, Facts("deleteProvider"))
def delete_provider(change: Change, which: WhichProvider) -> None:
    """Delete what is stored of a provider.

    What the settings file says of it holds again.
    """
    was_sound = not faults_of(change)
    found = _find(change, which.provider)
    change.connection.execute(_TABLE.delete().where(_TABLE.c.name == found.name))
    _changed(change, "providers.delete", found.name, was_sound=was_sound)


@runs(
    "providers.test",
    "POST",
    f"{_PATH}/test",
    Facts("testProvider", example={"model": "openai/text-embedding-3-small"}, raises=(UnknownProvider,)),
)
def try_provider(invocation: Invocation, trial: TrialOf) -> TrialResult:
    """Try a provider.

    Embeds one word with it. What goes wrong there is an answer too, with `ok` false.
    """
    name = find_provider(invocation, trial.provider)
    started_s = time.monotonic()
    gateway = invocation.resources.gateway
    try:
        result = gateway.try_provider(name, trial.model)
    except InternalError:
        raise
    except GatewayError as refused:
        error = explained(refused, gateway.selection, name, trial.model)
        return TrialResult(False, name, _since_ms(started_s), error=error.message, code=error.code)
    return TrialResult(
        True,
        name,
        _since_ms(started_s),
        model=result.model,
        dim=result.vectors.shape[1],
        tokens=result.usage.tokens,
        cost_usd=usd_text(result.cost_picodollars),
    )


def find_provider(invocation: Invocation, name: str) -> str:
    """The name, if it is that of a provider. Raises UnknownProvider."""
    with invocation.read() as reading:
        return _Known.in_force(reading).find(name)


def read_keys(connection: sa.Connection, sealer: Sealer) -> dict[str, str]:
    """The stored keys of providers, by name.

    Raises ConfigError if the master key is missing or not the one that they were sealed with.
    """
    query = sa.select(_TABLE.c.name, _TABLE.c.sealed_key).where(_TABLE.c.sealed_key.is_not(None))
    return {row.name: sealer.unseal(row.name, row.sealed_key) for row in connection.execute(query.order_by("name"))}


class _Known:
    """Every provider that there is, as it is or as it will be."""

    def __init__(self, reading: Reading, selection: Selection | None, mistakes: Sequence[str] = ()) -> None:
        """selection: None if a gateway could not start, because of the mistakes."""
        self._selection = selection
        self._mistakes = mistakes
        self._stored = {record.name: record for record in read_providers(reading.connection)}

    @classmethod
    def in_force(cls, reading: Reading) -> "_Known":
        """The providers as they are in force now."""
        try:
            return cls(reading, reading.resources.gateway.selection())
        except ConfigError as error:
            return cls(reading, None, error.mistakes)

    def names(self) -> set[str]:
        """The names of all providers."""
        return {*self._stored, *(self._selection.known_providers() if self._selection else ())}

    def find(self, name: str) -> str:
        """The name, if a provider has it. Raises UnknownProvider."""
        names = self.names()
        if name not in names:
            raise unknown_provider(name, names, param="provider")
        return name

    def provider(self, name: str) -> Provider:
        """One provider, as the API answers it."""
        record, selection = self._stored.get(name), self._selection
        fields = record or ProviderRecord(name)
        is_on = None if selection is None else selection.is_on(name)
        lacks = "; ".join(self._mistakes) if selection is None else selection.explain_off(name)
        in_use = None if selection is None else selection.hosts.get(name)
        return Provider(
            name=name,
            is_on=is_on,
            how_to_switch_on=None if is_on else lacks,
            models=0 if selection is None else _count_models(selection, name),
            is_stored=record is not None,
            is_enabled=fields.is_enabled,
            host=fields.host,
            base_url=fields.base_url,
            max_parallel=fields.max_parallel,
            batching=fields.batching,
            models_served=fields.models,
            weight=fields.weight,
            precision=fields.precision,
            requests_per_minute=fields.requests_per_minute,
            tokens_per_minute=fields.tokens_per_minute,
            free=fields.free,
            names_freely=fields.names_freely,
            keys=0 if in_use is None else in_use.n_keys,
            key_hint=fields.key_hint,
            updated_at=None if record is None else moment(record.updated_at_ms),
            in_use=None
            if in_use is None
            else ProviderInUse(
                in_use.base_url, in_use.max_parallel, in_use.requests_per_minute, in_use.tokens_per_minute
            ),
        )


def _switch(change: Change, action: str, name: str, *, is_enabled: bool) -> Provider:
    was_sound = not faults_of(change)
    stored = {record.name for record in read_providers(change.connection)}
    if name not in stored:
        known = {*stored, *change.resources.catalog().providers()}
        if name not in known:
            raise unknown_provider(name, known, param="name")
    _store(change, name, is_enabled=is_enabled)
    return _changed(change, action, name, was_sound=was_sound)


def _changed(
    change: Change, action: str, name: str, *, was_sound: bool, detail: Mapping[str, Plain] = MappingProxyType({})
) -> Provider:
    """The provider after a change, which is undone if it would keep the gateway from starting.

    was_sound: whether a gateway could have started before. Raises InvalidInput.
    """
    faults = faults_of(change)
    check_sound(faults, was_sound=was_sound, param="name")
    change.rules_changed()
    change.note(action, name, **detail)
    selection = None if faults else change.resources.gateway.decide(change.connection)
    return _Known(change, selection, faults).provider(name)


def _check_key_stays(reading: Reading, wanted: ProviderToSet) -> None:
    """Nobody shall get at a key that was stored by another by having it sent somewhere else."""
    query = sa.select(_TABLE).where(_TABLE.c.name == findable(wanted.provider), _TABLE.c.sealed_key.is_not(None))
    before = reading.connection.execute(query).one_or_none()
    if before is not None and (before.host, before.base_url) != (wanted.host, wanted.base_url):
        raise InvalidInput(
            f"The stored key of {wanted.provider} is for another address. Give the key together with the new address, "
            "or remove it first.",
            param="key",
        )


def _store(change: Change, name: str, **values: str | int | bytes | None) -> None:
    values["updated_at_ms"] = change.now_ms
    changed = change.connection.execute(_TABLE.update().where(_TABLE.c.name == name).values(values))
    if changed.rowcount == 0:
        change.connection.execute(_TABLE.insert().values({"key_hint": ""} | values | {"name": name}))


def _seal(change: Change, name: str, key: str) -> None:
    """Store a key, but not under a new master key while others are sealed under one that was lost or changed."""
    sealer = change.resources.sealer
    is_other = _TABLE.c.sealed_key.is_not(None) & (_TABLE.c.name != name)
    other = change.connection.execute(sa.select(_TABLE.c.name, _TABLE.c.sealed_key).where(is_other).limit(1)).first()
    if other is not None:
        sealer.unseal(other.name, other.sealed_key)
    hint = key[-_HINT_CHARACTERS:] if len(key) >= _MIN_HINTED_CHARACTERS else ""
    _store(change, name, sealed_key=sealer.seal(name, key), key_hint=hint)


def _find(reading: Reading, name: str) -> ProviderRecord:
    row = reading.connection.execute(_PROVIDERS.where(_TABLE.c.name == findable(name))).one_or_none()
    if row is None:
        stored = [record.name for record in read_providers(reading.connection)]
        there = f"Stored are {', '.join(stored)}." if stored else "None is stored."
        raise UnknownEntity(f"There is no stored provider {name!r}. {did_you_mean(name, stored)}{there}", param="name")
    return _record(row)


def _record(row: sa.Row[Any]) -> ProviderRecord:
    return ProviderRecord(**{**row._mapping, "models": models_of(row.models)})


def _check(wanted: ProviderToSet) -> None:
    check_name(wanted.provider, "provider name")
    if wanted.host is not None:
        check_name(wanted.host, "host", param="host")
    if wanted.base_url is not None:
        check_text(wanted.base_url, "address", param="base_url", max_characters=MAX_TEXT_CHARACTERS)
        check_base_url(wanted.base_url, allow_private=wanted.allow_private)
    for name, least in (("max_parallel", 1), ("weight", 0), ("requests_per_minute", 1), ("tokens_per_minute", 1)):
        number = getattr(wanted, name)
        if number is not None:
            check_number(number, name, param=name, minimum=least)
    for model in wanted.models or ():
        check_text(model, "id of a model", param="models", max_characters=_MAX_MODEL_CHARACTERS)
    if wanted.precision is not None and not _PRECISION.fullmatch(wanted.precision):
        raise InvalidInput(
            f"The precision {wanted.precision[:40]!r} is not known; write f32, f16, bf16, or a quantisation such as "
            "fp8, int8 or q4_k_m.",
            param="precision",
        )
    if wanted.key is not None and not _KEY.fullmatch(wanted.key):
        raise InvalidInput(
            f"The key of the provider has {len(wanted.key)} characters; it must be 1 to {_MAX_KEY_CHARACTERS} "
            "printable ASCII ones without a space.",
            param="key",
        )


def read_providers(connection: sa.Connection) -> tuple[ProviderRecord, ...]:
    """What is stored of every provider, by name; without keys."""
    rows = connection.execute(_PROVIDERS.order_by(_TABLE.c.name))
    return tuple(map(_record, rows))


def _count_models(selection: Selection, provider: str) -> int:
    models = selection.catalog.embedding_models()
    return sum(any(route.provider == provider for route in model.routes) for model in models)


def _since_ms(started_s: float) -> float:
    return round((time.monotonic() - started_s) * 1000, 3)


OPERATIONS = (
    list_providers,
    show_provider,
    set_provider,
    enable_provider,
    disable_provider,
    remove_key,
    delete_provider,
    try_provider,
)
