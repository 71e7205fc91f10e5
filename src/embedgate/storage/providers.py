"""Providers that were added or changed at run time, with their keys, which are stored sealed."""

import re
from typing import Any

import sqlalchemy as sa

from embedgate.core.access import ProviderRecord
from embedgate.core.clock import utc_ms
from embedgate.core.errors import InvalidInput, UnknownEntity
from embedgate.storage import schema
from embedgate.storage.database import Database
from embedgate.storage.fields import MAX_TEXT_CHARACTERS, check_name, check_number, check_text, findable
from embedgate.storage.revision import count_up
from embedgate.storage.sealing import Sealer

_MAX_KEY_CHARACTERS = 4_096
_HINT_CHARACTERS = 4
_MIN_HINTED_CHARACTERS = 16
_HTTP_URL = re.compile(r"https?://[^\s/]\S*")
_TABLE = schema.providers
_PROVIDERS = sa.select(*(column for column in _TABLE.c if column.name != "sealed_key"))


class SqlProviders:
    """Providers, blocking. Every method is one transaction, and raises InternalError if the database fails."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer

    def get(self, name: str) -> ProviderRecord:
        """Raises UnknownEntity if nothing is stored of that provider."""
        with self._database.read() as connection:
            return _find(connection, name)

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
    ) -> ProviderRecord:
        """Store all that is set of a provider, instead of what was. None: as the settings file says.

        key: the credential; None keeps the one that is stored.
        Raises InvalidInput for an unfit field, ConfigError if the master key is missing or not the one in use.
        """
        _check(name, host, base_url, max_parallel, key)
        values: dict[str, Any] = {
            "is_enabled": is_enabled,
            "host": host,
            "base_url": base_url,
            "max_parallel": max_parallel,
            "batching": batching,
            "updated_at_ms": utc_ms(),
        }
        with self._database.write() as connection:
            if key is not None:
                self._check_master_key(connection, name)
                values |= {"sealed_key": self._sealer.seal(name, key), "key_hint": _hint(key)}
            changed = connection.execute(_TABLE.update().where(_TABLE.c.name == name).values(values))
            if changed.rowcount == 0:
                connection.execute(_TABLE.insert().values({"key_hint": ""} | values | {"name": name}))
            count_up(connection)
            return _find(connection, name)

    def remove_key(self, name: str) -> ProviderRecord:
        """Forget the stored credential; the master key is not needed. Raises UnknownEntity."""
        with self._database.write() as connection:
            found = _find(connection, name)
            values = {"sealed_key": None, "key_hint": "", "updated_at_ms": utc_ms()}
            connection.execute(_TABLE.update().where(_TABLE.c.name == found.name).values(values))
            count_up(connection)
            return _find(connection, name)

    def delete(self, name: str) -> ProviderRecord:
        """Delete what is stored of a provider, so that the settings file holds. Returns it. Raises UnknownEntity."""
        with self._database.write() as connection:
            found = _find(connection, name)
            connection.execute(_TABLE.delete().where(_TABLE.c.name == found.name))
            count_up(connection)
        return found

    def provider_key(self, name: str) -> str | None:
        """The credential, None if none is stored.

        Raises ConfigError if the master key is missing or not the one it was sealed with.
        """
        query = sa.select(_TABLE.c.sealed_key).where(_TABLE.c.name == findable(name))
        with self._database.read() as connection:
            sealed = connection.execute(query).scalar_one_or_none()
        return None if sealed is None else self._sealer.unseal(name, sealed)

    def _check_master_key(self, connection: sa.Connection, name: str) -> None:
        """Refuse to seal under a new master key while others' keys are sealed under one that was lost or changed."""
        others = sa.select(_TABLE.c.name, _TABLE.c.sealed_key).where(
            _TABLE.c.sealed_key.is_not(None), _TABLE.c.name != name
        )
        other = connection.execute(others.limit(1)).one_or_none()
        if other is not None:
            self._sealer.unseal(other.name, other.sealed_key)


def read_providers(connection: sa.Connection) -> tuple[ProviderRecord, ...]:
    """What is stored of every provider, by name; without keys."""
    rows = connection.execute(_PROVIDERS.order_by(_TABLE.c.name))
    return tuple(ProviderRecord(**row._mapping) for row in rows)


def _find(connection: sa.Connection, name: str) -> ProviderRecord:
    row = connection.execute(_PROVIDERS.where(_TABLE.c.name == findable(name))).one_or_none()
    if row is None:
        raise UnknownEntity(f"There is no stored provider {name!r}. List the providers.", param="name")
    return ProviderRecord(**row._mapping)


def _hint(key: str) -> str:
    """The last characters of a key that is long enough to spare them."""
    return key[-_HINT_CHARACTERS:] if len(key) >= _MIN_HINTED_CHARACTERS else ""


def _check(name: str, host: str | None, base_url: str | None, max_parallel: int | None, key: str | None) -> None:
    check_name(name, "provider name")
    if host is not None:
        check_name(host, "host", param="host")
    if base_url is not None:
        check_text(base_url, "address", param="base_url", max_characters=MAX_TEXT_CHARACTERS)
        if not _HTTP_URL.fullmatch(base_url):
            raise InvalidInput(
                f"The address {base_url!r} is not of the form http://host or https://host.", param="base_url"
            )
    if max_parallel is not None:
        check_number(max_parallel, "max_parallel", param="max_parallel", minimum=1)
    if key is not None and not (
        1 <= len(key) <= _MAX_KEY_CHARACTERS and key.isascii() and key.isprintable() and " " not in key
    ):
        raise InvalidInput(
            f"The key of the provider has {len(key)} characters; it must be 1 to {_MAX_KEY_CHARACTERS} printable "
            "ASCII ones without a space.",
            param="key",
        )
