"""The `embedgate` program: its commands, and the one place where an error becomes an exit code."""

import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

from embedgate import __version__
from embedgate.cli import (
    audit,
    budgets,
    cache,
    embed,
    keys,
    limits,
    models,
    options,
    policies,
    prices,
    projects,
    providers,
    roles,
    serve,
    settings,
    usage,
    users,
)
from embedgate.core.errors import ConfigError, GatewayError

OK = 0
FAILED = 1
BAD_USAGE = 2
BAD_CONFIG = 3
NOT_REACHED = 4
INTERRUPTED = 130

EXIT_CODES: tuple[tuple[int, str], ...] = (
    (OK, "done"),
    (FAILED, "failed; the message says why"),
    (BAD_USAGE, "the command line is wrong"),
    (BAD_CONFIG, "the settings are wrong, or the address to listen on is taken"),
    (NOT_REACHED, "a gateway or provider cannot be reached, or failed"),
    (INTERRUPTED, "interrupted"),
)
"""What the program ends with, and what it means. The reference page is made from this."""

_UPSTREAM_STATUSES = (502, 504)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain help: rich would take longer to import than the help takes to print.
    rich_markup_mode=None,
    # A line with \b keeps the paragraph after it from being filled.
    epilog="\b\nExit codes:\n" + "\n".join(f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES),
)
app.command("serve")(serve.serve)
app.command("embed")(embed.embed)
app.add_typer(models.app, name="models")
app.add_typer(users.app, name="users")
app.add_typer(roles.app, name="roles")
app.add_typer(projects.app, name="projects")
app.add_typer(keys.app, name="keys")
app.add_typer(policies.app, name="policies")
app.add_typer(limits.app, name="limits")
app.add_typer(budgets.app, name="budgets")
app.add_typer(prices.app, name="prices")
app.add_typer(providers.app, name="providers")
app.add_typer(usage.app, name="usage")
app.add_typer(audit.app, name="audit")
app.add_typer(cache.app, name="cache")
app.add_typer(settings.app, name="config")


@app.callback()
def _root(context: typer.Context, config_file: options.ConfigFile = None) -> None:
    """One OpenAI-compatible door to every text-embedding model, with a model on this machine."""
    context.obj = config_file


@app.command()
def version(as_json: options.AsJson = False) -> None:
    """Print the version."""
    if as_json:
        from embedgate.cli.output import print_json

        print_json({"version": __version__})
    else:
        typer.echo(f"embedgate {__version__}")


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the program and exit. arguments: those of the process if None."""
    try:
        app(args=arguments, prog_name="embedgate")
    except ConfigError as error:
        _fail(BAD_CONFIG, error.mistakes)
    except GatewayError as error:
        _fail(NOT_REACHED if error.status in _UPSTREAM_STATUSES else FAILED, [str(error)])
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _fail(FAILED, [f"{place}{error.strerror or error}"])
    sys.exit(OK)


def _fail(code: int, messages: Sequence[str]) -> NoReturn:
    for message in messages:
        typer.echo(f"error: {message}", err=True)
    sys.exit(code)
