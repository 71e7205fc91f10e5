"""All rules at once, as of one revision: what a gateway loads and, when the revision has moved, loads again."""

from embedgate.core.access import Rules
from embedgate.storage.database import Database
from embedgate.storage.limits import read_budgets, read_limits
from embedgate.storage.policies import read_policies
from embedgate.storage.prices import read_prices
from embedgate.storage.providers import read_providers
from embedgate.storage.revision import read_revision


class SqlRules:
    """Reads rules, blocking. Each kind of rule is changed through the class in its own module."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def load(self) -> Rules:
        """Every rule, and the revision that they are of. Raises InternalError if the database fails."""
        with self._database.read() as connection:
            return Rules(
                revision=read_revision(connection),
                policies=read_policies(connection),
                limits=read_limits(connection),
                budgets=read_budgets(connection),
                prices=read_prices(connection),
                providers=read_providers(connection),
            )

    def revision(self) -> int:
        """The revision in force: one row is read. Raises InternalError if the database fails."""
        with self._database.read() as connection:
            return read_revision(connection)
