"""Schema migrations: upgrade a database to this program's schema. No downgrades; a newer database is not touched."""

from pathlib import Path

import alembic.command
import sqlalchemy as sa
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from embedgate.core.errors import ConfigError
from embedgate.storage import migrations
from embedgate.storage.schema import REVISION

_FOLDER = Path(migrations.__file__).parent


def upgrade(engine: sa.Engine) -> None:
    """Run the migrations that are missing, all or none, in one transaction.

    engine: its transactions must lock out other writers from their start, so that of two processes
    starting at once one waits and then finds nothing to do.
    Raises ConfigError if the database knows a migration that this program does not.
    """
    config = _config()
    known = _revisions(config)
    with engine.begin() as connection:
        applied = set(MigrationContext.configure(connection).get_current_heads())
        if applied - known:
            raise ConfigError(
                [
                    f"database {engine.url.database} has schema {', '.join(sorted(applied - known))}, this program "
                    f"knows up to {REVISION}; start the newer embedgate that wrote it"
                ]
            )
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, REVISION)


def known_revisions() -> set[str]:
    """The schemas that this program can bring up to date, and its own."""
    return _revisions(_config())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))  # the parser reads % as a reference
    return config


def _revisions(config: Config) -> set[str]:
    return {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
