"""Opening the database: creation, migration, and the refusals that stop a start."""

import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from embedgate.core.errors import ConfigError, InternalError
from embedgate.govern.entries import find_entry
from embedgate.govern.keys import find_key
from embedgate.govern.usage import sum_up
from embedgate.govern.values import moment
from embedgate.storage import migrations, schema
from embedgate.storage.database import DATABASE_FILE, Database, open_database
from embedgate.storage.schema import REVISION
from governing import Governing, resources_for

OPEN = """
import sys
from pathlib import Path
import embedgate.storage.migrate
from embedgate.storage.schema import REVISION
from embedgate.storage.database import open_database
print("ready", flush=True)
sys.stdin.readline()
for i in range(5):
    open_database(Path(sys.argv[1]) / f"shared-{i}", busy_timeout_s=30).close()
"""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_folder_and_files_are_for_the_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "odd % name" / "data"
    database = open_database(folder)
    with database.write() as connection:
        connection.execute(schema.users.delete())
    assert mode(folder) == 0o700
    files = list(folder.iterdir())
    assert {file.name for file in files} > {DATABASE_FILE, f"{DATABASE_FILE}-wal"}
    assert all(mode(file) == 0o600 for file in files)
    database.close()


def test_migrated_schema_is_the_schema_of_the_code(database: Database) -> None:
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    assert ScriptDirectory.from_config(config).get_current_head() == schema.REVISION


@pytest.mark.parametrize(("synchronous", "level"), [("normal", 1), ("full", 2)])
def test_pragmas_hold_on_every_connection(tmp_path: Path, synchronous: str, level: int) -> None:
    database = open_database(tmp_path, "full" if synchronous == "full" else "normal", busy_timeout_s=1.5)
    with database.read() as first, database.read() as second:
        for connection in (first, second):
            values = [
                connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            ]
            assert values == ["wal", level, 1, 1500]
    database.close()


def test_opening_again_changes_nothing(tmp_path: Path, database: Database) -> None:
    with database.write() as connection:
        connection.execute(
            schema.users.insert().values(id="u", name="n", is_admin=False, is_disabled=False, created_at_ms=1)
        )
    again = open_database(tmp_path)
    with again.read() as connection:
        assert connection.execute(sa.select(schema.users.c.name)).scalars().all() == ["n"]
    again.close()


def test_entries_of_an_older_version_are_kept_and_are_of_embeddings(tmp_path: Path) -> None:
    open_database(tmp_path).close()
    old = sqlite3.connect(tmp_path / DATABASE_FILE)
    for name in ("action", "output_tokens", "estimated_tokens", "estimated_picodollars"):  # what 0004 and 0006 added
        old.execute(f"ALTER TABLE ledger DROP COLUMN {name}")
    old.execute("DROP TABLE cleared_models")  # what 0005 added
    old.execute("ALTER TABLE providers DROP COLUMN allow_private")  # what 0007 added
    old.execute("ALTER TABLE ledger DROP COLUMN digest")  # what 0008 added
    old.execute("DROP TABLE ledger_chain")
    old.execute("DROP TABLE added_models")  # what 0009 added
    old.execute("DROP TABLE aliases")  # what 0012 added
    for name in (
        "models", "weight", "precision", "requests_per_minute", "tokens_per_minute", "free", "names_freely",
    ):  # fmt: skip
        old.execute(f"ALTER TABLE providers DROP COLUMN {name}")
    for name in ("rotated_at_ms", "last_used_at_ms", "models"):  # what 0010 and 0011 added
        old.execute(f"ALTER TABLE keys DROP COLUMN {name}")
    columns = [name for _, name, *_ in old.execute("PRAGMA table_info(ledger)") if name != "id"]
    values = dict.fromkeys(columns, 0) | {"request_id": "req_old", "user_id": "u", "tokens": 7, "outcome": "ok"}
    places = ", ".join(f":{name}" for name in columns)
    old.execute(f"INSERT INTO ledger ({', '.join(columns)}) VALUES ({places})", values)
    old.execute("UPDATE alembic_version SET version_num = '0003'")
    old.commit()
    old.close()
    again = open_database(tmp_path)
    with Governing(again, resources_for(tmp_path)).invocation().read() as reading:
        entry = find_entry(reading, "req_old")
        (row,) = sum_up(reading, by=["action"])
    assert (entry.action, entry.tokens, entry.output_tokens) == ("embedding", 7, 0)
    assert (row.group, row.requests, row.tokens, row.output_tokens) == (("embedding",), 1, 7, 0)
    again.close()


def test_what_was_used_before_the_last_rotation_is_of_the_secret_before_it(tmp_path: Path) -> None:
    open_database(tmp_path).close()
    old = sqlite3.connect(tmp_path / DATABASE_FILE)
    old.execute("DROP TABLE aliases")
    for name in ("rotated_at_ms", "last_used_at_ms", "models"):
        old.execute(f"ALTER TABLE keys DROP COLUMN {name}")
    old.execute("INSERT INTO users (id, name, is_admin, is_disabled, created_at_ms) VALUES ('u', 'ann', 0, 0, 1)")
    for key_id, made_at_ms, replaced_by in (("key", 50, None), ("before", 10, "key"), ("first", 5, None)):
        row = (key_id, key_id.encode(), made_at_ms, replaced_by)
        old.execute(
            "INSERT INTO keys (id, user_id, name, hint, digest, created_at_ms, replaced_by) "
            "VALUES (?, 'u', 'k', '', ?, ?, ?)",
            row,
        )
    columns = [name for _, name, *_ in old.execute("PRAGMA table_info(ledger)") if name not in ("id", "digest")]
    for key_id, at_ms in (("key", 20), ("key", 49), ("key", 60), ("first", 30)):
        values = dict.fromkeys(columns, 0) | {"request_id": f"{key_id} {at_ms}", "key_id": key_id, "at_ms": at_ms}
        old.execute(
            f"INSERT INTO ledger ({', '.join(columns)}) VALUES ({', '.join(f':{name}' for name in columns)})", values
        )
    old.execute("UPDATE alembic_version SET version_num = '0009'")
    old.commit()
    old.close()
    again = open_database(tmp_path)
    with Governing(again, resources_for(tmp_path)).invocation().read() as reading:
        used = {key_id: find_key(reading, key_id).last_used_at for key_id in ("key", "before", "first")}
    assert used == {"key": None, "before": moment(49), "first": moment(30)}
    again.close()


def test_processes_that_start_at_once_do_not_clash(run_together: Callable[[str, int], list[str]]) -> None:
    run_together(OPEN, 4)


def test_a_newer_database_is_refused_and_left_alone(tmp_path: Path, database: Database) -> None:
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigError, match=rf"has schema 9999, this program knows up to {REVISION}"):
        open_database(tmp_path)
    with database.read() as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == "9999"


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / DATABASE_FILE).write_bytes(b"no database at all, but long enough to look at" * 100)
    with pytest.raises(ConfigError, match="file is not a database"):
        open_database(tmp_path)


def test_a_migration_that_fails_leaves_no_table_behind(tmp_path: Path) -> None:
    foreign = sqlite3.connect(tmp_path / DATABASE_FILE)
    foreign.execute("CREATE TABLE ledger (x)")
    foreign.commit()
    with pytest.raises(ConfigError, match="table ledger already exists"):
        open_database(tmp_path)
    assert foreign.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall() == [("ledger",)]
    foreign.close()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "data"):
        with pytest.raises(ConfigError, match=r"cannot be written.*storage\.data_dir"):
            open_database(folder)


def test_a_locked_database_is_an_internal_error(tmp_path: Path) -> None:
    database = open_database(tmp_path, busy_timeout_s=0.01)
    with database.write(), pytest.raises(InternalError, match="database is locked"), database.write():
        pass
    database.close()
