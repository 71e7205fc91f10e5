"""Passwords: who may log in, how long it takes, and what becomes of old hashes."""

import threading
from dataclasses import replace
from typing import Literal

import argon2
import pytest
import sqlalchemy as sa
from argon2 import extract_parameters

from embedgate.core.errors import InvalidCredentials, InvalidInput, Overloaded, UnknownEntity
from embedgate.govern import users
from embedgate.govern.change import Actor
from embedgate.govern.failed_logins import FailedLogins
from embedgate.govern.logins import Login, check_password, log_in, user_of_login
from embedgate.govern.me import PasswordChange, change_my_password
from embedgate.govern.passwords import PasswordHashes
from embedgate.govern.users import NewPassword, NewUser, UserChange, WhichUser
from embedgate.storage import schema
from embedgate.storage.database import Database
from governing import Governing
from waiting import PATIENCE_S

PASSWORD = "correct horse battery"
LONGEST = "".join(chr(0x4E00 + 11 * n) for n in range(1_024))


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
def anyone(call: Governing, hasher: Hasher) -> Governing:
    """Operations on a database in which `ann` has a password and `bob` has none."""
    anyone = hashing_with(call, PasswordHashes(hasher))
    anyone(users.create_user, NewUser("ann"))
    anyone(users.create_user, NewUser("bob"))
    anyone(users.set_password, NewPassword("ann", PASSWORD))
    return anyone


def hashing_with(call: Governing, passwords: PasswordHashes) -> Governing:
    return replace(call, resources=replace(call.resources, passwords=passwords))


def is_accepted(call: Governing, name: str, password: str) -> bool:
    """Whether somebody is let in; failures before do not count."""
    call = replace(call, resources=replace(call.resources, failed_logins=FailedLogins()))
    try:
        user_id = check_password(call.invocation(), name, password, action="login")
    except InvalidCredentials:
        return False
    return user_id == call(users.show_user, WhichUser(name)).id


def stored_hash(database: Database) -> str:
    with database.read() as connection:
        return str(
            connection.execute(sa.select(schema.users.c.password_hash).where(schema.users.c.name == "ann")).scalar()
        )


def test_only_the_right_password_of_an_enabled_user_is_accepted(anyone: Governing) -> None:
    assert is_accepted(anyone, "ann", PASSWORD)
    found = anyone(users.show_user, WhichUser("ann"))
    assert found.has_password
    assert not anyone(users.show_user, WhichUser("bob")).has_password
    for name, password in (("ann", PASSWORD + " "), ("ann", ""), ("bob", PASSWORD), ("eve", PASSWORD), ("\udcff", "x")):
        assert not is_accepted(anyone, name, password)
    assert not is_accepted(anyone, found.id, PASSWORD)  # people log in by name
    anyone(users.change_user, UserChange("ann", is_disabled=True))
    assert not is_accepted(anyone, "ann", PASSWORD)


def test_every_refusal_costs_one_hash_of_the_same_strength(
    anyone: Governing, hasher: Hasher, database: Database
) -> None:
    anyone(users.create_user, NewUser("off"))
    anyone(users.set_password, NewPassword("off", PASSWORD))
    anyone(users.change_user, UserChange("off", is_disabled=True))
    for name in ("ann", "bob", "off", "eve", "\udcff"):
        hasher.verified.clear()
        assert not is_accepted(anyone, name, "a wrong password")
        (verified,) = hasher.verified
        assert extract_parameters(verified) == extract_parameters(stored_hash(database))


def test_a_password_is_the_same_however_it_is_typed(anyone: Governing) -> None:
    anyone(users.set_password, NewPassword("bob", "zoe\u0308 likes fresh bread"))
    assert is_accepted(anyone, "bob", "zo\u00eb likes fresh bread")


@pytest.mark.parametrize(
    "password",
    ["", "x" * 11, "x" * 1_025, "\udcff" * 12, "zoe\u0308 zoe\u0308 zoe\u0308"],  # 11 letters, however typed
)
def test_unfit_passwords_are_refused_and_not_repeated(anyone: Governing, password: str) -> None:
    with pytest.raises(InvalidInput, match="12 to 1024") as caught:
        anyone(users.set_password, NewPassword("ann", password))
    assert not password or password not in caught.value.message
    assert not is_accepted(anyone, "ann", password)
    assert is_accepted(anyone, "ann", PASSWORD)


@pytest.mark.parametrize(
    ("password", "why"),
    [
        (" " * 12, "different characters"),
        ("x" * 1_000, "different characters"),
        ("Passw0rd!2026", "common words"),
        ("ann@example.org", "name or address"),
        ("qwertyuiop12", "run"),
        ("hunter2hunter2", "repeats"),
    ],
)
def test_passwords_that_would_be_guessed_are_refused_with_the_reason(
    anyone: Governing, password: str, why: str
) -> None:
    anyone(users.change_user, users.UserChange("ann", email="ann@example.org"))
    session = anyone(log_in, Login("ann", PASSWORD))
    with pytest.raises(InvalidInput, match=why) as caught:
        anyone(users.set_password, NewPassword("ann", password))
    assert password not in caught.value.message
    ann = user_of_login(anyone.invocation(), session.access_token)
    with pytest.raises(InvalidInput, match=why):
        anyone.with_actor(Actor(ann.id))(change_my_password, PasswordChange(PASSWORD, password))
    assert is_accepted(anyone, "ann", PASSWORD)


def test_a_new_password_ends_the_old_one_and_every_session(anyone: Governing) -> None:
    session = anyone(log_in, Login("ann", PASSWORD))
    assert anyone(users.set_password, NewPassword("ann", LONGEST)).has_password
    assert anyone.last_event()[0] == "users.set_password"
    assert not is_accepted(anyone, "ann", PASSWORD)
    assert is_accepted(anyone, "ann", LONGEST)
    with pytest.raises(InvalidCredentials):
        user_of_login(anyone.invocation(), session.access_token)
    with pytest.raises(UnknownEntity):
        anyone(users.set_password, NewPassword("eve", PASSWORD))


def test_a_hash_of_older_parameters_is_replaced_at_the_next_login(anyone: Governing, database: Database) -> None:
    old = stored_hash(database)
    stronger = hashing_with(anyone, PasswordHashes(Hasher(time_cost=2)))
    assert not is_accepted(stronger, "ann", "a wrong password")
    assert stored_hash(database) == old
    n_events = len(stronger.events())
    assert is_accepted(stronger, "ann", PASSWORD)
    new = stored_hash(database)
    assert extract_parameters(new).time_cost == 2
    assert is_accepted(stronger, "ann", PASSWORD)
    assert stored_hash(database) == new
    assert len(stronger.events()) == n_events


def test_the_default_is_argon2id_as_is_best_today(anyone: Governing, database: Database) -> None:
    strong = hashing_with(anyone, PasswordHashes())
    strong(users.set_password, NewPassword("ann", PASSWORD))
    assert stored_hash(database).startswith("$argon2id$")
    assert extract_parameters(stored_hash(database)) == argon2.profiles.RFC_9106_LOW_MEMORY
    assert is_accepted(strong, "ann", PASSWORD)
    assert not is_accepted(strong, "eve", PASSWORD)


class Held(Hasher):
    """Verifies nothing until it is let."""

    __slots__ = ("begun", "may_go_on")

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.may_go_on = threading.Event(), threading.Event()

    def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:  # noqa: A002
        self.begun.set()
        self.may_go_on.wait(PATIENCE_S)
        return super().verify(hash, password)


def test_more_logins_at_once_than_there_is_memory_for_are_refused(anyone: Governing) -> None:
    hasher = Held()
    busy = hashing_with(anyone, PasswordHashes(hasher, max_parallel=1))
    thread = threading.Thread(target=is_accepted, args=(busy, "ann", PASSWORD))
    thread.start()
    assert hasher.begun.wait(PATIENCE_S)
    with pytest.raises(Overloaded, match="1 passwords"):
        is_accepted(busy, "ann", PASSWORD)
    hasher.may_go_on.set()
    thread.join(PATIENCE_S)
    assert is_accepted(busy, "ann", PASSWORD)
