"""Routes for policies: checked, saved, made from templates, tried without a request."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from embedgate.administration import DryRun, Trial, Tried
from embedgate.core.access import PolicyMistake, PolicyRecord
from embedgate.core.clock import utc_ms
from embedgate.core.errors import Conflict, InvalidPolicy, UnknownEntity, UnknownModel
from embedgate.core.money import usd_text
from embedgate.govern.keys import Key, key_of
from embedgate.policy.templates import Template
from embedgate.server.admin.route import Asked, Route
from embedgate.server.admin.wire import Listed, ListQuery, Moment, Usd, moment, pick, sorts

_Text = Annotated[str, Meta(description="One policy in Cedar, with its id as `@id`.")]


class Policy(Struct, frozen=True):
    """A policy."""

    id: str
    text: _Text
    description: str
    is_enabled: Annotated[bool, Meta(description="Whether it is in force.")]
    updated_at: Moment


class PolicyToSave(Struct, forbid_unknown_fields=True):
    """A policy to be saved, under the id that its text gives as `@id`."""

    text: _Text
    description: str = ""
    is_enabled: bool = True


class PolicyFromTemplate(Struct, forbid_unknown_fields=True):
    """A policy to be made of a template."""

    template: Annotated[str, Meta(description="Id of a template.")]
    parameters: Annotated[dict[str, str], Meta(description="What goes into its blanks.")] = {}
    id: Annotated[str | None, Meta(description="Id of the new policy, if not that of the template.")] = None
    is_enabled: bool = True


class PolicyChange(Struct, forbid_unknown_fields=True):
    """What is to be different; what is absent or null stays."""

    text: Annotated[str | None, Meta(description="One policy in Cedar, with the same `@id`.")] = None
    description: str | None = None
    is_enabled: bool | None = None


class PolicyQuery(ListQuery):
    """Which policies."""

    sort: Annotated[str, sorts("id", "updated_at", "is_enabled")] = ""


class TemplateQuery(ListQuery):
    """Which templates."""

    sort: Annotated[str, sorts("id")] = ""


class PolicyTemplate(Struct, frozen=True):
    """A policy to begin with."""

    id: str
    description: str
    text: str
    parameters: Annotated[tuple[str, ...], Meta(description="Names of its blanks, each `{{name}}` in the text.")]


class TextToCheck(Struct, forbid_unknown_fields=True):
    """A text that may be a policy."""

    text: str
    id: Annotated[str | None, Meta(description="What its `@id` must be; absent: any.")] = None


class Mistake(Struct, frozen=True):
    """What is wrong with the text of a policy. Line and column count from 1, null where there is no place."""

    message: str
    line: int | None
    column: int | None


class Checked(Struct, frozen=True):
    """Whether a text can be saved, and what is wrong with it."""

    ok: bool
    mistakes: tuple[Mistake, ...]


class DryRunOf(Struct, forbid_unknown_fields=True):
    """A request to be judged, but not made."""

    key: Annotated[str, Meta(description="Id of a key, or its name if no other has it.")]
    model: Annotated[str, Meta(description="As a caller would name it.")]
    n_inputs: int = 1
    tokens: Annotated[int, Meta(description="Of all inputs together.")] = 0
    dim: Annotated[int | None, Meta(description="Length of the vectors; absent: the model's own.")] = None
    input_type: Literal["query", "document", "none"] = "none"
    ip_address: str = "127.0.0.1"
    at: Annotated[Moment | None, Meta(description="When it would be made; absent: now.")] = None
    is_emergency: bool = False


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
    """What a key would get, provider by provider, in the order in which they are tried."""

    is_permitted: Annotated[bool, Meta(description="Whether the key may be used, and a provider is permitted.")]
    key: Key
    model: str
    providers: tuple[Verdict, ...]


def _policy(record: PolicyRecord) -> Policy:
    return Policy(record.id, record.text, record.description, record.is_enabled, moment(record.updated_at_ms))


def _template(template: Template) -> PolicyTemplate:
    return PolicyTemplate(template.id, template.description, template.text, template.parameters)


def _list(asked: Asked) -> Listed:
    return pick(map(_policy, asked.administration.policies.list()), asked.query)


def _list_templates(asked: Asked) -> Listed:
    return pick(map(_template, asked.administration.policies.templates()), asked.query)


def _show(asked: Asked) -> Policy:
    return _policy(asked.administration.policies.get(asked.path["policy"]))


def _create(asked: Asked) -> Policy:
    new: PolicyToSave = asked.body
    return _policy(
        asked.administration.policies.create(new.text, description=new.description, is_enabled=new.is_enabled)
    )


def _create_from_template(asked: Asked) -> Policy:
    new: PolicyFromTemplate = asked.body
    return _policy(
        asked.administration.policies.from_template(
            new.template, new.parameters, new_id=new.id, is_enabled=new.is_enabled
        )
    )


def _put(asked: Asked) -> Policy:
    policies, policy, new = asked.administration.policies, asked.path["policy"], asked.body
    fields = {"description": new.description, "is_enabled": new.is_enabled}
    try:
        policies.get(policy)
    except UnknownEntity:
        return _policy(policies.create(new.text, expected_id=policy, **fields))
    return _policy(policies.update(policy, text=new.text, **fields))


def _change(asked: Asked) -> Policy:
    change: PolicyChange = asked.body
    return _policy(
        asked.administration.policies.update(
            asked.path["policy"], text=change.text, description=change.description, is_enabled=change.is_enabled
        )
    )


def _delete(asked: Asked) -> None:
    asked.administration.policies.delete(asked.path["policy"])


def _check(asked: Asked) -> Checked:
    mistakes = asked.administration.policies.check(asked.body.text, asked.body.id)
    return Checked(not mistakes, tuple(map(_mistake, mistakes)))


def _mistake(mistake: PolicyMistake) -> Mistake:
    return Mistake(mistake.message, mistake.line, mistake.column)


def _dry_run(asked: Asked) -> Judged:
    wanted: DryRunOf = asked.body
    run: DryRun = asked.administration.policies.dry_run(
        Trial(
            key=wanted.key,
            model=wanted.model,
            n_inputs=wanted.n_inputs,
            tokens=wanted.tokens,
            dim=wanted.dim,
            input_type=wanted.input_type,
            ip_address=wanted.ip_address,
            at=wanted.at,
            is_emergency=wanted.is_emergency,
        )
    )
    return Judged(run.is_permitted, key_of(run.key, utc_ms()), run.model, tuple(map(_verdict, run.tried)))


def _verdict(tried: Tried) -> Verdict:
    question, decision = tried.question, tried.decision
    return Verdict(
        provider=tried.provider,
        is_permitted=decision.is_permitted,
        policies=decision.policies,
        errors=decision.errors,
        cost_usd=usd_text(question.cost_picodollars),
        daily_spend_usd=usd_text(question.daily_spend_picodollars),
        monthly_spend_usd=usd_text(question.monthly_spend_picodollars),
    )


_POLICY = "/api/policies/{policy}"
EXAMPLE_TEXT = """@id("analysts-may-embed")
permit (principal, action == Action::"embedding", resource)
when { principal.user in Role::"analyst" };"""
"""A policy, for the description."""

ROUTES = (
    Route("GET", "/api/policies", "listPolicies", "List the policies", _list, Policy, query=PolicyQuery, is_list=True),
    Route(
        "POST",
        "/api/policies",
        "createPolicy",
        "Add a policy",
        _create,
        Policy,
        body=PolicyToSave,
        example={"text": EXAMPLE_TEXT, "description": "Analysts may embed."},
        status=201,
        is_change=True,
        raises=(InvalidPolicy,),
    ),
    Route(
        "POST",
        "/api/policies/check",
        "checkPolicy",
        "Check the text of a policy",
        _check,
        Checked,
        "Everything that is wrong with it, with its place. Nothing is stored.",
        body=TextToCheck,
        example={"text": EXAMPLE_TEXT},
    ),
    Route(
        "GET",
        "/api/policies/templates",
        "listPolicyTemplates",
        "List the templates of policies",
        _list_templates,
        PolicyTemplate,
        query=TemplateQuery,
        is_list=True,
    ),
    Route(
        "POST",
        "/api/policies/templates",
        "createPolicyFromTemplate",
        "Make a policy of a template",
        _create_from_template,
        Policy,
        body=PolicyFromTemplate,
        example={"template": "business-hours-only"},
        status=201,
        is_change=True,
        raises=(InvalidPolicy, UnknownEntity),
    ),
    Route(
        "POST",
        "/api/policies/dry-run",
        "tryPolicies",
        "Ask what a key would get",
        _dry_run,
        Judged,
        "Asks the policies in force about a request that is not made. Calls no provider, counts nothing.",
        body=DryRunOf,
        example={"key": "laptop", "model": "openai/text-embedding-3-small", "tokens": 1200},
        raises=(UnknownEntity, UnknownModel, Conflict),
    ),
    Route("GET", _POLICY, "showPolicy", "Show a policy", _show, Policy),
    Route(
        "PUT",
        _POLICY,
        "putPolicy",
        "Save a policy under an id",
        _put,
        Policy,
        "Instead of the one of that id, if there is one.",
        body=PolicyToSave,
        example={"text": EXAMPLE_TEXT, "description": "Analysts may embed."},
        is_change=True,
        raises=(InvalidPolicy,),
    ),
    Route(
        "PATCH",
        _POLICY,
        "changePolicy",
        "Change a policy",
        _change,
        Policy,
        "Its text, its description, or whether it is in force.",
        body=PolicyChange,
        example={"is_enabled": False},
        is_change=True,
        raises=(InvalidPolicy,),
    ),
    Route("DELETE", _POLICY, "deletePolicy", "Delete a policy", _delete, None, is_change=True),
)
