"""`embedgate aliases`: other names of models, for everybody or for the callers of one project."""

from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

import typer

from embedgate.cli import asking, subjects
from embedgate.cli.advice import for_commands
from embedgate.cli.commands import Commands, Session
from embedgate.cli.output import Table
from embedgate.core.access import Subject
from embedgate.core.errors import GatewayError, SpaceChange
from embedgate.govern import aliases
from embedgate.govern.aliases import Alias, AliasQuery, AliasSet, NewAlias, WhichAlias

T = TypeVar("T")

commands = Commands("Set and remove other names of models.")
app = commands.app

Name = Annotated[str, typer.Argument(metavar="NAME", help="What callers may send as the model.")]
Project = Annotated[
    str | None, typer.Option(metavar="NAME", help="For the callers of this project, by name or id; else for everybody.")
]


@commands.written("list")
def list_aliases(
    session: Session,
    project: Annotated[str | None, typer.Option(metavar="NAME", help="Only those of this project.")] = None,
) -> None:
    """List the aliases of models. One of a project goes before one for everybody."""
    listed = session.every(aliases.list_aliases, AliasQuery(project=project, sort="name"))
    session.show(listed, lambda: _table(session, listed.items))


@commands.written("set")
def set_alias(
    session: Session,
    name: Name,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Id of the model that it stands for.")],
    project: Project = None,
    is_agreed: asking.Yes = False,
) -> None:
    """Set an alias of a model; it can be asked for at once.

    Asks where the name has stood for a model of another vector space, whose vectors cannot be compared with new ones.
    """

    def call(is_allowed: bool) -> AliasSet:
        return session.call(aliases.set_alias, NewAlias(name, model, project, is_allowed))

    done = _agreed(call, is_agreed)
    session.show(done, lambda: "\n".join([f"{done.alias.name} stands for {done.alias.model}", *done.notes]))


@commands.written("remove")
def remove_alias(session: Session, name: Name, project: Project = None, is_agreed: asking.Yes = False) -> None:
    """Remove an alias of a model.

    The name then stands for what it would stand for without it, if for anything.
    """
    asking.confirm(f"Remove the alias {name}?", is_agreed=is_agreed)

    def call(is_allowed: bool) -> WhichAlias:
        which = WhichAlias(name, project, is_allowed)
        session.call(aliases.remove_alias, which)
        return which

    done = _agreed(call, is_agreed)
    session.show(done, lambda: f"the alias {name} is removed")


def _agreed(call: Callable[[bool], T], is_agreed: bool) -> T:
    """What a change gives; asks first if a name would stand for another vector space. call: with whether it may."""
    try:
        return call(is_agreed)
    except GatewayError as error:  # over HTTP, only its code is that of the operation's error
        if error.code.casefold() != SpaceChange.code:
            raise
        asking.confirm("Go on?", is_agreed=False, reason=for_commands(error.message))
    return call(True)


def _table(session: Session, found: Sequence[Alias]) -> Table:
    of = {alias.project: Subject("project", alias.project) for alias in found if alias.project is not None}
    names = subjects.names(session, of.values())
    rows = [
        (
            alias.name,
            alias.model,
            names[of[alias.project]] if alias.project is not None else "everybody",
            "on" if alias.is_on else "off",
        )
        for alias in found
    ]
    return Table(("alias", "model", "for", "state"), rows)
