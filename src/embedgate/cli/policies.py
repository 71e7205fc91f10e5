"""`embedgate policies`: who may use what, in Cedar. Works on the database, with or without a running gateway.

Trying a policy on a key is in `policy_trial`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedgate.cli import asking, options, policy_trial
from embedgate.cli.output import print_json, print_table, utc
from embedgate.core.errors import InvalidPolicy, UnknownEntity

if TYPE_CHECKING:
    from embedgate.administration.policies import Policies
    from embedgate.core.access import PolicyMistake, PolicyRecord

app = typer.Typer(no_args_is_help=True, help="Check, save, switch and try policies.")
app.command("try")(policy_trial.try_policies)

Policy = Annotated[str, typer.Argument(metavar="ID", help="Id of the policy: its @id.")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="File with one policy; - reads standard input.")]
Description = Annotated[str | None, typer.Option(metavar="TEXT", help="What the policy is for.")]
Disabled = Annotated[bool, typer.Option("--disabled", help="Save it without putting it in force.")]

_HAS_MISTAKES = 1
"""The exit code of a failure."""


@app.command("list")
def list_policies(
    context: typer.Context, as_json: options.AsJson = False, config_file: options.ConfigFile = None
) -> None:
    """List policies by id, those that are off too."""
    with options.administration(context, config_file) as opened:
        policies = opened.policies.list()
    if as_json:
        print_json(policies)
        return
    rows = [(each.id, _state(each), _changed(each), each.description) for each in policies]
    print_table(("id", "state", "changed", "description"), rows)


@app.command("show")
def show_policy(
    context: typer.Context, policy: Policy, as_json: options.AsJson = False, config_file: options.ConfigFile = None
) -> None:
    """Print the text of a policy, as `create` and `update` take it."""
    with options.administration(context, config_file) as opened:
        found = opened.policies.get(policy)
    if as_json:
        print_json(found)
    else:
        typer.echo(found.text, nl=not found.text.endswith("\n"))


@app.command("check")
def check_policies(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files with one policy each.")],
    as_json: options.AsJson = False,
) -> None:
    """Report every mistake in files with policies, by line and column. Needs no database."""
    from embedgate.policy.check import find_mistakes  # brings Cedar

    found = {file: find_mistakes(asking.read_text(file)) for file in files}
    if as_json:
        print_json([{"file": str(file), "mistakes": mistakes} for file, mistakes in found.items()])
    for file, mistakes in found.items():
        if not as_json:
            _tell_mistakes(file, mistakes)
    if any(found.values()):
        raise typer.Exit(_HAS_MISTAKES)
    if not as_json:
        typer.echo(f"ok: {', '.join(map(str, files))}")


@app.command("create")
def create_policy(
    context: typer.Context,
    file: File,
    description: Description = None,
    is_disabled: Disabled = False,
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Save a policy under its @id, and put it in force."""
    text = asking.read_text(file)
    _save(
        context,
        config_file,
        file,
        lambda policies: policies.create(text, description=description or "", is_enabled=not is_disabled),
        as_json=as_json,
    )


@app.command("update")
def update_policy(
    context: typer.Context,
    file: File,
    description: Description = None,
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Save another text of the policy that has the @id in the file."""
    text = asking.read_text(file)

    def update(policies: "Policies") -> "PolicyRecord":
        from embedgate.policy.syntax import policy_id  # brings Cedar

        mistakes = policies.check(text)
        if mistakes:
            raise InvalidPolicy(mistakes)
        return policies.update(policy_id(text) or "", text=text, description=description)

    _save(context, config_file, file, update, as_json=as_json)


@app.command("enable")
def enable_policy(
    context: typer.Context, policy: Policy, as_json: options.AsJson = False, config_file: options.ConfigFile = None
) -> None:
    """Put a policy in force. A gateway that is running follows within a second."""
    with options.administration(context, config_file) as opened:
        changed = opened.policies.enable(policy)
    _tell(changed, as_json=as_json)


@app.command("disable")
def disable_policy(
    context: typer.Context, policy: Policy, as_json: options.AsJson = False, config_file: options.ConfigFile = None
) -> None:
    """Keep a policy, but not in force."""
    with options.administration(context, config_file) as opened:
        changed = opened.policies.disable(policy)
    _tell(changed, as_json=as_json)


@app.command("delete")
def delete_policy(
    context: typer.Context,
    policy: Policy,
    is_agreed: asking.Yes = False,
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Delete a policy."""
    with options.administration(context, config_file) as opened:
        found = opened.policies.get(policy)
        asking.confirm(f"Delete the policy {found.id}?", is_agreed=is_agreed)
        opened.policies.delete(found.id)
    if as_json:
        print_json(found)
    else:
        typer.echo(f"{found.id} is deleted")


@app.command("templates")
def list_templates(
    template: Annotated[
        str | None, typer.Argument(metavar="ID", help="Print the text of this one.", show_default=False)
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """List the policies to begin with, or print one. Needs no database."""
    from embedgate.policy.templates import templates  # brings Cedar

    found = [each for each in templates() if template in (None, each.id)]
    if not found:
        raise UnknownEntity(f"There is no template {template!r}. Run the command without an id to see them.")
    if as_json:
        print_json(found)
    elif template is not None:
        typer.echo(found[0].text, nl=False)
    else:
        rows = [(each.id, ", ".join(each.parameters), each.description) for each in found]
        print_table(("id", "parameters", "description"), rows)


@app.command("from-template")
def create_from_template(
    context: typer.Context,
    template: Annotated[str, typer.Argument(metavar="TEMPLATE", help="Id of the template.")],
    values: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Fill in a parameter; repeatable.")
    ] = None,
    new_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Id of the new policy; that of the template if absent.")
    ] = None,
    is_disabled: Disabled = False,
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Save a policy made from a template, and put it in force."""
    parameters = dict(_parameter(value) for value in values or ())
    with options.administration(context, config_file) as opened:
        created = opened.policies.from_template(template, parameters, new_id=new_id, is_enabled=not is_disabled)
    _tell(created, as_json=as_json)


def _parameter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is not of the form NAME=VALUE", param_hint="--set")
    return name, value


def _save(
    context: typer.Context,
    config_file: Path | None,
    file: Path,
    save: "Callable[[Policies], PolicyRecord]",
    *,
    as_json: bool,
) -> None:
    with options.administration(context, config_file) as opened:
        try:
            saved = save(opened.policies)
        except InvalidPolicy as error:
            _tell_mistakes(file, error.mistakes)
            raise typer.Exit(_HAS_MISTAKES) from error
    _tell(saved, as_json=as_json)


def _tell_mistakes(file: Path, mistakes: "Sequence[PolicyMistake]") -> None:
    for mistake in mistakes:
        place = "" if mistake.line is None else f":{mistake.line}:{mistake.column}"
        typer.echo(f"{file}{place}: {mistake.message}", err=True)


def _tell(policy: "PolicyRecord", *, as_json: bool) -> None:
    if as_json:
        print_json(policy)
    else:
        typer.echo(f"{policy.id} is {_state(policy)}")


def _changed(policy: "PolicyRecord") -> str:
    return utc(policy.updated_at_ms) if policy.updated_at_ms else "never"


def _state(policy: "PolicyRecord") -> str:
    return "in force" if policy.is_enabled else "off"
