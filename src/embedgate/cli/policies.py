"""`embedgate policies`: who may use what, in Cedar.

Trying the policies on a key is in `policy_trial`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from embedgate.cli import access, asking, options, policy_trial
from embedgate.cli.commands import Commands, Form, Session
from embedgate.cli.output import Table, print_json, print_shown, time_of
from embedgate.core.errors import UnknownEntity
from embedgate.core.near_names import did_you_mean
from embedgate.govern import policies
from embedgate.govern.lists import Listed
from embedgate.govern.policies import (
    Checked,
    Mistake,
    NewPolicy,
    Policy,
    PolicyChange,
    PolicyFromTemplate,
    PolicyTemplate,
    TemplateQuery,
    TextToCheck,
)
from embedgate.govern.values import milliseconds
from embedgate.policy.syntax import policy_id

commands = Commands("Check, save, switch and try policies.")
app = commands.app

File = Annotated[Path, typer.Argument(metavar="FILE", help="File with one policy; - reads standard input.")]
Description = Annotated[str | None, typer.Option(metavar="TEXT", help="What the policy is for.")]
Disabled = Annotated[bool, typer.Option("--disabled", help="Save it without putting it in force.")]

_HAS_MISTAKES = 1
"""The exit code of a failure."""


def _state(policy: Policy) -> str:
    return "in force" if policy.is_enabled else "off"


def _told(policy: Policy) -> str:
    return f"{policy.id} is {_state(policy)}"


def _changed(policy: Policy) -> str:
    return time_of(policy.updated_at) if milliseconds(policy.updated_at) else "never"


commands.written("try")(policy_trial.try_policies)
commands.add_list(
    "list",
    policies.list_policies,
    lambda found: Table(
        ("id", "state", "changed", "description"),
        [(policy.id, _state(policy), _changed(policy), policy.description) for policy in found],
    ),
    doc="List policies by id, those that are off too.",
)
commands.add(
    "show",
    policies.show_policy,
    lambda policy: policy.text.removesuffix("\n"),
    doc="Print the text of a policy.",
)


@app.command("check")
def check_policies(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files with one policy each.")],
    as_json: options.AsJson = False,
    url: options.Url = None,
    api_key: options.ApiKey = None,
) -> None:
    """Report mistakes in files with policies.

    Each is given by line and column, and what may make a policy fail is a warning; no database is needed.
    """
    texts = {file: asking.read_text(file) for file in files}
    with _checker(url, api_key) as check:
        found = {file: check(TextToCheck(text)) for file, text in texts.items()}
    if as_json:
        print_json(
            [
                {"file": str(file), "mistakes": checked.mistakes}
                | ({"warnings": checked.warnings} if checked.warnings else {})
                for file, checked in found.items()
            ]
        )
    for file, checked in found.items():
        if not as_json:
            _tell_mistakes(file, checked.mistakes)
            _tell_mistakes(file, checked.warnings, "warning: ")
    if any(checked.mistakes for checked in found.values()):
        raise typer.Exit(_HAS_MISTAKES)
    if not as_json:
        typer.echo(f"ok: {', '.join(map(str, files))}")


@contextmanager
def _checker(url: str | None, api_key: str | None) -> Iterator[Callable[[TextToCheck], Checked]]:
    """Checks a text here, or in the gateway at the address."""
    if url is None:
        yield policies.check
    else:
        with access.remote(url, api_key) as gateway:
            yield lambda text: gateway.call(policies.check_policy, text)


@commands.written("create")
def create_policy(session: Session, file: File, description: Description = None, is_disabled: Disabled = False) -> None:
    """Save a policy under its @id, and put it in force."""
    text = _checked_text(session, file)
    saved = session.call(policies.create_policy, NewPolicy(text, description or "", not is_disabled))
    session.show(saved, lambda: _told(saved))


@commands.written("update")
def update_policy(session: Session, file: File, description: Description = None) -> None:
    """Replace the text of the policy with the file's @id."""
    text = _checked_text(session, file)
    wanted = PolicyChange(policy_id(text) or "", text, description)
    saved = session.call(policies.change_policy, wanted)
    session.show(saved, lambda: _told(saved))


for verb, is_enabled, help_text in (
    ("enable", True, "Put a policy in force. A gateway that is running follows within a second."),
    ("disable", False, "Keep a policy, but not in force."),
):
    commands.add(
        verb,
        policies.change_policy,
        _told,
        Form(hidden=("text", "description"), fixed={"is_enabled": is_enabled}),
        help_text,
    )
commands.add_delete(
    "delete",
    policies.delete_policy,
    policies.show_policy,
    lambda policy: f"Delete the policy {policy.id}?",
    lambda policy: f"{policy.id} is deleted",
)


@app.command("templates")
def list_templates(
    template: Annotated[
        str | None, typer.Argument(metavar="ID", help="Print the text of this one.", show_default=False)
    ] = None,
    as_json: options.AsJson = False,
    url: options.Url = None,
    api_key: options.ApiKey = None,
) -> None:
    """List the policies to begin with, or print one. Needs no database."""
    there = _templates(url, api_key)
    found = [each for each in there if template in (None, each.id)]
    if template is not None and not found:
        near = did_you_mean(template, [each.id for each in there])
        raise UnknownEntity(
            f"There is no template {template!r}. {near}`embedgate policies templates` shows them.", param="template"
        )
    if as_json:
        print_json(Listed(tuple(found), len(found), 0, len(found)))
    elif template is not None:
        typer.echo(found[0].text, nl=False)
    else:
        rows = [(each.id, ", ".join(each.parameters), each.description) for each in found]
        print_shown(Table(("id", "parameters", "description"), rows))


def _templates(url: str | None, api_key: str | None) -> Sequence[PolicyTemplate]:
    if url is None:
        return policies.every_template()
    with access.remote(url, api_key) as gateway:
        return access.every(lambda query: gateway.call(policies.list_templates, query), TemplateQuery()).items


@commands.written("from-template")
def create_from_template(
    session: Session,
    template: Annotated[str, typer.Argument(metavar="TEMPLATE", help="Id of the template.")],
    values: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Fill in a parameter; repeatable.")
    ] = None,
    new_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Id of the new policy; that of the template if absent.")
    ] = None,
    is_disabled: Disabled = False,
) -> None:
    """Save a policy made from a template, and put it in force."""
    parameters = dict(_parameter(value) for value in values or ())
    wanted = PolicyFromTemplate(template, parameters, new_id, not is_disabled)
    created = session.call(policies.create_from_template, wanted)
    session.show(created, lambda: _told(created))


def _parameter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is not of the form NAME=VALUE", param_hint="--set")
    return name, value


def _checked_text(session: Session, file: Path) -> str:
    """The policy in a file. Shows the mistakes in it, if there are any, and ends the command."""
    text = asking.read_text(file)
    checked = session.call(policies.check_policy, TextToCheck(text))
    if not checked.ok:
        _tell_mistakes(file, checked.mistakes)
        raise typer.Exit(_HAS_MISTAKES)
    _tell_mistakes(file, checked.warnings, "warning: ")
    return text


def _tell_mistakes(file: Path, mistakes: Sequence[Mistake], kind: str = "") -> None:
    for mistake in mistakes:
        place = "" if mistake.line is None else f":{mistake.line}:{mistake.column}"
        typer.echo(f"{file}{place}: {kind}{mistake.message}", err=True)
