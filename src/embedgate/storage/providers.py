"""What is stored of providers, as part of the rules."""

import sqlalchemy as sa

from embedgate.core.access import ProviderRecord
from embedgate.storage import schema

PROVIDERS = sa.select(*(column for column in schema.providers.c if column.name != "sealed_key"))


def read_providers(connection: sa.Connection) -> tuple[ProviderRecord, ...]:
    """What is stored of every provider, by name; without keys."""
    rows = connection.execute(PROVIDERS.order_by(schema.providers.c.name))
    return tuple(ProviderRecord(**row._mapping) for row in rows)
