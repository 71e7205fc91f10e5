"""Records of access: users, keys, limits, budgets, policies and decisions."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Literal, NamedTuple

from msgspec import Struct

from embedgate.core.actions import ActionName, PolicyAction

SubjectKind = Literal["key", "user", "project"]
Period = Literal["day", "month", "total"]
EVERY = "*"
"""Subject id of a rule that holds for each subject of its kind that has no rule of its own."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The subject of a limit or a budget: a key, a user or a project. `id` `*` stands for each one of the kind."""

    kind: SubjectKind
    id: str


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated caller: its key, user and project, and the attributes of them that policies read."""

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
    models: frozenset[str] | None = None
    """The only models that its key may use; None: all that policies permit."""

    @property
    def billed_to(self) -> str:
        """The owner of its bills and of its cache: the project, else the user."""
        return self.project_id or self.user_id


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key as stored: never the key itself. `hint` is its last four characters.

    `is_disabled` stops it until it is enabled again, `revoked_at_ms` for good, `expires_at_ms` at that time. A rotated
    key keeps its id; its old secret has a record of its own, which names the key in `replaced_by`. `created_at_ms` is
    when the secret was made.
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
    email: str = ""
    tenant: str | None = None
    is_agent: bool = False
    roles: tuple[str, ...] = ()
    models: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class LimitRule:
    """Rate limits of one subject. None means no limit of that sort.

    `max_parallel` requests may be in flight at once and `max_waiting` more may wait; any further get 503.
    """

    subject: Subject
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_parallel: int | None = None
    max_waiting: int = 0


@dataclass(frozen=True, slots=True)
class BudgetRule:
    """Budget of one subject: the money it may spend per UTC day, per UTC month, or ever."""

    subject: Subject
    period: Period
    cap_picodollars: int


class RecentRequest(NamedTuple):
    """A request that was admitted: when, for whom, and how many tokens it used."""

    at_ms: int
    subjects: "tuple[Subject, ...]"
    tokens: int


@dataclass(frozen=True, slots=True)
class Spends:
    """Money that one subject has spent in the current UTC day and month."""

    day_picodollars: int
    month_picodollars: int


@dataclass(frozen=True, slots=True)
class BudgetState:
    """State of one budget of one subject in the current period."""

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
    """A price set here for one model at one provider, valid from a time on. Times are UTC milliseconds since 1970."""

    model: str
    provider: str
    picodollars_per_token: int
    from_ms: int


@dataclass(frozen=True, slots=True)
class ProviderRecord:
    """A provider that was added or changed at run time. Its key is encrypted at rest.

    None: as in the settings file. `key_hint` is the last four characters of the key, "" without one. `allow_private`:
    whether its address may be one of this machine or its network; None for those from before that was kept, which may.
    """

    name: str
    is_enabled: bool | None = None
    host: str | None = None
    base_url: str | None = None
    max_parallel: int | None = None
    batching: bool | None = None
    key_hint: str = ""
    updated_at_ms: int = 0
    allow_private: bool | None = None
    models: tuple[str, ...] | None = None
    weight: int | None = None
    precision: str | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    free: bool | None = None
    names_freely: bool | None = None


@dataclass(frozen=True, slots=True)
class AddedModel:
    """A model at a provider that was added at run time.

    None: as the catalogue says of the model, or not known. What the catalogue says of the model itself (`action`,
    `dim`, `space`, `is_matryoshka`, `is_normalised`, `max_output_tokens`) goes before what is here.
    """

    model: str
    provider: str
    upstream_model: str
    action: ActionName = "embedding"
    dim: int | None = None
    max_input_tokens: int | None = None
    max_output_tokens: int | None = None
    space: str | None = None
    is_matryoshka: bool = False
    is_normalised: bool = False
    query_prefix: str | None = None
    document_prefix: str | None = None
    picodollars_per_token: int | None = None
    output_picodollars_per_token: int | None = None
    updated_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class AliasRule:
    """Another name of a model, for the callers of one project, or for everybody.

    `space` is the vector space that the name stands for since it was set; None if the model makes no vectors.
    """

    name: str
    project_id: str | None
    model: str
    space: str | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """All rules that can be changed while the gateway runs, as of one `revision`."""

    revision: int = 0
    policies: tuple[PolicyRecord, ...] = ()
    limits: tuple[LimitRule, ...] = ()
    budgets: tuple[BudgetRule, ...] = ()
    prices: tuple[PriceRule, ...] = ()
    providers: tuple[ProviderRecord, ...] = ()
    added: tuple[AddedModel, ...] = ()
    cleared: tuple[tuple[str, int], ...] = ()
    """Ids of models whose cached vectors were cleared, and how often."""
    aliases: tuple[AliasRule, ...] = ()


class Question(Struct, frozen=True):
    """One authorization question: may this caller use this model for this action now?

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
    """The decision: permitted or not, the policies that decided (none: none permits), and those that failed to run.

    `failed_forbids` are those of `policies` that refuse because they could not be evaluated.
    """

    is_permitted: bool
    policies: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    failed_forbids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PolicyMistake:
    """A mistake in the text of a policy. `line` and `column` count from 1; None where the place is not known."""

    message: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        """The message, after its place where that is known."""
        return self.message if self.line is None else f"line {self.line}, column {self.column}: {self.message}"


@dataclass(frozen=True, slots=True)
class Rate:
    """Rate-limit state of a caller, for response headers: the tightest limit of each sort. None means no limit.

    `reset_requests_s` and `reset_tokens_s`: seconds until the whole limit is free again, without further requests.
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
    """Audit event: a decision, a change or a login. Never holds a body, a vector or a credential.

    `actor` is an id (of a key, a user, or `command line`). `action` is a word such as `embedding`, `keys.revoke`,
    `login`. `target` is the id of the object of the action. `outcome` is `permit`, `forbid`, `ok` or an error code.
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
    """The caller of a key. Both secrets of a rotated key are one caller: limits, budgets and ledger continue.

    Does not check whether the key may be used (revoked, disabled, expired).
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
        models=None if key.models is None else frozenset(key.models),
    )
