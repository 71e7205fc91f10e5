"""What administrators decide is in force at once where they decide it, within a second elsewhere, and on record."""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from administrator import Administrator
from crowd import LOCAL_OFF, MODEL, Caller, Dialect, ask, in_both_dialects
from embedgate.config import load
from embedgate.core.access import PolicyRecord, Rules, Subject
from embedgate.core.clock import utc_ms
from embedgate.core.errors import BudgetExhausted, ConfigError, InternalError, NotPermitted, RateLimited, RevokedKey
from embedgate.core.types import EmbedRequest, EmbedResult, Origin
from embedgate.govern import keys, projects, users
from embedgate.govern.change import Actor
from embedgate.govern.keys import Key, KeyChange, WhichKey
from embedgate.govern.policies import PolicyChange, change_policy
from embedgate.govern.projects import NewProject, ProjectChange
from embedgate.govern.providers import ProviderToSet, set_provider
from embedgate.govern.users import UserChange
from embedgate.govern.values import moment
from embedgate.policy.templates import render
from embedgate.storage.database import Database, open_database
from embedgate.wiring.following import Following
from embedgate.wiring.gateway import Gateway, open_gateway
from empty_database import write_empty_database
from governing import rules_in
from running import RunningGateway, gateway
from upstream import Upstream, error, running_upstream
from virtual_time import now, virtually
from waiting import wait_until
from wire import Reply

PROMISED_S = 1.0
SETTINGS = (
    LOCAL_OFF
    + """
    [providers.openai]
    base_url = "{base_url}"
    [access]
    refusal_summary_s = 0  # each refusal is looked for in the trail
"""
)
FIRST_POLICY = "permit-everything"
_texts = map("text {}".format, itertools.count())


@pytest.fixture(scope="module")
def host() -> Iterator[Upstream]:
    with running_upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, host: Upstream) -> Iterator[RunningGateway]:
    settings = SETTINGS.format(base_url=host.base_url)
    with gateway(tmp_path_factory.mktemp("policies"), settings, {"OPENAI_API_KEY": "sk-upstream"}) as started:
        yield started


@pytest_asyncio.fixture
async def opened(tmp_path: Path, host: Upstream) -> AsyncIterator[Gateway]:
    """A gateway in this process."""
    host.reset()
    file = tmp_path / "embedgate.toml"
    file.write_text(SETTINGS.format(base_url=host.base_url), encoding="utf-8")
    write_empty_database(tmp_path)
    found = await open_gateway(load(file, {"OPENAI_API_KEY": "sk-x"}, {"storage": {"data_dir": tmp_path}}))
    yield found
    await found.aclose()


def ask_once(running: RunningGateway, key: str, dialect: Dialect = "openai") -> Reply:
    return ask(running, [Caller(next(_texts), key, dialect)])[0]


async def embed(opened: Gateway, secret: str) -> EmbedResult:
    async def read() -> EmbedRequest:
        return EmbedRequest(MODEL, (next(_texts),))

    return await opened.pipeline.embed(Origin("req_1", "openai", secret), read)


def change_first_policy(database: Database, description: str) -> None:
    """Change the rules, to no effect."""
    Administrator(database).call(change_policy, PolicyChange(FIRST_POLICY, description=description))


def forbid(policy_id: str, key: Key) -> PolicyRecord:
    return PolicyRecord(policy_id, f'@id("{policy_id}")\nforbid (principal == UserKey::"{key.id}", action, resource);')


# In another process: within a second.


def wait_until_answered(running: RunningGateway, key: str, status: int) -> None:
    """Return once three requests, one after another, are answered so."""
    wait_until("it is in force", lambda: all(ask_once(running, key).status == status for _ in range(3)))


@virtually
async def test_what_is_changed_elsewhere_is_in_force_within_a_second(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    applied: list[float] = []

    async def apply(rules: Rules) -> None:
        applied.append(now())

    following = Following(database, rules_in(database), apply)
    for n in range(20):
        await asyncio.sleep(0.07)  # at any moment between two looks
        changed_s = now()
        change_first_policy(database, f"changed {n}")
        while len(applied) == n:
            await asyncio.sleep(0.01)
        assert applied[n] - changed_s < PROMISED_S
    await following.aclose()
    database.close()


def test_a_policy_that_is_added_elsewhere_refuses_and_says_which_it_is(
    running: RunningGateway, admin: Administrator
) -> None:
    key, secret = admin.new_key()
    assert ask_once(running, secret).status == 200
    policy = forbid("no-more-of-this-key", key)
    admin.add_policy(policy.text)
    wait_until_answered(running, secret, 403)
    refused = ask_once(running, secret, "ziri")
    assert (refused.status, refused.json["code"]) == (403, "AUTHORIZATION_DENIED")
    assert "forbidden by policy no-more-of-this-key" in refused.json["reason"]
    refused = ask_once(running, secret)
    assert refused.json["error"]["code"] == "permission_denied"
    assert "no-more-of-this-key" in refused.json["error"]["message"]
    _, other = admin.new_key()
    assert ask_once(running, other).status == 200
    admin.switch_policy(policy.id, is_enabled=False)
    wait_until_answered(running, secret, 200)


def test_a_template_takes_the_place_of_the_first_policy(running: RunningGateway, admin: Administrator) -> None:
    """With nothing that permits a request, it is refused, and no policy is named."""
    (one, secret), (_, other) = admin.new_key(), admin.new_key()
    only_one = render("basic-allow-user", {"key_id": one.id})
    admin.add_policy(only_one.text)
    admin.switch_policy(FIRST_POLICY, is_enabled=False)
    try:
        wait_until_answered(running, other, 403)
        assert "No policy permits" in ask_once(running, other, "ziri").json["reason"]
        assert ask_once(running, secret).status == 200
    finally:
        admin.switch_policy(FIRST_POLICY, is_enabled=True)
        admin.delete_policy(only_one.id)
        admin.wait_until_in_force(running)


STOPS: dict[str, Callable[[Administrator, Key], object]] = {
    "revoked": lambda admin, key: admin.call(keys.revoke_key, WhichKey(key.id)),
    "disabled": lambda admin, key: admin.call(keys.change_key, KeyChange(key.id, is_disabled=True)),
    "expired": lambda admin, key: admin.call(keys.change_key, KeyChange(key.id, expires_at=moment(1))),
    "user disabled": lambda admin, key: admin.call(users.change_user, UserChange(key.user_id, is_disabled=True)),
}


@pytest.mark.parametrize("stop", STOPS)
def test_a_key_that_is_stopped_elsewhere_is_refused(running: RunningGateway, admin: Administrator, stop: str) -> None:
    key, secret = admin.new_key()
    assert ask_once(running, secret).status == 200
    STOPS[stop](admin, key)
    wait_until_answered(running, secret, 401)
    refused = ask_once(running, secret, "ziri")
    assert (refused.status, refused.json["code"]) == (403, "API_KEY_REVOKED_OR_DISABLED")


# In the same process: at once.


@pytest.mark.parametrize("stop", STOPS)
async def test_a_key_that_is_stopped_through_the_gateway_is_refused_at_once(opened: Gateway, stop: str) -> None:
    admin = Administrator(opened.database)
    key, secret = admin.new_key()
    await embed(opened, secret)
    await asyncio.to_thread(STOPS[stop], admin, key)
    await opened.catch_up()
    with pytest.raises(RevokedKey):
        await embed(opened, secret)


async def test_a_key_ends_at_its_time_though_nobody_does_anything(opened: Gateway) -> None:
    admin = Administrator(opened.database)
    key, secret = admin.new_key()
    await embed(opened, secret)
    ends_ms = utc_ms() + 300
    admin.call(keys.change_key, KeyChange(key.id, expires_at=moment(ends_ms)))
    await opened.catch_up()
    while utc_ms() <= ends_ms:
        try:
            await embed(opened, secret)
        except RevokedKey:
            assert utc_ms() >= ends_ms
        await asyncio.sleep(0.01)
    with pytest.raises(RevokedKey, match="has expired"):
        await embed(opened, secret)


async def test_a_disabled_project_stops_its_keys_and_an_enabled_one_lets_them_go_on(opened: Gateway) -> None:
    admin = Administrator(opened.database)
    project = admin.call(projects.create_project, NewProject("a project"))
    key, _ = admin.new_key()
    _, secret = admin.add_key(key.user_id, "of the project", project.id)
    for is_disabled in (False, True, False):
        admin.call(projects.change_project, ProjectChange(project.id, is_disabled=is_disabled))
        await opened.catch_up()
        if is_disabled:
            with pytest.raises(RevokedKey, match="its project is disabled"):
                await embed(opened, secret)
        else:
            await embed(opened, secret)


async def test_rules_that_are_changed_through_the_gateway_are_in_force_at_once(opened: Gateway) -> None:
    admin = Administrator(opened.database)
    key, secret = admin.new_key()
    subject = Subject("key", key.id)
    free = await embed(opened, secret)
    admin.set_budget(subject, "month", free.cost_picodollars)
    await opened.catch_up()
    with pytest.raises(BudgetExhausted):
        await embed(opened, secret)
    admin.delete_budget(subject, "month")
    admin.set_limit(subject, requests_per_minute=1)
    await opened.catch_up()
    await embed(opened, secret)
    with pytest.raises(RateLimited):
        await embed(opened, secret)
    admin.delete_limit(subject)
    policy = forbid("stop", key)
    admin.add_policy(policy.text)
    admin.set_price(MODEL, "openai", 10 * free.cost_picodollars)
    await opened.catch_up()
    with pytest.raises(NotPermitted) as refusal:
        await embed(opened, secret)
    assert refusal.value.policies == ("stop",)
    admin.delete_policy("stop")
    await opened.catch_up()
    assert (await embed(opened, secret)).cost_picodollars == 10 * free.cost_picodollars * free.usage.tokens


async def test_a_request_in_progress_ends_with_the_provider_that_it_began_with(
    opened: Gateway, host: Upstream, tmp_path: Path
) -> None:
    """It is refused, and tries again, after the provider was replaced by one with other settings."""
    admin = Administrator(opened.database)
    _, secret = admin.new_key()
    gate = threading.Event()
    host.script(replace(error(429, "slow down", headers={"retry-after": "0.05"}), gate=gate))
    began = asyncio.create_task(embed(opened, secret))
    while not host.requests:
        await asyncio.sleep(0.01)
    admin.set_price(MODEL, "openai", 1)
    invocation = opened.invocation(Actor("user_admin"))
    await asyncio.to_thread(set_provider.run, invocation, ProviderToSet("openai", max_parallel=3))
    await opened.catch_up()
    after = await embed(opened, secret)
    assert (after.cost_picodollars, len(host.requests)) == (after.usage.tokens, 2)
    gate.set()
    before = await began
    assert before.cost_picodollars == 20_000 * before.usage.tokens


async def test_rules_that_could_not_be_put_in_force_are_tried_again_unless_they_are_wrong(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    faults = [InternalError("the database is busy"), ConfigError(["the master key is missing"])]
    seen: list[int] = []

    async def apply(rules: Rules) -> None:
        seen.append(rules.revision)
        if faults:
            raise faults.pop(0)

    following = Following(database, rules_in(database), apply)
    change_first_policy(database, "changed")
    await asyncio.sleep(0)
    await asyncio.to_thread(wait_until, "it was tried again", lambda: len(seen) == 2)
    change_first_policy(database, "changed again")
    await asyncio.to_thread(wait_until, "the next change is seen", lambda: len(seen) == 3)
    await following.aclose()
    database.close()
    assert seen == [seen[0], seen[0], seen[0] + 1]


# On record.


def test_every_request_has_one_decision_on_record_with_the_policies_that_took_it(
    running: RunningGateway, admin: Administrator
) -> None:
    key, secret = admin.new_key()
    replies = ask(running, in_both_dialects([next(_texts) for _ in range(60)], secret))
    on_record = {event.request_id: event for event in admin.decisions(key)}  # at once: an answer comes after its record
    assert {reply.status for reply in replies} == {200}
    assert {reply.headers["x-request-id"] for reply in replies} == on_record.keys()
    policy = forbid("from-now-on", key)
    admin.add_policy(policy.text)
    admin.wait_until_in_force(running)
    replies = ask(running, in_both_dialects([next(_texts) for _ in range(20)], secret))
    refused = {reply.headers["x-request-id"] for reply in replies}
    wait_until("refusals are on record", lambda: len(admin.decisions(key)) == 80)
    for event in admin.decisions(key):
        is_refused = event.request_id in refused
        assert event.outcome == ("forbid" if is_refused else "permit")
        assert event.policies == ("from-now-on",) if is_refused else event.policies == (FIRST_POLICY,)
        assert (event.action, event.target, event.actor) == ("embedding", MODEL, key.id)
    assert {reply.status for reply in replies} == {403}
    assert {entry.request_id for entry in admin.entries(key)} == on_record.keys()
    assert admin.trail_is_whole()


def test_a_refusal_by_limit_or_budget_is_the_decision_on_record(running: RunningGateway, admin: Administrator) -> None:
    key, secret = admin.new_key()
    admin.set_budget(Subject("key", key.id), "day", 0)
    admin.wait_until_in_force(running)
    assert ask_once(running, secret).status == 402
    wait_until("it is on record", lambda: len(admin.decisions(key)) == 1)
    (decision,) = admin.decisions(key)
    assert (decision.outcome, decision.policies) == ("insufficient_quota", (FIRST_POLICY,))
    assert key.id == decision.actor
