"""Asks a provider's server which models it has, and tries one: size, unit length, Matryoshka, the longest input.

Calls go straight to the server, with one credential, for models that no catalogue knows. They are few, each has a
deadline, and what they spend is told.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from embedgate.core.errors import (
    GatewayError,
    InputTooLong,
    InvalidInput,
    ProviderKeyMissing,
    UnsupportedOption,
    UpstreamRejected,
)
from embedgate.core.model_names import is_name_of
from embedgate.core.models import LOCAL, DimRange, Model, Route
from embedgate.core.types import Batch, ProviderReply
from embedgate.core.vectors import Vectors
from embedgate.govern.found_models import ModelsThere, ModelThere, Probed
from embedgate.govern.selection import FAKE, HostInUse, Selection
from embedgate.providers import hosts
from embedgate.providers.listing import ListedModel, list_call, read_list, read_shown, show_call
from embedgate.settings import Settings
from embedgate.transport import HttpCall, HttpDriver, HttpReply, classify
from embedgate.transport.connection_pool import ConnectionPool

_CALL_S = 30.0
"""For one call: the first one may load the model."""
_MOST_SHOWN = 50
"""Models that Ollama is asked about one by one; the others are listed by name."""
_LENGTHS = (512, 2048, 8192)
"""Words of the long inputs, tried in turn until one is refused or cut. A word like these is at least a token."""
_LIKELY = re.compile(r"embed|bge|e5|gte|minilm|mpnet|arctic|jina|stella|encoder", re.IGNORECASE)
_CUTS_ANY = frozenset({"ollama", "tei"})
"""Hosts that cut the vectors of every model, trained for it or not."""
_SAME = 0.999


def list_models(settings: Settings, selection: Selection, provider: str) -> ModelsThere:
    """The models that a server says it has. Blocks. Raises a GatewayError."""
    if provider in (LOCAL, FAKE):  # which have no server: what they have is what they serve
        at = [(route, model) for model in selection.catalog.models() for route in model.routes]
        listed: Sequence[ListedModel] = [
            ListedModel(route.upstream_model, model.action) for route, model in at if route.provider == provider
        ]
    else:
        listed = asyncio.run(_listed(settings, _in_use(selection, provider), provider))
    found = [_there(selection, provider, each) for each in listed]
    found.sort(key=lambda each: (each.is_served, not _LIKELY.search(each.name)))
    return ModelsThere(provider, tuple(found))


def probe(settings: Settings, selection: Selection, provider: str, name: str) -> Probed:
    """What a few calls find out of a model by its name there. Blocks. Raises a GatewayError if it does not answer."""
    return asyncio.run(_Probe(settings, _in_use(selection, provider), name).run())


def _in_use(selection: Selection, provider: str) -> HostInUse:
    in_use = selection.hosts.get(provider)
    if provider in (LOCAL, FAKE):
        raise InvalidInput(f"The models of {provider} are part of this program; there is no server.", param="provider")
    if in_use is None:
        raise ProviderKeyMissing(f"{provider} cannot be asked: {selection.explain_off(provider)}.", param="provider")
    return in_use


async def _listed(settings: Settings, in_use: HostInUse, provider: str) -> Sequence[ListedModel]:
    module = in_use.host.module
    call = list_call(module)
    if call is None:
        raise UnsupportedOption(
            f"How {provider} would be asked for its models is not known. Add them by name: embedgate models add ID "
            f"--provider {provider}.",
            param="provider",
        )
    pool = ConnectionPool(in_use.endpoint, settings.transport)
    try:
        listed = read_list(module, await _ask(pool, call, provider))
        if module == "ollama":
            shown = [
                read_shown(each.name, await _ask(pool, show_call(each.name), provider)) for each in listed[:_MOST_SHOWN]
            ]
            return (*shown, *listed[_MOST_SHOWN:])
        return listed
    finally:
        await pool.close()


async def _ask(pool: ConnectionPool, call: HttpCall, provider: str) -> HttpReply:
    answer = await pool.send(call, time.monotonic() + _CALL_S)
    reply = HttpReply(provider, answer.status, answer.headers, b"".join(map(bytes, answer.chunks)))
    if not 200 <= answer.status < 300:
        raise classify(reply)
    return reply


def _there(selection: Selection, provider: str, listed: ListedModel) -> ModelThere:
    """A listed model under the id that it has, or is proposed."""
    catalog = selection.catalog
    bare = listed.name.removesuffix(":latest")
    served = catalog.at_provider(provider, listed.name) or catalog.at_provider(provider, bare)
    entry = selection.entries.get(provider)
    kind = entry.host if entry is not None and entry.host else provider
    known = served or catalog.at_provider(kind, listed.name) or catalog.at_provider(kind, bare) or catalog.find(bare)
    fits = known is not None and _fits(known, listed)
    return ModelThere(
        name=listed.name,
        id=known.id if known is not None and fits else _id_for(provider, bare),
        is_served=served is not None,
        is_known=fits and known is not None and known.id not in selection.own_models,
        action=known.action if known is not None and fits else listed.action,
        dim=listed.dim,
        max_tokens=listed.max_tokens,
    )


def _fits(known: Model, listed: ListedModel) -> bool:
    """Whether what the server says of a model does not contradict the catalogue."""
    is_other_kind = listed.action is not None and listed.action != known.action
    is_other_size = listed.dim is not None and known.dims is not None and listed.dim != known.dims.default
    return not is_other_kind and not is_other_size


def _id_for(provider: str, name: str) -> str:
    """An id for a model that nobody knows: its own name if that has an author, else that of the provider before it."""
    plain = re.sub(r"[:\s]+", "-", name.removesuffix(".gguf"))
    parts = [part for part in plain.split("/") if part not in ("", ".", "..")]
    if len(parts) == 2 and not name.endswith(".gguf"):
        return "/".join(parts)
    return f"{provider}/{parts[-1] if parts else 'model'}"


@dataclass
class _Probe:
    """Tries one model."""

    settings: Settings
    in_use: HostInUse
    name: str
    tokens: int = 0
    notes: list[str] = field(default_factory=list)

    async def run(self) -> Probed:
        """What was found out. Raises a GatewayError if the server does not answer at all."""
        started_s = time.monotonic()
        async with self._driver() as driver:
            try:
                reply = await self._embed(driver, ("embedgate",))
            except UpstreamRejected as error:
                self.notes.append(f"It makes no vectors: {error.message}")
                return self._probed(started_s, None, None, None, None)
            vector = reply.vectors[0]
            self._look_at_name(reply)
            norm = float(np.linalg.norm(vector))
            is_matryoshka = await self._is_matryoshka(driver, vector)
            max_tokens = await self._longest(driver)
        return self._probed(started_s, vector.size, abs(norm - 1) < 0.01, is_matryoshka, max_tokens)

    @contextlib.asynccontextmanager
    async def _driver(self) -> AsyncIterator[HttpDriver]:
        driver = HttpDriver(hosts.vendor(self.in_use.host), self.in_use.endpoint, self.settings.transport)
        try:
            yield driver
        finally:
            await driver.aclose()

    async def _embed(self, driver: HttpDriver, inputs: tuple[str, ...], dim: int | None = None) -> ProviderReply:
        plain = Route("", self.name, DimRange(dim or 1, 1, dim or 1), 1, "unknown", accepts_dim=True)
        route = self.in_use.host.adapt(plain)
        reply = await driver.embed(Batch(inputs, dim or 1, dim), route, time.monotonic() + _CALL_S)
        self.tokens += reply.tokens or 0
        return reply

    def _look_at_name(self, reply: ProviderReply) -> None:
        if reply.model and not self.in_use.host.names_freely and not is_name_of(reply.model, [self.name]):
            provider = self.in_use.endpoint.provider
            self.notes.append(
                f"Its answers name it {reply.model[:100]!r}, which would count as another model; allow that: embedgate "
                f"providers set {provider} --names-freely."
            )

    async def _is_matryoshka(self, driver: HttpDriver, whole: Vectors) -> bool | None:
        host = self.in_use.host
        dim = whole.size // 2
        if host.module in _CUTS_ANY or not host.accepts_dim or dim < 1:
            self.notes.append("Whether its vectors may be shortened is not known: such a server does not tell.")
            return None
        try:
            half = (await self._embed(driver, ("embedgate",), dim)).vectors[0]
        except GatewayError:
            half = whole
        if half.size != dim or not _is_same(whole[:dim], half):
            self.notes.append("Whether its vectors may be shortened is not known: the server takes no size.")
            return None
        return True

    async def _longest(self, driver: HttpDriver) -> int | None:
        """The most words of which none is refused, and none cut: then two texts that differ at the end differ."""
        most, why = None, ""
        for length in _LENGTHS:
            body = "word " * (length - 2)
            try:
                reply = await self._embed(driver, (f"{body}night", f"{body}apple"))
            except (InputTooLong, UpstreamRejected):
                why = f"a text of {length} words is refused"
            except GatewayError as error:
                why = f"a text of {length} words has failed: {error.message}"
            else:
                if not np.array_equal(reply.vectors[0], reply.vectors[1]):
                    most = length
                    continue
                why = f"a text of {length} words is cut without a word"
            break
        if most is None:
            self.notes.append(f"The longest input is not known: {why}.")
        else:
            end = why or "longer ones were not tried"
            self.notes.append(f"The longest input is {most} tokens at least; {end}.")
        return most

    def _probed(
        self, started_s: float, dim: int | None, is_unit: bool | None, is_matryoshka: bool | None, most: int | None
    ) -> Probed:
        ms = round((time.monotonic() - started_s) * 1000, 1)
        return Probed(
            self.name, dim is not None, dim, is_unit, is_matryoshka, most, self.tokens, ms, tuple(self.notes)
        )  # fmt: skip


def _is_same(one: Vectors, other: Vectors) -> bool:
    scale = float(np.linalg.norm(one) * np.linalg.norm(other))
    return scale > 0 and float(np.dot(one, other)) / scale >= _SAME
