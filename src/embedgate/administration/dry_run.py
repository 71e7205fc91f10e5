"""Asks the policies in force what a key would get for a model, route by route, without a request.

The question is put together as for a true request. Limits and budgets are not asked, no provider is called.
"""

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from embedgate.administration.keys import find_key, state_of
from embedgate.administration.stores import Stores
from embedgate.catalog import Catalog
from embedgate.core.access import EVERY, Decision, KeyRecord, Question, Rules, Subject, caller_of
from embedgate.core.actions import ACTIONS
from embedgate.core.clock import ms_of
from embedgate.core.errors import InvalidDimension, InvalidInput
from embedgate.core.models import Model, Route
from embedgate.engine.rerank.weigh import DOCUMENTS_PER_SEARCH, rerank_cost_picodollars
from embedgate.govern.models import find_model
from embedgate.policy.decider import CedarDecider
from embedgate.storage.fields import check_number
from embedgate.storage.key_rows import KeyState
from embedgate.storage.spending import sum_spent

_MAX_TOKENS = 10**12


@dataclass(frozen=True, slots=True)
class Trial:
    """What to try. key: its id, the whole key, or its name if no other has it. model: as a caller would name it.

    `tokens` are those of all inputs together. `dim` None means the model's own size, `at` None means now.
    """

    key: str
    model: str
    n_inputs: int = 1
    tokens: int = 0
    dim: int | None = None
    input_type: Literal["query", "document", "none"] = "none"
    ip_address: str = "127.0.0.1"
    at: datetime | None = None
    is_emergency: bool = False


@dataclass(frozen=True, slots=True)
class Tried:
    """What the policies say of one provider, and what they were asked."""

    provider: str
    question: Question
    decision: Decision


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a key would get, provider by provider, in the order in which they are tried.

    The policies are asked whatever the state of the key; a true request with a key that is not active is refused
    before.
    """

    key: KeyRecord
    key_state: KeyState
    model: str
    tried: tuple[Tried, ...]

    @property
    def is_permitted(self) -> bool:
        """Whether a request would pass the policies, at one provider at least."""
        return self.key_state == "active" and any(each.decision.is_permitted for each in self.tried)


def run_dry(stores: Stores, catalog: Catalog, trial: Trial) -> DryRun:
    """Ask. catalog: the one in force, with the prices of administrators. Raises as `Policies.dry_run`."""
    model, routes = find_model(catalog, trial.model)
    _check(trial, model)
    key = find_key(stores.keys, trial.key)
    at = trial.at or datetime.fromtimestamp(stores.now_ms() / 1000, UTC)
    rules = stores.rules.load()
    decider = CedarDecider(rules.policies)
    spends = _spends(stores, key, at)
    questions = [_question(trial, key, model, route, at, spends, rules) for route in routes]
    tried = tuple(Tried(question.provider, question, decider.decide(question)) for question in questions)
    return DryRun(key, state_of(key, ms_of(at)), model.id, tried)


def _question(
    trial: Trial, key: KeyRecord, model: Model, route: Route, at: datetime, spends: tuple[int, int], rules: Rules
) -> Question:
    daily, monthly = spends
    searches = -(-trial.n_inputs // DOCUMENTS_PER_SEARCH)  # costs something only where documents are ordered for it
    return Question(
        caller=caller_of(key),
        action=ACTIONS[model.action].policy_name,
        model=model.id,
        model_name=model.name,
        provider=route.provider,
        space=model.space or model.id,
        at=at,
        ip_address=trial.ip_address,
        is_emergency=trial.is_emergency,
        n_inputs=trial.n_inputs,
        tokens=trial.tokens,
        dim=trial.dim or route.dims.default,
        input_type=trial.input_type,
        cost_picodollars=rerank_cost_picodollars(trial.tokens, searches, route.price),
        daily_spend_picodollars=daily,
        monthly_spend_picodollars=monthly,
        requests_per_minute=_requests_per_minute(rules, key.user_id),
    )


def _spends(stores: Stores, key: KeyRecord, at: datetime) -> tuple[int, int]:
    """What the key has spent from the beginning of that UTC day on, and of that month."""
    day = at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    subject = Subject("key", key.replaced_by or key.id)
    starts = (day, day.replace(day=1))
    with stores.database.read() as connection:
        daily, monthly = (sum_spent(connection, subject, ms_of(start)) for start in starts)
    return daily, monthly


def _requests_per_minute(rules: Rules, user_id: str) -> int | None:
    by_id = {rule.subject.id: rule for rule in rules.limits if rule.subject.kind == "user"}
    rule = by_id.get(user_id) or by_id.get(EVERY)
    return rule.requests_per_minute if rule else None


def _check(trial: Trial, model: Model) -> None:
    check_number(trial.n_inputs, "number of inputs", param="n_inputs", minimum=1)
    check_number(trial.tokens, "number of tokens", param="tokens", minimum=0, maximum=_MAX_TOKENS)
    if trial.dim is not None and (model.dims is None or trial.dim not in model.dims):
        sizes = f"vectors of {model.dims.describe()}" if model.dims else "no vectors"
        raise InvalidDimension(f"The dim is {trial.dim}; {model.id} makes {sizes}. Leave it out.", param="dim")
    if trial.at is not None and trial.at.tzinfo is None:
        raise InvalidInput(f"The time {trial.at.isoformat()} has no zone. Add one, such as Z for UTC.", param="at")
    try:
        ipaddress.ip_address(trial.ip_address)
    except ValueError as error:
        raise InvalidInput(
            f"{trial.ip_address[:100]!r} is no IP address. Give one such as 192.0.2.7.", param="ip_address"
        ) from error
