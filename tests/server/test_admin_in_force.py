"""A change over the administration API puts in force what it changed, and nothing else."""

import logging
from collections.abc import Mapping
from typing import Any

import pytest

from admin_calls import Api
from embedgate.providers import fake

MODEL = fake.models()[0].id
POLICY = '@id("p")\nforbid (principal, action, resource) when { context.hour == 25 };'
CHANGES: tuple[tuple[str, str, Mapping[str, object] | None, list[str]], ...] = (
    ("PUT", "/api/limits/user/*", {"max_parallel": 5}, ["limits"]),
    ("PUT", "/api/budgets/user/*/day", {"cap_usd": "5"}, ["budgets"]),
    ("POST", "/api/policies", {"text": POLICY}, ["policies"]),
    ("PATCH", "/api/policies/p", {"is_enabled": False}, ["policies"]),
    (
        "POST",
        "/api/prices",
        {"model": MODEL, "provider": "fake", "usd_per_million_tokens": "1"},
        ["providers and prices"],
    ),
    (
        "POST",
        "/api/prices",
        {"model": MODEL, "provider": "fake", "usd_per_million_tokens": "2", "since": "2126-01-01T00:00:00Z"},
        [],
    ),
    ("POST", "/api/users", {"name": "ann"}, []),
    ("POST", "/api/keys", {"user": "ann", "name": "ci"}, []),
    ("DELETE", "/api/budgets/user/*/day", None, ["budgets"]),
    ("DELETE", "/api/limits/user/*", None, ["limits"]),
    ("DELETE", "/api/users/ann", None, []),
)


async def test_a_change_puts_in_force_what_it_changed_and_nothing_else(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says what was compiled or opened anew."""
    caplog.set_level(logging.INFO, "embedgate")
    for method, target, body, expected in CHANGES:
        caplog.clear()
        await api(method, target, body)
        assert [said_by(record) for record in caplog.records if record.message == "rules_in_force"] == expected


def said_by(record: logging.LogRecord) -> Any:
    """What an event says was put in force."""
    return vars(record)["fields"]["changed"]
