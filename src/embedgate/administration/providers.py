"""Providers that are added or changed at run time. Their keys come in here and never out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypedDict

from embedgate.administration.addresses import check_base_url
from embedgate.administration.stores import Stores
from embedgate.administration.trail import Note, Trail
from embedgate.catalog import Catalog
from embedgate.core.access import ProviderRecord, Rules
from embedgate.core.errors import InvalidInput, UnknownProvider
from embedgate.storage.providers import SqlProviders

FindFaults = Callable[[Rules, SqlProviders], Sequence[str]]
"""What keeps a gateway from putting rules in force, one sentence each; the keys of the providers are in the store."""


class _Fields(TypedDict):
    """All that can be set of a provider, but for its key."""

    is_enabled: bool | None
    host: str | None
    base_url: str | None
    max_parallel: int | None
    batching: bool | None


class Providers:
    """Providers, blocking. The settings file holds wherever nothing is stored."""

    def __init__(self, stores: Stores, trail: Trail, catalog: Callable[[], Catalog], find_faults: FindFaults) -> None:
        """catalog: the one in force."""
        self._catalog = catalog
        self._stores = stores
        self._trail = trail
        self._find_faults = find_faults

    def get(self, name: str) -> ProviderRecord:
        """Raises UnknownEntity if nothing is stored of that provider."""
        return self._stores.providers.get(name)

    def list(self) -> tuple[ProviderRecord, ...]:
        """What is stored of every provider, by name."""
        return self._stores.rules.load().providers

    def put(
        self,
        name: str,
        *,
        is_enabled: bool | None = None,
        host: str | None = None,
        base_url: str | None = None,
        max_parallel: int | None = None,
        batching: bool | None = None,
        key: str | None = None,
        allow_private: bool = False,
    ) -> ProviderRecord:
        """Store all that is set of a provider, instead of what was. None: as the settings file says.

        key: the credential; None keeps the one that is stored, which another address does not get. allow_private:
        whether `base_url` may be of this machine or its network.
        Raises InvalidInput for an unfit field, for an address that is refused, and if the gateway could not start with
        that provider; ConfigError if the master key is missing or not the one in use.
        """
        if base_url is not None:
            check_base_url(base_url, allow_private=allow_private)
        fields = _Fields(
            is_enabled=is_enabled, host=host, base_url=base_url, max_parallel=max_parallel, batching=batching
        )
        with self._sound_change("providers.put") as note:
            if key is None:
                self._check_key_stays(name, host, base_url)
            stored = self._stores.providers.put(name, **fields, key=key)
            note(stored.name, **fields, has_new_key=key is not None, allow_private=allow_private)
        return stored

    def enable(self, name: str) -> ProviderRecord:
        """Switch a provider on that is known from anywhere. Raises UnknownProvider, or InvalidInput as `put`."""
        return self._switch("providers.enable", name, True)

    def disable(self, name: str) -> ProviderRecord:
        """Switch a provider off that is known from anywhere. Raises UnknownProvider, or InvalidInput as `put`."""
        return self._switch("providers.disable", name, False)

    def remove_key(self, name: str) -> ProviderRecord:
        """Forget the stored credential; the master key is not needed.

        Raises UnknownEntity, or InvalidInput if the gateway could not start without it.
        """
        with self._sound_change("providers.remove_key") as note:
            changed = self._stores.providers.remove_key(name)
            note(changed.name)
        return changed

    def delete(self, name: str) -> ProviderRecord:
        """Delete what is stored of a provider, so that the settings file holds. Returns it.

        Raises UnknownEntity, or InvalidInput if the gateway could not start without it.
        """
        with self._sound_change("providers.delete") as note:
            deleted = self._stores.providers.delete(name)
            note(deleted.name)
        return deleted

    def _check_key_stays(self, name: str, host: str | None, base_url: str | None) -> None:
        """Nobody shall get at a key that was stored by another by having it sent somewhere else."""
        before = self._by_name().get(name)
        if before is None or (before.host, before.base_url) == (host, base_url):
            return
        if self._stores.providers.provider_key(name) is not None:
            raise InvalidInput(
                f"The stored key of {name} is for another address. Give the key together with the new address, or "
                "remove it first.",
                param="key",
            )

    def _switch(self, action: str, name: str, is_enabled: bool) -> ProviderRecord:
        with self._sound_change(action) as note:
            stored = self._by_name()
            if name not in stored and name not in self._catalog().providers():
                known = ", ".join(sorted({*stored, *self._catalog().providers()}))
                raise UnknownProvider(f"There is no provider {name[:100]!r}. There are {known}.", param="name")
            fields = _fields(stored.get(name, ProviderRecord(name)))
            fields["is_enabled"] = is_enabled
            changed = self._stores.providers.put(name, **fields)
            note(changed.name)
        return changed

    @contextmanager
    def _sound_change(self, action: str) -> Iterator[Note]:
        """A change that is undone if it would keep the gateway from starting.

        Where something keeps it from starting already, any change may be a step towards repair.
        """
        was_sound = not self._faults()
        with self._trail.change(action) as note:
            yield note
            faults = self._faults() if was_sound else ()
            if faults:
                raise InvalidInput(f"The gateway could not go on with that: {'; '.join(faults)}.", param="name")

    def _by_name(self) -> dict[str, ProviderRecord]:
        return {provider.name: provider for provider in self.list()}

    def _faults(self) -> Sequence[str]:
        return self._find_faults(self._stores.rules.load(), self._stores.providers)


def _fields(record: ProviderRecord) -> _Fields:
    return _Fields(
        is_enabled=record.is_enabled,
        host=record.host,
        base_url=record.base_url,
        max_parallel=record.max_parallel,
        batching=record.batching,
    )
