"""Routes for providers: which there are, which are on, settings that hold at once, and a call to see whether one works.

Keys of providers come in and never go out.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta, Struct

from embedgate.core.access import ProviderRecord
from embedgate.core.errors import GatewayError, InternalError, UnknownProvider
from embedgate.server.admin.follow import follow
from embedgate.server.admin.route import Asked, Route
from embedgate.server.admin.wire import Listed, ListQuery, Moment, moment, pick, sorts
from embedgate.wiring import Gateway


class Provider(Struct, frozen=True):
    """A provider, and what is stored of it. What is null there is as the settings file says."""

    name: str
    is_on: Annotated[bool, Meta(description="Whether it serves requests now.")]
    how_to_switch_on: Annotated[str | None, Meta(description="What it lacks; null if it is on.")]
    models: Annotated[int, Meta(description="How many embedding models it has.")]
    is_stored: Annotated[bool, Meta(description="Whether anything was set here.")]
    is_enabled: bool | None
    host: str | None
    base_url: str | None
    max_parallel: int | None
    batching: bool | None
    keys: Annotated[int, Meta(description="How many keys of it are in use, stored or not.")]
    key_hint: Annotated[str, Meta(description="The last four characters of its stored key, if it is a long one.")]
    updated_at: Moment | None


class ProviderToSet(Struct, forbid_unknown_fields=True):
    """All that is set of a provider. Null or absent: as the settings file says; a key that is stored stays."""

    is_enabled: bool | None = None
    host: Annotated[str | None, Meta(description="The known provider whose ways it has, if not of its own name.")] = (
        None
    )
    base_url: Annotated[str | None, Meta(description="Address of its API, up to and without `/embeddings`.")] = None
    max_parallel: Annotated[int | None, Meta(description="Calls in flight at once.")] = None
    batching: Annotated[bool | None, Meta(description="Whether inputs of different requests share a call.")] = None
    key: Annotated[str | None, Meta(description="Its credential, which is stored sealed and never shown.")] = None
    allow_private: Annotated[bool, Meta(description="Permits an address of this machine or its network.")] = False


class ProviderQuery(ListQuery):
    """Which providers."""

    is_on: bool | None = None
    sort: Annotated[str, sorts("name", "is_on", "models", "updated_at")] = ""


class TrialOf(Struct, forbid_unknown_fields=True):
    """What to try a provider with."""

    model: Annotated[str | None, Meta(description="A model; absent: its first.")] = None


class TrialResult(Struct, frozen=True):
    """What came of one embedding."""

    ok: bool
    provider: str
    ms: Annotated[float, Meta(description="How long it took.")]
    model: Annotated[str | None, Meta(description="The model that answered.")] = None
    dim: Annotated[int | None, Meta(description="Length of its vector.")] = None
    error: Annotated[str | None, Meta(description="What went wrong.")] = None
    code: Annotated[str | None, Meta(description="The code of the error.")] = None


async def _list(asked: Asked) -> Listed:
    query: ProviderQuery = asked.query
    stored = await _stored(asked)
    found = [_provider(asked.gateway, name, stored) for name in sorted(asked.gateway.known_providers | stored.keys())]
    return pick((each for each in found if query.is_on in (None, each.is_on)), query)


async def _show(asked: Asked) -> Provider:
    stored = await _stored(asked)
    return _provider(asked.gateway, _known(asked, stored), stored)


async def _put(asked: Asked) -> Provider:
    new: ProviderToSet = asked.body
    record = await asyncio.to_thread(
        asked.administration.providers.put,
        asked.path["provider"],
        is_enabled=new.is_enabled,
        host=new.host,
        base_url=new.base_url,
        max_parallel=new.max_parallel,
        batching=new.batching,
        key=new.key,
        allow_private=new.allow_private,
    )
    return await _changed(asked, record)


async def _remove_key(asked: Asked) -> Provider:
    return await _changed(asked, await asyncio.to_thread(asked.administration.providers.remove_key, _name(asked)))


def _delete(asked: Asked) -> None:
    asked.administration.providers.delete(_name(asked))


async def _try(asked: Asked) -> TrialResult:
    name = _known(asked, await _stored(asked))
    started_s = time.monotonic()
    try:
        result = await asked.gateway.try_provider(name, asked.body.model)
    except InternalError:
        raise
    except GatewayError as error:
        return TrialResult(False, name, _since_ms(started_s), error=error.message, code=error.code)
    return TrialResult(True, name, _since_ms(started_s), model=result.model, dim=result.vectors.shape[1])


async def _stored(asked: Asked) -> dict[str, ProviderRecord]:
    records = await asyncio.to_thread(asked.administration.providers.list)
    return {record.name: record for record in records}


async def _changed(asked: Asked, record: ProviderRecord) -> Provider:
    """The provider as it is once the change is in force."""
    await follow(asked.gateway)
    return _provider(asked.gateway, record.name, {record.name: record})


def _name(asked: Asked) -> str:
    name: str = asked.path["provider"]
    return name


def _known(asked: Asked, stored: Mapping[str, ProviderRecord]) -> str:
    name = _name(asked)
    known = asked.gateway.known_providers | stored.keys()
    if name not in known:
        raise UnknownProvider(
            f"There is no provider {name[:100]!r} here. There are {', '.join(sorted(known))}.", param="provider"
        )
    return name


def _provider(gateway: Gateway, name: str, stored: Mapping[str, ProviderRecord]) -> Provider:
    record = stored.get(name)
    fields = record or ProviderRecord(name)
    is_on = name in gateway.switched_on
    models = gateway.catalog.embedding_models()
    return Provider(
        name=name,
        is_on=is_on,
        how_to_switch_on=None if is_on else gateway.explain_off(name),
        models=sum(any(route.provider == name for route in model.routes) for model in models),
        is_stored=record is not None,
        is_enabled=fields.is_enabled,
        host=fields.host,
        base_url=fields.base_url,
        max_parallel=fields.max_parallel,
        batching=fields.batching,
        keys=gateway.n_keys(name),
        key_hint=fields.key_hint,
        updated_at=None if record is None else moment(record.updated_at_ms),
    )


def _since_ms(started_s: float) -> float:
    return round((time.monotonic() - started_s) * 1000, 3)


_PROVIDER = "/api/providers/{provider}"

ROUTES = (
    Route(
        "GET",
        "/api/providers",
        "listProviders",
        "List the providers",
        _list,
        Provider,
        query=ProviderQuery,
        is_list=True,
    ),
    Route("GET", _PROVIDER, "showProvider", "Show a provider", _show, Provider, raises=(UnknownProvider,)),
    Route(
        "PUT",
        _PROVIDER,
        "setProvider",
        "Set up a provider",
        _put,
        Provider,
        "Instead of what was set before; its key stays unless another is given. It holds from the answer on.",
        body=ProviderToSet,
        example={"is_enabled": True, "key": "sk-…"},
    ),
    Route(
        "DELETE",
        f"{_PROVIDER}/key",
        "removeProviderKey",
        "Forget a provider's stored key",
        _remove_key,
        Provider,
    ),
    Route(
        "DELETE",
        _PROVIDER,
        "deleteProvider",
        "Delete what is stored of a provider",
        _delete,
        None,
        "What the settings file says of it holds again.",
        is_change=True,
    ),
    Route(
        "POST",
        f"{_PROVIDER}/test",
        "testProvider",
        "Try a provider",
        _try,
        TrialResult,
        "Embeds one word with it. What goes wrong there is an answer too, with `ok` false.",
        body=TrialOf,
        example={"model": "openai/text-embedding-3-small"},
        raises=(UnknownProvider,),
    ),
)
