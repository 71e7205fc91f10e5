"""Users name models by alias, too: for keys of their own, and in what they read of the ledger."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from embedgate.core.errors import NotPermitted, UnknownModel
from embedgate.govern import entries, usage, users
from embedgate.govern.change import Actor
from embedgate.govern.logins import ACCESS_PREFIX
from embedgate.govern.own_keys import OwnKeyToMake, create_my_key
from embedgate.settings import OwnKeySettings
from embedgate.storage import schema
from embedgate.storage.database import Database
from governing import Governing

SMALL, LARGE = "openai/text-embedding-3-small", "openai/text-embedding-3-large"


@pytest.fixture
def me(call: Governing, database: Database) -> Governing:
    """A user who has logged in, where `fast` stands for the small model and `gone` for one that was removed."""
    with database.write() as connection:
        for name, model in (("fast", SMALL), ("gone", "acme/gone")):
            connection.execute(schema.aliases.insert().values(project_id="", name=name, model=model, space=None))
    user = call(users.create_user, users.NewUser("ann"))
    own = OwnKeySettings(max_active=5, models=("fast",))
    acting = call.with_actor(Actor(user.id)).with_secret(f"{ACCESS_PREFIX}token")
    return replace(acting, resources=replace(call.resources, own_keys=own))


def test_keys_of_ones_own_are_for_the_model_that_an_alias_stands_for(me: Governing) -> None:
    for named in ("fast", "FAST", SMALL, "text-embedding-3-small"):
        assert me(create_my_key, OwnKeyToMake(named, models=(named,))).key.models == (SMALL,)
    with pytest.raises(NotPermitted, match=SMALL):
        me(create_my_key, OwnKeyToMake("large", models=(LARGE,)))
    with pytest.raises(UnknownModel, match="gone is an alias of acme/gone"):
        me(create_my_key, OwnKeyToMake("gone", models=("gone",)))


def test_the_ledger_is_read_by_alias(me: Governing, spend: Callable[..., None]) -> None:
    spend(user_id=me.actor.id, model=SMALL, request_id="small")
    spend(user_id=me.actor.id, model=LARGE, request_id="large")
    for named in ("fast", "text-embedding-3-small", SMALL):
        listed = me(entries.list_own_entries, entries.OwnEntryQuery(model=named)).items
        assert [entry.request_id for entry in listed] == ["small"]
        (summed,) = me(usage.show_own_usage, usage.OwnUsageQuery(model=named)).items
        assert summed.requests == 1
