"""Attributes that policies can read, and where each value comes from in a question.

`schema.cedarschema` declares the same names to Cedar; a test compares the two. Parsing and evaluating policies
happen elsewhere.
"""

import functools
import importlib.resources
import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Literal

import cedarpy

from embedgate.core.access import Question

ENTITY_TYPES = ("Resource", "Role", "User", "UserKey")
ACTIONS = ("completion", "embedding", "fine_tuning", "image_generation", "moderation", "rerank")

NO_REQUEST_LIMIT = 10**12
"""`limit_requests_per_minute` of a user without a limit, and the greatest that any has: more than every number that a
policy would compare it with, and small enough to calculate with. It may be multiplied by nine million, as by the
525,600 minutes of a year, without leaving Cedar's integers."""

_PICODOLLARS_PER_STEP = 100_000_000  # Cedar's decimal has four fractional digits
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

Owner = Literal["context", "UserKey", "User"]
Value = str | int | bool | None
"""Value of an attribute. Decimals are whole numbers of ten-thousandths; None: the attribute is absent."""

CedarValue = str | int | bool | Mapping[str, Mapping[str, str]]
"""A value in Cedar's JSON form."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute: its owner, its name, its value for a question, and how the value is encoded for Cedar.

    `encode` raises ValueError for a value that Cedar cannot represent.
    """

    owner: Owner
    name: str
    read: Callable[[Question], Value]
    encode: Callable[[Value], CedarValue]


@functools.cache
def schema() -> cedarpy.Schema:
    """The schema that policies are checked against."""
    text = importlib.resources.files(__package__).joinpath("schema.cedarschema").read_text(encoding="utf-8")
    return cedarpy.Schema.from_str(text)


def _utc(question: Question) -> datetime:
    at = question.at
    return at if at.tzinfo is UTC else at.astimezone(UTC)


def _iso(at: datetime) -> str:
    """With milliseconds and `Z`: the form that Cedar's own `datetime` reads."""
    return f"{at.replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


def _start_of_day(question: Question) -> str:
    return _iso(_utc(question).replace(hour=0, minute=0, second=0, microsecond=0))


def _start_of_month(question: Question) -> str:
    return _iso(_utc(question).replace(day=1, hour=0, minute=0, second=0, microsecond=0))


def _steps(amount_picodollars: int) -> int:
    """Ten-thousandths of a dollar, rounded up: a spend must not seem smaller than it is."""
    return -(-amount_picodollars // _PICODOLLARS_PER_STEP)


def _plain(value: Value) -> CedarValue:
    if value is None:
        raise ValueError("an absent attribute has no form")
    return value


def _decimal(value: Value) -> CedarValue:
    return {"__extn": {"fn": "decimal", "arg": f"{Decimal(value or 0).scaleb(-4):.4f}"}}


def _ip(value: Value) -> CedarValue:
    """The address for Cedar: IPv4-mapped IPv6 becomes IPv4, a zone (`%eth0`) is dropped."""
    address = ipaddress.ip_address(str(value).partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return {"__extn": {"fn": "ip", "arg": str(mapped or address)}}


def _by_path(*attributes: Attribute) -> Mapping[str, Attribute]:
    prefixes = {"context": "context", "UserKey": "principal", "User": "principal.user"}
    return MappingProxyType({f"{prefixes[each.owner]}.{each.name}": each for each in attributes})


ATTRIBUTES = _by_path(
    Attribute("context", "day_of_week", lambda q: _DAYS[_utc(q).weekday()], _plain),
    Attribute("context", "hour", lambda q: _utc(q).hour, _plain),
    Attribute("context", "ip_address", lambda q: q.ip_address, _ip),
    Attribute("context", "is_emergency", lambda q: q.is_emergency, _plain),
    Attribute("context", "model_name", lambda q: q.model_name, _plain),
    Attribute("context", "model_provider", lambda q: q.provider, _plain),
    Attribute("context", "request_time", lambda q: _iso(_utc(q)), _plain),
    Attribute("context", "model_id", lambda q: q.model, _plain),
    Attribute("context", "space", lambda q: q.space, _plain),
    Attribute("context", "input_count", lambda q: q.n_inputs, _plain),
    Attribute("context", "input_tokens", lambda q: q.tokens, _plain),
    Attribute("context", "input_type", lambda q: q.input_type, _plain),
    Attribute("context", "dimensions", lambda q: q.dim, _plain),
    Attribute("context", "estimated_cost", lambda q: _steps(q.cost_picodollars), _decimal),
    # Requests with an inactive key are refused before policies are evaluated.
    Attribute("UserKey", "status", lambda _: "active", _plain),
    Attribute("UserKey", "current_daily_spend", lambda q: _steps(q.daily_spend_picodollars), _decimal),
    Attribute("UserKey", "current_monthly_spend", lambda q: _steps(q.monthly_spend_picodollars), _decimal),
    Attribute("UserKey", "last_daily_reset", _start_of_day, _plain),
    Attribute("UserKey", "last_monthly_reset", _start_of_month, _plain),
    Attribute("User", "user_id", lambda q: q.caller.user_id, _plain),
    Attribute("User", "email", lambda q: q.caller.email, _plain),
    Attribute("User", "tenant", lambda q: q.caller.tenant, _plain),
    Attribute("User", "is_agent", lambda q: q.caller.is_agent, _plain),
    Attribute(
        "User",
        "limit_requests_per_minute",
        lambda q: NO_REQUEST_LIMIT if q.requests_per_minute is None else min(q.requests_per_minute, NO_REQUEST_LIMIT),
        _plain,
    ),
)
"""Every attribute by the path under which a policy reads it. `principal.user` is the link between the two entities."""


LARGEST: Mapping[str, int] = MappingProxyType(
    {
        "context.hour": 23,
        "context.input_count": 10**9,
        "context.input_tokens": 10**12,
        "context.dimensions": 10**6,
        "principal.user.limit_requests_per_minute": NO_REQUEST_LIMIT,
    }
)
"""The greatest value of each attribute that is a whole number; the least is 0."""


def names_of(owner: str) -> tuple[str, ...]:
    """Attribute names of an entity type, in alphabetical order. Empty for an unknown type."""
    names = [each.name for each in ATTRIBUTES.values() if each.owner == owner]
    return tuple(sorted([*names, "user"] if owner == "UserKey" else names))
