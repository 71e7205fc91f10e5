"""Dry run: what the policies in force say of a request that is not made, provider by provider.

The question is put together as for a true request. Limits and budgets are not asked, no provider is called.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from embedgate.core.access import EVERY, Caller, Decision, Question, Subject, caller_of
from embedgate.core.actions import ACTIONS
from embedgate.core.clock import ms_of
from embedgate.core.errors import Conflict, InvalidDimension, InvalidInput, UnknownEntity, UnknownModel
from embedgate.core.models import Model, Route
from embedgate.core.money import usd_text
from embedgate.engine.rerank.weigh import DOCUMENTS_PER_SEARCH, rerank_cost_picodollars
from embedgate.govern.aliases import unaliased
from embedgate.govern.change import Reading
from embedgate.govern.fields import check_number
from embedgate.govern.keys import Key, find_key, state_at
from embedgate.govern.limits import read_limits
from embedgate.govern.models import find_model
from embedgate.govern.operation import Facts, reads
from embedgate.govern.policies import read_policies
from embedgate.govern.values import Moment, Usd, moment
from embedgate.policy.decider import CedarDecider
from embedgate.storage import schema
from embedgate.storage.key_rows import KEYS, key_records
from embedgate.storage.spending import sum_spent

_MAX_TOKENS = 10**12


class DryRunOf(Struct, forbid_unknown_fields=True):
    """A request to be judged, but not made."""

    key: Annotated[str, Meta(description="Name or id of a key.")]
    model: Annotated[str, Meta(description="As a caller would name it.")]
    n_inputs: int = 1
    tokens: Annotated[int, Meta(description="Of all inputs together.")] = 0
    dim: Annotated[int | None, Meta(description="Length of the vectors; absent: the model's own.")] = None
    input_type: Literal["query", "document", "none"] = "none"
    ip_address: str = "127.0.0.1"
    at: Annotated[Moment | None, Meta(description="When it would be made; absent: now.")] = None
    is_emergency: Annotated[bool | None, Meta(description="Absent: as setting access.is_emergency says.")] = None


class Verdict(Struct, frozen=True):
    """What the policies say of one provider."""

    provider: str
    is_permitted: bool
    policies: Annotated[tuple[str, ...], Meta(description="Ids of those that decided; empty: none permits it.")]
    errors: Annotated[tuple[str, ...], Meta(description="Policies that failed to run, and how.")]
    cost_usd: Usd
    daily_spend_usd: Usd
    monthly_spend_usd: Usd


class Judged(Struct, frozen=True):
    """What a key would get, provider by provider, in the order in which they are tried.

    The policies are asked whatever the state of the key; a true request with a key that is not active is refused
    before. The state is that at the time asked about.
    """

    is_permitted: Annotated[bool, Meta(description="Whether it would pass, at one provider at least.")]
    key: Key
    model: str
    providers: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """A request that is not made, with all that it names. at: when it would be made."""

    wanted: DryRunOf
    key: Key
    caller: Caller
    model: Model
    routes: Sequence[Route]
    at: datetime


@reads(
    "policies.dry_run",
    "POST",
    "/api/policies/dry-run",
    Facts(
        "tryPolicies",
        example={"key": "laptop", "model": "openai/text-embedding-3-small", "tokens": 1200},
        raises=(UnknownEntity, UnknownModel, Conflict),
    ),
)
def judge(reading: Reading, wanted: DryRunOf) -> Judged:
    """Ask what a key would get.

    Asks the policies in force about a request that is not made. Calls no provider, counts nothing.
    """
    request = find_request(reading, wanted)
    decider = CedarDecider(read_policies(reading.connection))
    verdicts = tuple(_verdict(question, decider.decide(question)) for question in questions(reading, request))
    if request.caller.models is not None and request.model.id not in request.caller.models:
        verdicts = tuple(msgspec.structs.replace(verdict, is_permitted=False, policies=()) for verdict in verdicts)
    is_permitted = request.key.state == "active" and any(verdict.is_permitted for verdict in verdicts)
    return Judged(is_permitted, request.key, request.model.id, verdicts)


def find_request(reading: Reading, wanted: DryRunOf) -> Request:
    """The request with what it names. Raises UnknownEntity or Conflict for the key, UnknownModel, InvalidInput."""
    catalog = reading.resources.catalog()
    key = find_key(reading, wanted.key)
    at = wanted.at or moment(reading.now_ms)
    (record,) = key_records(reading.connection, reading.connection.execute(KEYS.where(schema.keys.c.id == key.id)))
    model, routes = find_model(catalog, unaliased(reading, wanted.model, record.project_id))
    _check(wanted, model)
    key = msgspec.structs.replace(key, state=state_at(key, at))
    return Request(wanted, key, caller_of(record), model, routes, at)


def questions(reading: Reading, request: Request) -> list[Question]:
    """What the policies are asked, for each route of the model."""
    spends = _spends(reading, request)
    requests_per_minute = _requests_per_minute(reading, request.caller.user_id)
    return [_question(reading, request, route, spends, requests_per_minute) for route in request.routes]


def _question(
    reading: Reading, request: Request, route: Route, spends: tuple[int, int], requests_per_minute: int | None
) -> Question:
    wanted, model = request.wanted, request.model
    daily, monthly = spends
    searches = -(-wanted.n_inputs // DOCUMENTS_PER_SEARCH)  # costs something only where documents are ordered for it
    return Question(
        caller=request.caller,
        action=ACTIONS[model.action].policy_name,
        model=model.id,
        model_name=model.name,
        provider=route.provider,
        space=model.space or model.id,
        at=request.at,
        ip_address=wanted.ip_address,
        is_emergency=reading.resources.is_emergency if wanted.is_emergency is None else wanted.is_emergency,
        n_inputs=wanted.n_inputs,
        tokens=wanted.tokens,
        dim=wanted.dim or route.dims.default,
        input_type=wanted.input_type,
        cost_picodollars=rerank_cost_picodollars(wanted.tokens, searches, route.price),
        daily_spend_picodollars=daily,
        monthly_spend_picodollars=monthly,
        requests_per_minute=requests_per_minute,
    )


def _verdict(question: Question, decision: Decision) -> Verdict:
    return Verdict(
        provider=question.provider,
        is_permitted=decision.is_permitted,
        policies=decision.policies,
        errors=decision.errors,
        cost_usd=usd_text(question.cost_picodollars),
        daily_spend_usd=usd_text(question.daily_spend_picodollars),
        monthly_spend_usd=usd_text(question.monthly_spend_picodollars),
    )


def _spends(reading: Reading, request: Request) -> tuple[int, int]:
    """What the key has spent from the beginning of that UTC day on, and of that month."""
    day = request.at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    subject = Subject("key", request.caller.key_id)
    daily, monthly = (sum_spent(reading.connection, subject, ms_of(start)) for start in (day, day.replace(day=1)))
    return daily, monthly


def _requests_per_minute(reading: Reading, user_id: str) -> int | None:
    by_id = {rule.subject.id: rule for rule in read_limits(reading.connection) if rule.subject.kind == "user"}
    rule = by_id.get(user_id) or by_id.get(EVERY)
    return rule.requests_per_minute if rule else None


def _check(wanted: DryRunOf, model: Model) -> None:
    check_number(wanted.n_inputs, "number of inputs", param="n_inputs", minimum=1)
    check_number(wanted.tokens, "number of tokens", param="tokens", minimum=0, maximum=_MAX_TOKENS)
    if wanted.dim is not None and (model.dims is None or wanted.dim not in model.dims):
        sizes = f"vectors of {model.dims.describe()}" if model.dims else "no vectors"
        raise InvalidDimension(f"The dim is {wanted.dim}; {model.id} makes {sizes}. Leave it out.", param="dim")
    try:
        ipaddress.ip_address(wanted.ip_address)
    except ValueError as error:
        raise InvalidInput(
            f"{wanted.ip_address[:100]!r} is no IP address. Give one such as 192.0.2.7.", param="ip_address"
        ) from error


OPERATIONS = (judge,)
