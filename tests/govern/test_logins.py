"""Logins: what is told of a failure, what is written down, how long tokens last, how fast a password can be guessed."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from embedgate.core.errors import InternalError, InvalidCredentials, InvalidInput, RateLimited, UnknownEntity
from embedgate.govern import users
from embedgate.govern.change import STRANGER, Actor
from embedgate.govern.failed_logins import (
    FIRST_WAIT_S,
    FORGOTTEN_AFTER_S,
    MAX_FAILURES_OF_ADDRESS,
    MAX_FAILURES_OF_NAME,
    WINDOW_S,
    FailedLogins,
)
from embedgate.govern.logins import (
    ACCESS_S,
    NOBODY,
    REFRESH_S,
    Login,
    Refresh,
    Session,
    log_in,
    log_out,
    refresh,
    user_of_login,
)
from embedgate.govern.me import PasswordChange, change_my_password
from embedgate.govern.operation import NoParameters
from embedgate.govern.users import User
from embedgate.govern.values import moment
from embedgate.storage.database import Database, open_database
from governing import Clock, Governing

PASSWORD = "correct horse battery"
HERE, THERE = "192.0.2.7", "192.0.2.8"


@pytest.fixture
def anyone(call: Governing, clock: Clock) -> Governing:
    """Operations for one who is not logged in yet, and is HERE; `ann` may log in."""
    call = replace(call, resources=replace(call.resources, failed_logins=FailedLogins(clock.s)))
    call(users.create_user, users.NewUser("ann"))
    call(users.set_password, users.NewPassword("ann", PASSWORD))
    call(users.create_user, users.NewUser("bob"))
    return call.with_actor(Actor(STRANGER, "req_2", HERE))


@pytest.fixture
def ann(anyone: Governing) -> User:
    return anyone(users.show_user, users.WhichUser("ann"))


def logged_in(call: Governing) -> Session:
    return call(log_in, Login("ann", PASSWORD))


def failing(call: Governing, name: str) -> None:
    with pytest.raises(InvalidCredentials):
        call(log_in, Login(name, "wrong password"))


def user_of(call: Governing, access_token: str) -> User:
    return user_of_login(call.invocation(), access_token)


def is_open(call: Governing, access_token: str) -> bool:
    try:
        user_of(call, access_token)
    except InvalidCredentials:
        return False
    return True


def end(call: Governing, access_token: str) -> None:
    call.with_secret(access_token)(log_out, NoParameters())


def n_sessions(database: Database) -> int:
    with database.read() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM sessions").scalar_one())


def test_a_login_gives_tokens_and_is_written_down(anyone: Governing, ann: User) -> None:
    session = logged_in(anyone)
    assert user_of(anyone, session.access_token) == ann
    event = anyone.events()[-1]
    assert (event.kind, event.action, event.outcome) == ("login", "login", "ok")
    assert (event.actor, event.target, event.request_id) == (ann.id, ann.id, "req_2")
    assert event.detail["ip_address"] == HERE
    assert re.fullmatch("session_[0-9a-f]{32}", str(event.detail["session"]))


@pytest.mark.parametrize("name", ["ann", "bob", "nobody", "user_0123456789abcdef", "\udcff", "x" * 100_000])
def test_what_was_wrong_is_not_told_but_written_down(anyone: Governing, name: str) -> None:
    with pytest.raises(InvalidCredentials) as raised:
        anyone(log_in, Login(name, "wrong password"))
    assert raised.value.message == "The name or the password is wrong, or this user may not log in."
    event = anyone.events()[-1]
    assert (event.kind, event.action, event.outcome) == ("login", "login", "invalid_credentials")
    assert event.actor == STRANGER
    known = name in ("ann", "bob")
    assert event.target == (anyone(users.show_user, users.WhichUser(name)).id if known else NOBODY)
    assert event.detail == {"ip_address": HERE}


def test_a_disabled_user_cannot_log_in(anyone: Governing, ann: User) -> None:
    session = logged_in(anyone)
    anyone(users.change_user, users.UserChange("ann", is_disabled=True))
    failing(anyone, "ann")
    with pytest.raises(InvalidCredentials):
        logged_in(anyone)
    assert not is_open(anyone, session.access_token)
    anyone(users.change_user, users.UserChange("ann", is_disabled=False))
    assert not is_open(anyone, session.access_token)
    with pytest.raises(InvalidCredentials):
        anyone(refresh, Refresh(session.refresh_token))


def test_after_five_failures_each_further_attempt_waits_longer(anyone: Governing, clock: Clock) -> None:
    for _ in range(MAX_FAILURES_OF_NAME):
        failing(anyone, "ann")
        clock.now_s += 10
    n_events = len(anyone.events())
    with pytest.raises(RateLimited) as raised:
        logged_in(anyone)
    assert raised.value.retry_after_s == FIRST_WAIT_S - 10
    assert "Try again in 20 seconds" in raised.value.message
    assert len(anyone.events()) == n_events
    logged_in(anyone.with_actor(Actor(STRANGER, ip_address=THERE)))
    failing(anyone, "bob")
    waits_s = []
    clock.now_s += FIRST_WAIT_S - 10
    for _ in range(8):
        failing(anyone, "ann")
        with pytest.raises(RateLimited) as raised:
            logged_in(anyone)
        assert raised.value.retry_after_s is not None
        waits_s.append(raised.value.retry_after_s)
        clock.now_s += raised.value.retry_after_s - 0.25
        with pytest.raises(RateLimited):
            logged_in(anyone)
        clock.now_s += 0.25
    assert waits_s == [60, 120, 240, 480, WINDOW_S, WINDOW_S, WINDOW_S, WINDOW_S]
    logged_in(anyone)
    logged_in(anyone)  # the right password has ended the wait
    failing(anyone, "ann")
    with pytest.raises(RateLimited) as raised:
        logged_in(anyone)
    assert raised.value.retry_after_s == FIRST_WAIT_S


def test_failures_are_forgotten_after_a_day(clock: Clock) -> None:
    failed = FailedLogins(clock.s)
    for _ in range(MAX_FAILURES_OF_NAME):
        with failed.attempt("ann", HERE) as fail:
            fail()
    clock.now_s += FORGOTTEN_AFTER_S
    for _ in range(MAX_FAILURES_OF_NAME):
        with failed.attempt("ann", HERE) as fail:
            fail()


def test_addresses_of_one_subscriber_are_one(clock: Clock) -> None:
    failed = FailedLogins(clock.s)
    for n in range(MAX_FAILURES_OF_NAME):
        with failed.attempt("ann", f"2001:db8:1:2::{n}") as fail:
            fail()
    with pytest.raises(RateLimited), failed.attempt("ann", "2001:db8:1:2:ffff::"):
        pass
    with failed.attempt("ann", "2001:db8:1:3::"):
        pass


def test_failed_logins_keep_no_working_session_from_anything(anyone: Governing, ann: User) -> None:
    session = logged_in(anyone)
    for _ in range(MAX_FAILURES_OF_NAME):
        failing(anyone, "ann")
    with pytest.raises(RateLimited):
        logged_in(anyone)
    session = anyone(refresh, Refresh(session.refresh_token))
    assert is_open(anyone, session.access_token)
    inside = anyone.with_actor(Actor(ann.id, "req_3", HERE))
    inside(change_my_password, PasswordChange(PASSWORD, "another long phrase"))


OTHER_SPELLINGS = [
    "ANN", "Ann", "ann ", " ann", "\tann", "ann\n", "ann\0", "ann.",
    "ann..", "a\u200bnn", "\uff41nn", "\u0430nn", "ann\u0301", "an\u0578", "ann\u00a0", "\u202eann",
    "ann\\", "ann'--", "ann%", "a_n", "ann@", "ann/../ann", "%61nn", "ann\ud800",
]  # fmt: skip


def test_another_spelling_of_a_name_is_nobody_and_slows_nobody_down(anyone: Governing) -> None:
    for name in OTHER_SPELLINGS:
        with pytest.raises(InvalidCredentials):
            anyone(log_in, Login(name, PASSWORD))
        assert anyone.events()[-1].target == NOBODY
    logged_in(anyone)
    for name in OTHER_SPELLINGS:
        failing(anyone, name)
    with pytest.raises(RateLimited, match="from this address"):  # all spellings together are guessing, too
        for _ in range(MAX_FAILURES_OF_NAME - 1):
            for name in OTHER_SPELLINGS:
                failing(anyone, name)
    logged_in(anyone.with_actor(Actor(STRANGER, "req_4", THERE)))


def test_logins_that_succeed_are_not_counted(anyone: Governing) -> None:
    for _ in range(2 * MAX_FAILURES_OF_NAME):
        logged_in(anyone)


def test_many_names_from_one_address_are_guessing_too(clock: Clock) -> None:
    failed = FailedLogins(lambda: clock.now_s)
    for n in range(MAX_FAILURES_OF_ADDRESS):
        with failed.attempt(f"user {n}", HERE) as fail:
            fail()
    with pytest.raises(RateLimited, match="from this address"), failed.attempt("ann", HERE):
        pass
    with failed.attempt("ann", THERE):
        pass


def test_attempts_at_the_same_moment_are_no_more_than_one_after_the_other(clock: Clock) -> None:
    failed = FailedLogins(lambda: clock.now_s)
    with ExitStack() as attempts:
        for _ in range(MAX_FAILURES_OF_NAME):
            attempts.enter_context(failed.attempt("ann", HERE))
        with pytest.raises(RateLimited), failed.attempt("ann", HERE):
            pass
    for _ in range(MAX_FAILURES_OF_NAME):
        with failed.attempt("ann", HERE) as fail:
            fail()

    def attempt(_: int) -> bool:
        try:
            with failed.attempt("bob", HERE) as fail:
                fail()
        except RateLimited:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(50))) == MAX_FAILURES_OF_NAME


def test_an_attempt_that_ended_otherwise_does_not_count(clock: Clock) -> None:
    failed = FailedLogins(lambda: clock.now_s)
    for _ in range(2 * MAX_FAILURES_OF_NAME):
        with pytest.raises(ZeroDivisionError), failed.attempt("ann", HERE):
            raise ZeroDivisionError


def test_only_so_many_names_and_addresses_are_remembered(clock: Clock) -> None:
    failed = FailedLogins(lambda: clock.now_s, max_tracked=10)
    for n in range(100):
        with failed.attempt("x" * 1000 + str(n), f"192.0.2.{n}") as fail:
            fail()
    assert len(failed._failures) == 10
    assert max(len(name) for who in failed._failures for name in who) < 100


def test_a_refresh_token_is_exchanged_once(anyone: Governing, ann: User) -> None:
    first, untouched = logged_in(anyone), logged_in(anyone)
    second = anyone(refresh, Refresh(first.refresh_token))
    assert user_of(anyone, second.access_token) == ann
    assert not is_open(anyone, first.access_token)
    assert (anyone.events()[-1].action, anyone.events()[-1].outcome) == ("login.refresh", "ok")
    third = anyone(refresh, Refresh(second.refresh_token))
    with pytest.raises(InvalidCredentials):
        anyone(refresh, Refresh(first.refresh_token))
    event = anyone.events()[-1]
    assert (event.action, event.outcome, event.target) == ("login.refresh", "token_reused", ann.id)
    assert event.actor == STRANGER
    assert not is_open(anyone, third.access_token)
    assert is_open(anyone, untouched.access_token)
    n_events = len(anyone.events())
    for worthless in (third.refresh_token, first.refresh_token, "egr_", "", first.access_token):
        with pytest.raises(InvalidCredentials):
            anyone(refresh, Refresh(worthless))
    assert len(anyone.events()) == n_events


def test_an_access_token_is_its_users_until_its_end(anyone: Governing, ann: User, clock: Clock) -> None:
    session = logged_in(anyone)
    assert re.fullmatch(r"egs_[A-Za-z0-9_-]{43}", session.access_token)
    assert re.fullmatch(r"egr_[A-Za-z0-9_-]{43}", session.refresh_token)
    assert session.access_token not in repr(session)
    assert session.refresh_token not in repr(session)
    assert session.user_id == ann.id
    assert session.access_expires_at == moment(clock.ms() + ACCESS_S * 1000)
    session_id = str(anyone.events()[-1].detail["session"])
    for other in (session.refresh_token, session.access_token + "x", "", "\udcff", session_id):
        assert not is_open(anyone, other)
    clock.now_s += ACCESS_S - 0.001
    assert is_open(anyone, session.access_token)
    clock.now_s += 0.001
    assert not is_open(anyone, session.access_token)


def test_a_refresh_renews_both_tokens_and_voids_the_old_pair(anyone: Governing, clock: Clock) -> None:
    old = logged_in(anyone)
    session_id = anyone.events()[-1].detail["session"]
    clock.now_s += ACCESS_S / 2
    new = anyone(refresh, Refresh(old.refresh_token))
    assert anyone.events()[-1].detail == {"session": session_id}
    assert new.refresh_expires_at == moment(clock.ms() + REFRESH_S * 1000)
    assert not is_open(anyone, old.access_token)
    assert is_open(anyone, new.access_token)
    assert len({old.access_token, old.refresh_token, new.access_token, new.refresh_token}) == 4


def test_of_two_who_refresh_at_once_at_most_one_gets_tokens(anyone: Governing, tmp_path: Path) -> None:
    elsewhere = open_database(tmp_path)
    both = (anyone, replace(anyone, database=elsewhere))

    def attempt(call: Governing, token: str) -> Session | None:
        try:
            return call(refresh, Refresh(token))
        except InvalidCredentials:
            return None

    for _ in range(5):
        token = logged_in(anyone).refresh_token
        with ThreadPoolExecutor(2) as workers:
            results = list(workers.map(lambda call, token=token: attempt(call, token), both))
        assert [result is None for result in results].count(False) == 1
        assert anyone.events()[-1].outcome == "token_reused"
    elsewhere.close()


def test_an_id_is_not_enough_to_end_somebody_elses_session(anyone: Governing) -> None:
    session = logged_in(anyone)
    session_id = str(anyone.events()[-1].detail["session"])
    made_up = "egr_" + session_id.removeprefix("session_").ljust(43, "A")
    for token in (made_up, session_id, session.access_token, "egr_", "egr_" + "é" * 43, session.refresh_token + "\n"):
        with pytest.raises(InvalidCredentials):
            anyone(refresh, Refresh(token))
    assert is_open(anyone, session.access_token)


def test_a_refresh_token_ends_with_its_time(anyone: Governing, clock: Clock) -> None:
    session = logged_in(anyone)
    for later_s in (REFRESH_S, -0.001):  # over is over
        clock.now_s += later_s
        with pytest.raises(InvalidCredentials):
            anyone(refresh, Refresh(session.refresh_token))


def test_a_refresh_token_ends_with_its_user(anyone: Governing, database: Database) -> None:
    session = logged_in(anyone)
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE users SET is_disabled = 1")
    assert not is_open(anyone, session.access_token)
    with pytest.raises(InvalidCredentials):
        anyone(refresh, Refresh(session.refresh_token))


def test_a_session_ends_with_its_logout(anyone: Governing, ann: User) -> None:
    session = logged_in(anyone)
    end(anyone, session.access_token)
    assert (anyone.events()[-1].action, anyone.events()[-1].actor) == ("logout", ann.id)
    uses: tuple[Callable[[str], object], ...] = (
        lambda token: user_of(anyone, token),
        lambda token: end(anyone, token),
        lambda token: anyone(refresh, Refresh(token)),
    )
    for use in uses:
        with pytest.raises(InvalidCredentials):
            use(session.access_token)
    with pytest.raises(InvalidInput, match="revoke the key"):
        end(anyone, "eg_0123456789ab4def8123456789abcdef")


def test_sessions_that_are_long_over_are_forgotten_at_the_next_login(
    anyone: Governing, database: Database, clock: Clock
) -> None:
    first = logged_in(anyone)
    clock.now_s += 24 * 3600
    logged_in(anyone)
    clock.now_s += REFRESH_S - 24 * 3600 - 1
    logged_in(anyone)
    assert n_sessions(database) == 3
    clock.now_s += 1
    assert first.refresh_expires_at == moment(clock.ms())
    logged_in(anyone)
    assert n_sessions(database) == 3


def test_a_user_changes_its_password_with_the_present_one(anyone: Governing, ann: User) -> None:
    me, session = anyone.with_actor(Actor(ann.id, ip_address=HERE)), logged_in(anyone)
    with pytest.raises(InvalidCredentials):
        me(change_my_password, PasswordChange("wrong password", "another password"))
    event = me.events()[-1]
    assert (event.kind, event.action, event.target) == ("login", "users.set_password", ann.id)
    with pytest.raises(InvalidInput):
        me(change_my_password, PasswordChange(PASSWORD, "short"))
    me(change_my_password, PasswordChange(PASSWORD, "another password"))
    assert (me.events()[-1].kind, me.events()[-1].target) == ("change", ann.id)
    assert not is_open(anyone, session.access_token)
    anyone(log_in, Login("ann", "another password"))
    for _ in range(MAX_FAILURES_OF_NAME - 1):
        with pytest.raises(InvalidCredentials):
            me(change_my_password, PasswordChange(PASSWORD, "a third password"))
    with pytest.raises(RateLimited):
        me(change_my_password, PasswordChange("another password", "a third password"))


def test_nobody_logs_in_who_is_deleted_meanwhile(anyone: Governing, ann: User) -> None:
    session = logged_in(anyone)
    anyone(users.delete_user, users.WhichUser("ann"))
    assert not is_open(anyone, session.access_token)
    failing(anyone, "ann")
    with pytest.raises(UnknownEntity):
        anyone.with_actor(Actor(ann.id))(change_my_password, PasswordChange(PASSWORD, "another password"))


def test_no_event_holds_a_password_or_a_token(anyone: Governing) -> None:
    session = logged_in(anyone)
    newer = anyone(refresh, Refresh(session.refresh_token))
    end(anyone, newer.access_token)
    failing(anyone, "ann")
    trail = repr(anyone.events())
    tokens = [each for pair in (session, newer) for each in (pair.access_token, pair.refresh_token)]
    assert not [secret for secret in (PASSWORD, "wrong password", *tokens) if secret in trail]


def test_a_login_that_cannot_be_written_down_does_not_happen(anyone: Governing, database: Database) -> None:
    with database.write() as connection:
        connection.exec_driver_sql("DROP TABLE audit")
    with pytest.raises(InternalError):
        logged_in(anyone)
    assert n_sessions(database) == 0
