"""Policies: who may use what, in Cedar. Checked, saved, switched on and off, and made from templates.

A policy is known by its id, which its text repeats as `@id`. Whether a text is a policy, and what it permits, is known
to the package `policy` alone. Trying the policies on a request that is not made is in `dry_run`.
"""

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import sqlalchemy as sa
from msgspec import Meta, Struct
from sqlalchemy.exc import IntegrityError

from embedgate.core.access import PolicyMistake, PolicyRecord
from embedgate.core.errors import Conflict, InvalidPolicy, UnknownEntity
from embedgate.govern.change import Change, Invocation, Reading
from embedgate.govern.fields import check_name, check_text, findable
from embedgate.govern.lists import Listed, ListQuery, pick, sorts
from embedgate.govern.near_names import near_name
from embedgate.govern.operation import Facts, changes, reads, runs
from embedgate.govern.values import Moment, moment
from embedgate.policy import templates
from embedgate.policy.check import MAX_ID_CHARACTERS, find_mistakes
from embedgate.policy.risks import find_risks
from embedgate.policy.syntax import MAX_CHARACTERS, effect_of, policy_id
from embedgate.policy.templates import Template
from embedgate.storage import schema

_EXAMPLE_TEXT = """@id("analysts-may-embed")
permit (principal, action == Action::"embedding", resource)
when { principal.user in Role::"analyst" };"""

PolicyRef = Annotated[str, Meta(description="Id of the policy: its `@id`.", examples=["analysts-may-embed"])]
PolicyText = Annotated[str, Meta(description="One policy in Cedar, with its id as `@id`.")]

_EXAMPLE = {"text": _EXAMPLE_TEXT, "description": "Analysts may embed."}
_TABLE = schema.policies


class Policy(Struct, frozen=True):
    """A policy."""

    id: str
    text: PolicyText
    description: str
    is_enabled: Annotated[bool, Meta(description="Whether it is in force.")]
    updated_at: Moment


class NewPolicy(Struct, forbid_unknown_fields=True):
    """A policy to be saved, under the id that its text gives as `@id`."""

    text: PolicyText
    description: str = ""
    is_enabled: bool = True


class PolicyUnderId(Struct, forbid_unknown_fields=True):
    """A policy to be saved under an id, which its text must repeat as `@id`."""

    policy: PolicyRef
    text: PolicyText
    description: str = ""
    is_enabled: bool = True


class PolicyFromTemplate(Struct, forbid_unknown_fields=True):
    """A policy to be made of a template."""

    template: Annotated[str, Meta(description="Id of a template.")]
    parameters: Annotated[dict[str, str], Meta(description="What goes into its blanks.")] = {}
    id: Annotated[str | None, Meta(description="Id of the new policy, if not that of the template.")] = None
    is_enabled: bool = True


class PolicyChange(Struct, forbid_unknown_fields=True):
    """The fields to change; those that are absent or null stay."""

    policy: PolicyRef
    text: Annotated[str | None, Meta(description="One policy in Cedar, with the same `@id`.")] = None
    description: str | None = None
    is_enabled: bool | None = None


class PolicyQuery(ListQuery):
    """Which policies."""

    sort: Annotated[str, sorts("id", "updated_at", "is_enabled")] = ""


class WhichPolicy(Struct, forbid_unknown_fields=True):
    """A policy."""

    policy: PolicyRef


class PolicyTemplate(Struct, frozen=True):
    """A policy to begin with."""

    id: str
    description: str
    text: str
    parameters: Annotated[tuple[str, ...], Meta(description="Names of its blanks, each `{{name}}` in the text.")]


class TemplateQuery(ListQuery):
    """Which templates."""

    sort: Annotated[str, sorts("id")] = ""


class TextToCheck(Struct, forbid_unknown_fields=True):
    """A text that may be a policy."""

    text: str
    id: Annotated[str | None, Meta(description="What its `@id` must be; absent: any.")] = None


class Mistake(Struct, frozen=True):
    """What is wrong with the text of a policy. Line and column count from 1, null where there is no place."""

    message: str
    line: int | None
    column: int | None


class Checked(Struct, frozen=True, omit_defaults=True):
    """Whether a text can be saved, and what is wrong with it."""

    ok: bool
    mistakes: tuple[Mistake, ...]
    warnings: Annotated[
        tuple[Mistake, ...], Meta(description="What may make it fail for some requests, though it can be saved.")
    ] = ()


@reads("policies.list", "GET", "/api/policies", Facts("listPolicies"))
def list_policies(reading: Reading, query: PolicyQuery) -> Listed[Policy]:
    """List the policies."""
    return pick(map(_policy, read_policies(reading.connection)), query)


@changes(
    "policies.create",
    "POST",
    "/api/policies",
    Facts("createPolicy", status=201, example=_EXAMPLE, raises=(InvalidPolicy,)),
)
def create_policy(change: Change, new: NewPolicy) -> Policy:
    """Add a policy."""
    return _create(change, new, None)


@runs("policies.check", "POST", "/api/policies/check", Facts("checkPolicy", example={"text": _EXAMPLE_TEXT}))
def check_policy(_: Invocation, given: TextToCheck) -> Checked:
    """Check the text of a policy.

    Everything that is wrong with it, with its place. Nothing is stored.
    """
    return check(given)


@runs("policies.list_templates", "GET", "/api/policies/templates", Facts("listPolicyTemplates"))
def list_templates(_: Invocation, query: TemplateQuery) -> Listed[PolicyTemplate]:
    """List the templates of policies."""
    return pick(every_template(), query)


@changes(
    "policies.create_from_template",
    "POST",
    "/api/policies/templates",
    Facts(
        "createPolicyFromTemplate",
        status=201,
        example={"template": "business-hours-only"},
        raises=(InvalidPolicy, UnknownEntity),
    ),
)
def create_from_template(change: Change, new: PolicyFromTemplate) -> Policy:
    """Make a policy of a template."""
    made = templates.render(new.template, new.parameters, new.id)
    return _create(change, NewPolicy(made.text, made.description, new.is_enabled), made.id)


@reads("policies.show", "GET", "/api/policies/{policy}", Facts("showPolicy"))
def show_policy(reading: Reading, which: WhichPolicy) -> Policy:
    """Show a policy."""
    return _find(reading, which.policy)


@changes(
    "policies.put",
    "PUT",
    "/api/policies/{policy}",
    Facts("putPolicy", example=_EXAMPLE, raises=(InvalidPolicy,)),
)
def put_policy(change: Change, new: PolicyUnderId) -> Policy:
    """Save a policy under an id.

    Instead of the one of that id, if there is one.
    """
    try:
        _find(change, new.policy)
    except UnknownEntity:
        return _create(change, NewPolicy(new.text, new.description, new.is_enabled), new.policy)
    return _update(change, PolicyChange(new.policy, new.text, new.description, new.is_enabled))


@changes(
    "policies.update",
    "PATCH",
    "/api/policies/{policy}",
    Facts("changePolicy", example={"is_enabled": False}, raises=(InvalidPolicy,)),
)
def change_policy(change: Change, wanted: PolicyChange) -> Policy:
    """Change a policy.

    Its text, its description, or whether it is in force.
    """
    return _update(change, wanted)


@changes("policies.delete", "DELETE", "/api/policies/{policy}", Facts("deletePolicy"))
def delete_policy(change: Change, which: WhichPolicy) -> None:
    """Delete a policy."""
    found = _find(change, which.policy)
    change.connection.execute(_TABLE.delete().where(_TABLE.c.id == found.id))
    change.rules_changed()
    change.note("policies.delete", found.id, text_sha256=_digest(found.text))


def check(given: TextToCheck) -> Checked:
    """Whether a text can be saved, and what is wrong with it. Needs no database."""
    mistakes = _as_told(find_mistakes(given.text, given.id))
    warnings = () if mistakes else _as_told(find_risks(given.text, effect_of(given.text)))
    return Checked(not mistakes, mistakes, warnings)


def _as_told(found: Sequence[PolicyMistake]) -> tuple[Mistake, ...]:
    return tuple(Mistake(mistake.message, mistake.line, mistake.column) for mistake in found)


def every_template() -> tuple[PolicyTemplate, ...]:
    """What policies can be made from, by id. Needs no database."""
    return tuple(map(_template, templates.templates()))


def read_policies(connection: sa.Connection) -> tuple[PolicyRecord, ...]:
    """Every policy, those that are off too, by id."""
    rows = connection.execute(_TABLE.select().order_by(_TABLE.c.id))
    return tuple(PolicyRecord(**row._mapping) for row in rows)


def _find(reading: Reading, wanted_id: str) -> Policy:
    rows = reading.connection.execute(_TABLE.select().where(_TABLE.c.id == findable(wanted_id)))
    row = rows.one_or_none()
    if row is None:
        near = near_name(reading, _TABLE.c.id, wanted_id)
        raise UnknownEntity(f"There is no policy {wanted_id!r}. {near}List the policies to see their ids.", param="id")
    return _policy(row)


def _create(change: Change, new: NewPolicy, expected_id: str | None) -> Policy:
    """Save a new policy. expected_id: what its `@id` must be; None takes any."""
    _refuse_mistakes(new.text, expected_id)
    new_id = policy_id(new.text) or ""
    check_name(new_id, "policy id", param="id", max_characters=MAX_ID_CHARACTERS)
    policy = Policy(new_id, new.text, new.description, new.is_enabled, moment(change.now_ms))
    try:
        change.connection.execute(_TABLE.insert().values({"id": new_id, **_columns(change, policy)}))
    except IntegrityError as error:
        raise Conflict(f"There is already a policy {new_id!r}. Change that one.", param="id") from error
    change.rules_changed()
    change.note("policies.create", new_id, text_sha256=_digest(new.text), is_enabled=new.is_enabled)
    return policy


def _update(change: Change, wanted: PolicyChange) -> Policy:
    before = _find(change, wanted.policy)
    if wanted.text is not None:
        _refuse_mistakes(wanted.text, before.id)
    after = msgspec.structs.replace(
        before,
        text=before.text if wanted.text is None else wanted.text,
        description=before.description if wanted.description is None else wanted.description,
        is_enabled=before.is_enabled if wanted.is_enabled is None else wanted.is_enabled,
        updated_at=moment(change.now_ms),
    )
    change.connection.execute(_TABLE.update().where(_TABLE.c.id == after.id).values(_columns(change, after)))
    change.rules_changed()
    if wanted.is_enabled is not None and wanted.text is None and wanted.description is None:
        change.note("policies.enable" if after.is_enabled else "policies.disable", after.id)
    else:
        change.note("policies.update", after.id, **_differences(before, after))
    return after


def _columns(change: Change, policy: Policy) -> dict[str, str | int]:
    """What of a policy can be changed, and is kept in its row. Raises InvalidInput for an unfit text."""
    check_text(policy.text, "policy", param="text", max_characters=MAX_CHARACTERS)
    check_text(policy.description, "description", param="description")
    return {
        "text": policy.text,
        "description": policy.description,
        "is_enabled": policy.is_enabled,
        "updated_at_ms": change.now_ms,
    }


def _differences(before: Policy, after: Policy) -> dict[str, str | bool]:
    said: dict[str, str | bool] = {}
    if after.text != before.text:
        said["text_sha256"] = _digest(after.text)
    if after.description != before.description:
        said["description"] = "changed"
    if after.is_enabled != before.is_enabled:
        said["is_enabled"] = after.is_enabled
    return said


def _refuse_mistakes(text: str, expected_id: str | None) -> None:
    mistakes = find_mistakes(text, expected_id)
    if mistakes:
        raise InvalidPolicy(mistakes)


def _policy(row: sa.Row[Any] | PolicyRecord) -> Policy:
    return Policy(row.id, row.text, row.description, row.is_enabled, moment(row.updated_at_ms))


def _template(template: Template) -> PolicyTemplate:
    return PolicyTemplate(template.id, template.description, template.text, template.parameters)


def _digest(text: str) -> str:
    """Tells one text from another in the trail, where a whole policy has no room."""
    return hashlib.sha256(text.encode()).hexdigest()


OPERATIONS = (
    list_policies,
    create_policy,
    check_policy,
    list_templates,
    create_from_template,
    show_policy,
    put_policy,
    change_policy,
    delete_policy,
)
