"""Passwords: who may log in, how long it takes, and what becomes of old hashes."""

import threading
from typing import Literal

import argon2
import pytest
import sqlalchemy as sa
from argon2 import extract_parameters

from embedgate.core.errors import InvalidInput, Overloaded, UnknownEntity
from embedgate.storage import schema
from embedgate.storage.database import Database
from embedgate.storage.passwords import SqlPasswords
from embedgate.storage.sessions import SqlSessions
from embedgate.storage.users import SqlUsers

PASSWORD = "correct horse battery"


class Hasher(argon2.PasswordHasher):
    """Weak and fast, and notes every hash that is verified."""

    __slots__ = ("verified",)

    def __init__(self, time_cost: int = 1) -> None:
        super().__init__(time_cost=time_cost, memory_cost=8, parallelism=1)
        self.verified: list[str] = []

    def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:  # noqa: A002
        self.verified.append(str(hash))
        return super().verify(hash, password)


@pytest.fixture
def hasher() -> Hasher:
    return Hasher()


@pytest.fixture
def passwords(database: Database, hasher: Hasher) -> SqlPasswords:
    """Passwords of a database in which `ann` has one and `bob` has none."""
    users = SqlUsers(database)
    users.create("ann")
    users.create("bob")
    passwords = SqlPasswords(database, hasher=hasher)
    passwords.set_password("ann", PASSWORD)
    return passwords


def stored_hash(database: Database) -> str:
    with database.read() as connection:
        return str(
            connection.execute(sa.select(schema.users.c.password_hash).where(schema.users.c.name == "ann")).scalar()
        )


def test_only_the_right_password_of_an_enabled_user_is_accepted(passwords: SqlPasswords, database: Database) -> None:
    users = SqlUsers(database)
    found = passwords.check_password("ann", PASSWORD)
    assert found == users.get("ann")
    assert found.has_password
    assert not users.get("bob").has_password
    for name, password in (("ann", PASSWORD + " "), ("ann", ""), ("bob", PASSWORD), ("eve", PASSWORD), ("\udcff", "x")):
        assert passwords.check_password(name, password) is None
    assert passwords.check_password(found.id, PASSWORD) is None  # people log in by name
    users.update("ann", is_disabled=True)
    assert passwords.check_password("ann", PASSWORD) is None


def test_every_refusal_costs_one_hash_of_the_same_strength(
    passwords: SqlPasswords, hasher: Hasher, database: Database
) -> None:
    SqlUsers(database).create("off", is_admin=False)
    passwords.set_password("off", PASSWORD)
    SqlUsers(database).update("off", is_disabled=True)
    for name in ("ann", "bob", "off", "eve", "\udcff"):
        hasher.verified.clear()
        assert passwords.check_password(name, "a wrong password") is None
        (verified,) = hasher.verified
        assert extract_parameters(verified) == extract_parameters(stored_hash(database))


def test_a_password_is_the_same_however_it_is_typed(passwords: SqlPasswords) -> None:
    passwords.set_password("bob", "zoe\u0308 zoe\u0308 zoe\u0308")
    assert passwords.check_password("bob", "zo\u00eb zo\u00eb zo\u00eb") is not None


@pytest.mark.parametrize("password", ["", "x" * 11, "x" * 1_025, "\udcff" * 12])
def test_unfit_passwords_are_refused_and_not_repeated(passwords: SqlPasswords, password: str) -> None:
    with pytest.raises(InvalidInput, match="12 to 1024") as caught:
        passwords.set_password("ann", password)
    assert not password or password not in caught.value.message
    assert passwords.check_password("ann", password) is None
    assert passwords.check_password("ann", PASSWORD) is not None


def test_a_new_password_ends_the_old_one_and_every_session(passwords: SqlPasswords, database: Database) -> None:
    sessions = SqlSessions(database)
    access = sessions.open(SqlUsers(database).get("ann").id).access
    assert passwords.set_password("ann", "x" * 1_024).has_password
    assert passwords.check_password("ann", PASSWORD) is None
    assert passwords.check_password("ann", "x" * 1_024) is not None
    assert sessions.find(access) is None
    with pytest.raises(UnknownEntity):
        passwords.set_password("eve", PASSWORD)


def test_a_hash_of_older_parameters_is_replaced_at_the_next_login(passwords: SqlPasswords, database: Database) -> None:
    old = stored_hash(database)
    stronger = SqlPasswords(database, hasher=Hasher(time_cost=2))
    assert stronger.check_password("ann", "a wrong password") is None
    assert stored_hash(database) == old
    assert stronger.check_password("ann", PASSWORD) is not None
    new = stored_hash(database)
    assert extract_parameters(new).time_cost == 2
    assert stronger.check_password("ann", PASSWORD) is not None
    assert stored_hash(database) == new


def test_the_default_is_argon2id_as_is_best_today(passwords: SqlPasswords, database: Database) -> None:
    strong = SqlPasswords(database)
    strong.set_password("ann", PASSWORD)
    assert stored_hash(database).startswith("$argon2id$")
    assert extract_parameters(stored_hash(database)) == argon2.profiles.RFC_9106_LOW_MEMORY
    assert strong.check_password("ann", PASSWORD) is not None
    assert strong.check_password("eve", PASSWORD) is None


class Held(Hasher):
    """Verifies nothing until it is let."""

    __slots__ = ("begun", "may_go_on")

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.may_go_on = threading.Event(), threading.Event()

    def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:  # noqa: A002
        self.begun.set()
        self.may_go_on.wait(60)
        return super().verify(hash, password)


def test_more_logins_at_once_than_there_is_memory_for_are_refused(passwords: SqlPasswords, database: Database) -> None:
    hasher = Held()
    busy = SqlPasswords(database, max_parallel=1, hasher=hasher)
    thread = threading.Thread(target=busy.check_password, args=("ann", PASSWORD))
    thread.start()
    assert hasher.begun.wait(60)
    with pytest.raises(Overloaded, match="1 passwords"):
        busy.check_password("ann", PASSWORD)
    hasher.may_go_on.set()
    thread.join(60)
    assert busy.check_password("ann", PASSWORD) is not None
