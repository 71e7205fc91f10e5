"""Revision of a model: a digest of all that decides its vectors, so that none is kept beyond a change of it.

Routes of one model are the same weights at several hosts, by the word of whoever declares them, and share cached
vectors. So the revision is the model's, made of what all its routes are. A server that is added, moved or taken away,
another name of the model there, another prefix or parameter, other weights on this machine: each begins a new one. What
only switches a provider on or off, or says how much it takes and costs, does not.
"""

import hashlib
from collections.abc import Iterator, Mapping

from embedgate.core.models import Model, Route
from embedgate.providers.hosts import Host
from embedgate.settings import ProviderSettings

_DIGEST_BYTES = 12
_Fact = tuple[object, ...]


def revision_of(
    model: Model,
    listed: Model | None,
    generation: int,
    entries: Mapping[str, ProviderSettings],
    rows: Mapping[str, Host],
) -> str:
    """The revision of a model: 24 hex digits.

    model: with the routes of the catalogue, before they are adapted to hosts. listed: the same model as this program
    knows it, None if only the administrator does. generation: how often its vectors were cleared. entries: of
    providers, those that are off included. rows: of hosts.
    """
    names_listed = {route.provider: route.upstream_model for route in listed.routes} if listed else {}
    facts: set[_Fact] = set()
    for route in model.routes:
        facts.add(_text_facts(route, rows.get(route.provider)))
        is_renamed = route.upstream_model != names_listed.get(route.provider)
        for name, entry in providers_at(route, model, entries):
            if is_renamed or (entry is not None and _is_declared(entry)):
                facts.add(("server", *_place(name, entry), route.upstream_model))
    whole = (generation, model.revision, model.is_normalised, *sorted(map(repr, facts)))
    return hashlib.blake2b(repr(whole).encode(), digest_size=_DIGEST_BYTES).hexdigest()


def providers_at(
    route: Route, model: Model, entries: Mapping[str, ProviderSettings]
) -> Iterator[tuple[str, ProviderSettings | None]]:
    """The providers that a route of the catalogue is for, with their settings: its own, and those that follow its row.

    Leaves out those whose settings name other models, and followers that the model has a route of their own for.
    """
    own = {each.provider for each in model.routes}
    followers = [name for name, entry in entries.items() if entry.host == route.provider and name not in own]
    for name in [route.provider, *followers]:
        entry = entries.get(name)
        if entry is None or entry.models is None or model.id in entry.models:
            yield name, entry


def _text_facts(route: Route, row: Host | None) -> _Fact:
    """What is sent beside the caller's own words. The same for hosts that are asked in the same way."""
    extra = row.extra if row is not None else {}
    return (
        route.query_prefix,
        route.document_prefix,
        route.input_type_field,
        route.query_input_type,
        route.document_input_type,
        *sorted({**extra, **dict(route.required_params)}.items()),
    )


def _is_declared(entry: ProviderSettings) -> bool:
    """Whether the administrator has said where the model is, or what is there. A known vendor at its own address is
    what the catalogue says."""
    return entry.base_url is not None or entry.host is not None or entry.revision is not None


def _place(name: str, entry: ProviderSettings | None) -> _Fact:
    """Which server it is: by the revision that the settings declare, else by its address."""
    if entry is None:
        return (name, "")
    kind = entry.host or name
    if entry.revision is not None:
        return (kind, "revision", entry.revision)
    return (kind, "address", (entry.base_url or "").rstrip("/"))
