"""`embedgate models discover`: what a provider's server has, tried model by model, as commands or added at once."""

import shlex
from collections.abc import Sequence

import typer
from msgspec import Struct

from embedgate.cli.commands import Session
from embedgate.cli.output import print_json, print_table
from embedgate.core.errors import GatewayError, UnknownModel
from embedgate.govern import discovery, model_changes
from embedgate.govern.discovery import ModelToProbe
from embedgate.govern.found_models import ModelThere, Probed
from embedgate.govern.model_changes import NewModel
from embedgate.govern.providers import WhichProvider


class Found(Struct, frozen=True):
    """One model of a server: what is said of it, and what trying it has shown, or why it has not."""

    there: ModelThere
    probed: Probed | None = None
    proposed: NewModel | None = None
    is_added: bool = False
    error: str | None = None


def discover(session: Session, provider: str, *, names: Sequence[str], most: int, adds: bool) -> None:
    """Print what a provider has, and add it if that is wanted. most: how many models are tried."""
    there = session.call(discovery.list_models_there, WhichProvider(provider)).models
    if unknown := [name for name in names if name not in {each.name for each in there}]:
        known = ", ".join(each.name for each in there[:20])
        raise UnknownModel(f"{provider} does not list {unknown[0]!r}. It lists {known}.")
    wanted = [each for each in there if not names or each.name in names]
    open_ones = [each for each in wanted if not each.is_served]
    found = [Found(each) for each in wanted if each.is_served]
    for number, each in enumerate(open_ones[:most], 1):
        typer.echo(f"{number}/{min(len(open_ones), most)}: trying {each.name}", err=True)
        found.append(_tried(session, provider, each, adds=adds))
    if session.as_json:
        print_json(found)
        return
    _show(provider, found, adds=adds)
    if len(open_ones) > most:
        left = ", ".join(each.name for each in open_ones[most:][:20])
        typer.echo(f"\nNot tried, as --most is {most}: {left}")


def _tried(session: Session, provider: str, there: ModelThere, *, adds: bool) -> Found:
    probed = None
    try:
        if there.action in (None, "embedding"):
            probed = session.call(discovery.probe_model, ModelToProbe(provider, there.name))
        proposed = _proposed(provider, there, probed)
        if proposed is not None and adds:
            session.call(model_changes.add_model, proposed)
    except GatewayError as error:
        return Found(there, probed, error=error.message)
    return Found(there, probed, proposed, is_added=adds and proposed is not None)


def _proposed(provider: str, there: ModelThere, probed: Probed | None) -> NewModel | None:
    """The model as it would be added; None for what makes no vectors and is not known to do anything else."""
    known = NewModel(there.id, provider, there.name)
    if there.action == "embedding" or there.action is None:
        if probed is None or probed.dim is None:
            return None
        if there.is_known:
            return known
        return NewModel(
            there.id,
            provider,
            there.name,
            dim=probed.dim,
            max_tokens=there.max_tokens or probed.max_tokens,
            is_matryoshka=probed.is_matryoshka,
            is_normalised=probed.is_normalised,
        )
    if there.is_known:
        return known
    return NewModel(there.id, provider, there.name, there.action, max_tokens=there.max_tokens)


def _show(provider: str, found: Sequence[Found], *, adds: bool) -> None:
    if not found:
        typer.echo(f"{provider} lists no model.")
        return
    columns = ("called", "model", "size", "tokens", "shorter", "state")
    print_table(columns, [_row(each) for each in found], right=("size", "tokens"))
    for each in found:
        for note in (*(each.probed.notes if each.probed else ()), *((each.error,) if each.error else ())):
            typer.echo(f"{each.there.name}: {note}")
    spent = sum(each.probed.tokens for each in found if each.probed)
    typer.echo(f"\nTrying took {spent} tokens of {provider}'s, by its own count.")
    proposed = [each.proposed for each in found if each.proposed is not None]
    if proposed and not adds:
        typer.echo("To add them, repeat it with --add, or type:")
        for new in proposed:
            typer.echo(f"  {command(new)}")


def _row(found: Found) -> tuple[str, ...]:
    new, probed = found.proposed, found.probed
    state = "served" if found.there.is_served else "added" if found.is_added else "proposed" if new else "left out"
    dim = probed.dim if probed else found.there.dim
    tokens = found.there.max_tokens or (probed.max_tokens if probed else None)
    shorter = "" if probed is None or probed.dim is None else "yes" if probed.is_matryoshka else "?"
    return (found.there.name, found.there.id, str(dim or ""), str(tokens or ""), shorter, state)


def command(new: NewModel) -> str:
    """The command that adds a model."""
    words = ["embedgate", "models", "add", new.model, "--provider", new.provider]
    for flag, value in (
        ("--upstream-model", new.upstream_model),
        ("--action", new.action),
        ("--dim", new.dim),
        ("--max-tokens", new.max_tokens),
    ):
        words += [] if value is None else [flag, str(value)]
    words += ["--matryoshka"] if new.is_matryoshka else []
    words += ["--no-normalised"] if new.is_normalised is False else []
    return shlex.join(words)
