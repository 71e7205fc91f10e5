"""Who may do what, how much of it, and for how much money: the records of users, keys, rules and decisions."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Literal, NamedTuple

from msgspec import Struct

from embedgate.core.actions import PolicyAction

SubjectKind = Literal["key", "user", "project"]
Period = Literal["day", "month", "total"]
EVERY = "*"
"""Subject id of a rule that holds for each subject of its kind that has no rule of its own."""


class Subject(NamedTuple):
    """Whom a limit or a budget is for: a key, its user, or its project. `id` may be `*`, for each one of the kind.

    A tuple, because every request looks up three: it is hashed in a fifth of the time of a record.
    """

    kind: SubjectKind
    id: str


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the key that came with the request, its user, its project, and what policies know of them."""

    user_id: str
    user_name: str
    key_id: str
    is_admin: bool = False
    project_id: str | None = None
    email: str = ""
    tenant: str | None = None
    is_agent: bool = False
    roles: tuple[str, ...] = ()
    subjects: tuple[Subject, ...] = ()

    @property
    def billed_to(self) -> str:
        """Whom its requests are billed to and whose cache they share: the project, else the user."""
        return self.project_id or self.user_id


@dataclass(frozen=True, slots=True)
class UserRecord:
    """A user as stored. Times are UTC milliseconds since 1970. `has_password` says whether it can log in."""

    id: str
    name: str
    is_admin: bool
    created_at_ms: int
    is_disabled: bool = False
    email: str = ""
    tenant: str | None = None
    is_agent: bool = False
    roles: tuple[str, ...] = ()
    has_password: bool = False


@dataclass(frozen=True, slots=True)
class ProjectRecord:
    """A project as stored: what keys can be billed under."""

    id: str
    name: str
    created_at_ms: int
    is_disabled: bool = False


@dataclass(frozen=True, slots=True)
class RoleRecord:
    """A role as stored: a word that policies give rights to. `users` is how many have it."""

    name: str
    description: str
    users: int = 0


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key as stored: never the key itself. `hint` is its last four characters.

    `is_disabled` stops it until it is enabled again, `revoked_at_ms` for good, `expires_at_ms` at that time. A rotated
    key keeps its id; its old secret has a record of its own, which names the key in `replaced_by`. `created_at_ms` is
    when the secret was made. `last_used_at_ms` is the newest ledger entry; not known on every path.
    """

    id: str
    user_id: str
    user_name: str
    name: str
    hint: str
    is_admin: bool
    created_at_ms: int
    revoked_at_ms: int | None = None
    user_is_disabled: bool = False
    is_disabled: bool = False
    expires_at_ms: int | None = None
    replaced_by: str | None = None
    project_id: str | None = None
    project_name: str | None = None
    project_is_disabled: bool = False
    last_used_at_ms: int | None = None
    email: str = ""
    tenant: str | None = None
    is_agent: bool = False
    roles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LimitRule:
    """How much one subject may ask at a time. None means no limit of that sort.

    `max_parallel` requests are in flight at once; `max_waiting` more may wait for a place, any further get 503.
    """

    subject: Subject
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_parallel: int | None = None
    max_waiting: int = 0


@dataclass(frozen=True, slots=True)
class BudgetRule:
    """How much money one subject may spend in a period: a UTC day, a UTC month, or ever."""

    subject: Subject
    period: Period
    cap_picodollars: int


@dataclass(frozen=True, slots=True)
class Spends:
    """What one subject has spent in the current UTC day and month."""

    day_picodollars: int
    month_picodollars: int


@dataclass(frozen=True, slots=True)
class BudgetState:
    """Where one budget of one subject stands in the current period."""

    subject: Subject
    period: Period
    cap_picodollars: int
    spent_picodollars: int
    held_picodollars: int


@dataclass(frozen=True, slots=True)
class PolicyRecord:
    """One Cedar policy as stored. `id` is that of its @id annotation, the reason given in decisions."""

    id: str
    text: str
    description: str = ""
    is_enabled: bool = True
    updated_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class PriceRule:
    """A price of ours for one model at one provider, from a time on. Times are UTC milliseconds since 1970."""

    model: str
    provider: str
    picodollars_per_token: int
    from_ms: int


@dataclass(frozen=True, slots=True)
class ProviderRecord:
    """A provider that was added or changed at run time. Its key is sealed; it leaves the store only to be used.

    None means what the settings file says. `key_hint` is the last four characters of the key, "" without one.
    """

    name: str
    is_enabled: bool | None = None
    host: str | None = None
    base_url: str | None = None
    max_parallel: int | None = None
    batching: bool | None = None
    key_hint: str = ""
    updated_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class Rules:
    """Everything that an administrator can change while the gateway runs, as of one `revision`."""

    revision: int = 0
    policies: tuple[PolicyRecord, ...] = ()
    limits: tuple[LimitRule, ...] = ()
    budgets: tuple[BudgetRule, ...] = ()
    prices: tuple[PriceRule, ...] = ()
    providers: tuple[ProviderRecord, ...] = ()


class Question(Struct, frozen=True):
    """What a policy is asked: may this caller do this with this model, here and now.

    `model` is the public id (`author/name`), `model_name` the part after the author. `cost_picodollars` is the most
    that the request can cost. The spends are those of the key, in the current UTC day and month. `requests_per_minute`
    is the user's limit, None without one. `dim` is the size of the vectors that will be returned, 0 where none are.
    """

    caller: Caller
    action: PolicyAction
    model: str
    model_name: str
    provider: str
    space: str
    at: datetime
    ip_address: str = "127.0.0.1"
    is_emergency: bool = False
    n_inputs: int = 1
    tokens: int = 0
    dim: int = 0
    input_type: Literal["query", "document", "none"] = "none"
    cost_picodollars: int = 0
    daily_spend_picodollars: int = 0
    monthly_spend_picodollars: int = 0
    requests_per_minute: int | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer: permitted or not, by which policies (none: no policy permits it), and which ones failed to run."""

    is_permitted: bool
    policies: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PolicyMistake:
    """What is wrong with the text of a policy. `line` and `column` count from 1; None where Cedar gives no place."""

    message: str
    line: int | None = None
    column: int | None = None


@dataclass(frozen=True, slots=True)
class Rate:
    """Where a caller stands, for the headers of an answer: the tightest limit of each sort. None means no limit.

    `reset_requests_s` and `reset_tokens_s`: seconds until the whole limit is free again, if nothing more is asked.
    """

    limit_requests: int | None = None
    remaining_requests: int | None = None
    reset_requests_s: float = 0.0
    limit_tokens: int | None = None
    remaining_tokens: int | None = None
    reset_tokens_s: float = 0.0


AuditKind = Literal["decision", "change", "login", "retention"]
NO_DETAIL: Mapping[str, str | int | bool | None] = MappingProxyType({})


class AuditEvent(Struct, frozen=True):
    """Something that must be accounted for. Never a body, a vector or a credential.

    `actor` is an id (of a key, a user, or `command line`). `action` is a word such as `embedding`, `keys.revoke`,
    `login`. `target` is the id of what it was done to. `outcome` is `permit`, `forbid`, `ok` or an error code.
    `policies` are those that decided. `detail` holds further plain facts.
    """

    kind: AuditKind
    at_ms: int
    actor: str
    action: str
    target: str
    outcome: str
    request_id: str = ""
    policies: tuple[str, ...] = ()
    detail: Mapping[str, str | int | bool | None] = NO_DETAIL


def caller_of(key: KeyRecord) -> Caller:
    """Who asks with this key. Both secrets of a rotated key are one caller: limits, budgets and ledger go on.

    Whether the key may be used (revoked, disabled, expired) is not asked here.
    """
    key_id = key.replaced_by or key.id
    subjects = [Subject("key", key_id), Subject("user", key.user_id)]
    if key.project_id is not None:
        subjects.append(Subject("project", key.project_id))
    return Caller(
        user_id=key.user_id,
        user_name=key.user_name,
        key_id=key_id,
        is_admin=key.is_admin,
        project_id=key.project_id,
        email=key.email,
        tenant=key.tenant,
        is_agent=key.is_agent,
        roles=key.roles,
        subjects=tuple(subjects),
    )
