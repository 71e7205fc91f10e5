"""Everything that administration reads and changes, opened over one database."""

from collections.abc import Callable
from dataclasses import dataclass

from embedgate.administration.transaction import JointDatabase
from embedgate.core.clock import utc_ms
from embedgate.storage.audit import SqlAudit
from embedgate.storage.database import Database
from embedgate.storage.key_management import SqlKeys
from embedgate.storage.passwords import SqlPasswords
from embedgate.storage.projects import SqlProjects
from embedgate.storage.roles import SqlRoles
from embedgate.storage.users import SqlUsers


@dataclass(frozen=True, slots=True)
class Stores:
    """The stores, on one database. Safe to share between threads; one for a process.

    now_ms: UTC milliseconds.
    """

    database: JointDatabase
    users: SqlUsers
    roles: SqlRoles
    projects: SqlProjects
    keys: SqlKeys
    passwords: SqlPasswords
    audit: SqlAudit
    now_ms: Callable[[], int] = utc_ms


def open_stores(database: Database, prefix: str) -> Stores:
    """The stores of an open database, which its owner closes.

    prefix: start of new keys.
    """
    joint = JointDatabase(database)
    return Stores(
        database=joint,
        users=SqlUsers(joint),
        roles=SqlRoles(joint),
        projects=SqlProjects(joint),
        keys=SqlKeys(joint, prefix),
        passwords=SqlPasswords(joint),
        audit=SqlAudit(joint),
    )
