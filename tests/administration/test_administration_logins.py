"""Logins: what is told of a failure, what is written down, and how fast a password can be guessed."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Protocol

import pytest

from embedgate.administration import Actor, Administration, Stores
from embedgate.administration.logins import NOBODY
from embedgate.core.access import AuditEvent, UserRecord
from embedgate.core.errors import InvalidCredentials, InvalidInput, RateLimited
from embedgate.govern.failed_logins import (
    MAX_FAILURES_OF_ADDRESS,
    MAX_FAILURES_OF_NAME,
    WINDOW_S,
    FailedLogins,
)

PASSWORD = "correct horse battery"
HERE, THERE = "192.0.2.7", "192.0.2.8"
Happened = Callable[[], list[AuditEvent]]


class Clock(Protocol):
    """The clock of this folder."""

    now_s: float


@pytest.fixture
def anyone(stores: Stores, administration: Administration) -> Administration:
    """The administration as the one who is not logged in yet uses it; `ann` may log in."""
    administration.users.create("ann")
    administration.users.set_password("ann", PASSWORD)
    administration.users.create("bob")
    return Administration(stores, Actor("anyone", "req_2"))


@pytest.fixture
def ann(anyone: Administration) -> UserRecord:
    return anyone.users.get("ann")


def failing(logins: Administration, name: str, ip_address: str = HERE) -> None:
    with pytest.raises(InvalidCredentials):
        logins.logins.log_in(name, "wrong password", ip_address=ip_address)


def test_a_login_gives_tokens_and_is_written_down(anyone: Administration, ann: UserRecord, happened: Happened) -> None:
    tokens = anyone.logins.log_in("ann", PASSWORD, ip_address=HERE)
    assert anyone.logins.user_of(tokens.access) == ann
    event = happened()[-1]
    assert (event.kind, event.action, event.outcome) == ("login", "login", "ok")
    assert (event.actor, event.target, event.request_id) == (ann.id, ann.id, "req_2")
    assert event.detail == {"session": tokens.session_id, "ip_address": HERE}


@pytest.mark.parametrize("name", ["ann", "bob", "nobody", "user_0123456789abcdef", "\udcff", "x" * 100_000])
def test_what_was_wrong_is_not_told_but_written_down(anyone: Administration, happened: Happened, name: str) -> None:
    with pytest.raises(InvalidCredentials) as raised:
        anyone.logins.log_in(name, "wrong password", ip_address=HERE)
    assert raised.value.message == "The name or the password is wrong, or this user may not log in."
    event = happened()[-1]
    assert (event.kind, event.action, event.outcome) == ("login", "login", "invalid_credentials")
    assert event.actor == "anyone"
    assert event.target == (anyone.users.get(name).id if name in ("ann", "bob") else NOBODY)
    assert event.detail == {"ip_address": HERE}


def test_a_disabled_user_cannot_log_in(anyone: Administration, ann: UserRecord) -> None:
    tokens = anyone.logins.log_in("ann", PASSWORD)
    anyone.users.update("ann", is_disabled=True)
    with pytest.raises(InvalidCredentials):
        anyone.logins.log_in("ann", PASSWORD)
    with pytest.raises(InvalidCredentials):
        anyone.logins.user_of(tokens.access)


def test_after_five_failures_the_right_password_has_to_wait_too(
    anyone: Administration, clock: Clock, happened: Happened
) -> None:
    for _ in range(MAX_FAILURES_OF_NAME):
        failing(anyone, "ann")
        clock.now_s += 10
    n_events = len(happened())
    with pytest.raises(RateLimited) as raised:
        anyone.logins.log_in("ann", PASSWORD, ip_address=HERE)
    assert raised.value.retry_after_s == WINDOW_S - 50
    assert "Try again in 850 seconds" in raised.value.message
    assert len(happened()) == n_events
    anyone.logins.log_in("ann", PASSWORD, ip_address=THERE)
    failing(anyone, "bob")
    clock.now_s += WINDOW_S - 50 - 0.25
    with pytest.raises(RateLimited):
        anyone.logins.log_in("ann", PASSWORD, ip_address=HERE)
    clock.now_s += 0.25
    anyone.logins.log_in("ann", PASSWORD, ip_address=HERE)
    failing(anyone, "ann")
    with pytest.raises(RateLimited):
        anyone.logins.log_in("ann", PASSWORD, ip_address=HERE)


def test_logins_that_succeed_are_not_counted(anyone: Administration) -> None:
    for _ in range(2 * MAX_FAILURES_OF_NAME):
        anyone.logins.log_in("ann", PASSWORD, ip_address=HERE)


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


def test_a_refresh_token_is_exchanged_once(anyone: Administration, ann: UserRecord, happened: Happened) -> None:
    first = anyone.logins.log_in("ann", PASSWORD)
    second = anyone.logins.refresh(first.refresh)
    assert anyone.logins.user_of(second.access) == ann
    assert (happened()[-1].action, happened()[-1].outcome) == ("login.refresh", "ok")
    with pytest.raises(InvalidCredentials):
        anyone.logins.refresh(first.refresh)
    event = happened()[-1]
    assert (event.action, event.outcome, event.target) == ("login.refresh", "token_reused", ann.id)
    with pytest.raises(InvalidCredentials):
        anyone.logins.user_of(second.access)
    n_events = len(happened())
    for worthless in (second.refresh, "egr_", "", first.access):
        with pytest.raises(InvalidCredentials):
            anyone.logins.refresh(worthless)
    assert len(happened()) == n_events


def test_a_session_ends_with_its_logout(anyone: Administration, ann: UserRecord, happened: Happened) -> None:
    tokens = anyone.logins.log_in("ann", PASSWORD)
    anyone.logins.log_out(tokens.access)
    assert (happened()[-1].action, happened()[-1].actor) == ("logout", ann.id)
    for use in (anyone.logins.user_of, anyone.logins.log_out, anyone.logins.refresh):
        with pytest.raises(InvalidCredentials):
            use(tokens.access)


def test_sessions_that_are_long_over_are_forgotten_at_the_next_login(
    anyone: Administration, stores: Stores, clock: Clock
) -> None:
    anyone.logins.log_in("ann", PASSWORD)
    clock.now_s += 8 * 24 * 3600
    anyone.logins.log_in("ann", PASSWORD)
    assert stores.sessions.purge() == 0


def test_a_user_changes_its_password_with_the_present_one(
    anyone: Administration, ann: UserRecord, happened: Happened
) -> None:
    me, tokens = anyone.me(ann.id), anyone.logins.log_in("ann", PASSWORD)
    with pytest.raises(InvalidCredentials):
        me.change_password("wrong password", "another password", ip_address=HERE)
    event = happened()[-1]
    assert (event.kind, event.action, event.target) == ("login", "users.set_password", ann.id)
    with pytest.raises(InvalidInput):
        me.change_password(PASSWORD, "short", ip_address=HERE)
    me.change_password(PASSWORD, "another password", ip_address=HERE)
    assert (happened()[-1].kind, happened()[-1].target) == ("change", ann.id)
    with pytest.raises(InvalidCredentials):
        anyone.logins.user_of(tokens.access)
    anyone.logins.log_in("ann", "another password", ip_address=HERE)
    for _ in range(MAX_FAILURES_OF_NAME - 1):
        with pytest.raises(InvalidCredentials):
            me.change_password(PASSWORD, "a third password", ip_address=HERE)
    with pytest.raises(RateLimited):
        me.change_password("another password", "a third password", ip_address=HERE)
