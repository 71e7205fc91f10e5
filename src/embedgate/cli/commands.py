"""Commands of administration, made of declared operations: arguments, options and help come from their parameters.

Every command takes `--json`, which prints what the HTTP API answers; `--config`, for the data folder to work on; and
`--url` with `--api-key`, for a running gateway elsewhere instead.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Concatenate, ParamSpec, TypeVar, Union, get_args, get_origin

import msgspec
import typer
from msgspec import NODEFAULT, UNSET, Meta, Struct, UnsetType
from typer._click.core import ParameterSource
from typer.models import ArgumentInfo, OptionInfo

from embedgate.cli import access, asking, options
from embedgate.cli.output import Shown, print_json, print_pieces, print_shown
from embedgate.core.errors import GatewayError, UnknownEntity
from embedgate.govern.lists import Listed, ListQuery
from embedgate.govern.operation import File, Operation

P = TypeVar("P", bound=Struct)
Q = TypeVar("Q", bound=ListQuery)
R = TypeVar("R")
Given = ParamSpec("Given")

_PAGING = frozenset({"offset", "limit", "sort"})


class Session:
    """One run of a command: calls operations, and shows what they give as the command line asks for it."""

    def __init__(self, reached: access.Access, *, as_json: bool) -> None:
        self._access = reached
        self.as_json = as_json

    def call(self, operation: Operation[P, R], parameters: P) -> R:
        """The result of an operation. Raises a GatewayError, or ConfigError."""
        return self._access.call(operation, parameters)

    def find(self, operation: Operation[P, R], parameters: P) -> R | None:
        """The result of an operation that shows something; None if there is no such thing. Raises as `call`."""
        try:
            return self.call(operation, parameters)
        except GatewayError as error:  # over HTTP, the class that the operation raises is not known
            if error.status != UnknownEntity.status:
                raise
            return None

    def every(self, operation: Operation[Q, Listed[R]], query: Q) -> Listed[R]:
        """A whole list, read page by page."""
        return access.every(lambda page: self.call(operation, page), query)

    def print_file(self, operation: Operation[P, R | File], parameters: P) -> None:
        """Print the file that an operation answers with. parameters: ask for one."""
        print_pieces(self._access.file(operation, parameters))

    def show(self, result: object, shown: Callable[[], Shown]) -> None:
        """Print a result: as JSON if that was asked for, else as `shown` gives it."""
        if self.as_json:
            print_json(result)
        else:
            print_shown(shown())


@dataclass(frozen=True, slots=True)
class Form:
    """How a command's parameters are given, where that is not as their types say.

    arguments: fields that are positional, besides those of the path. hidden: fields that the command does not have.
    fixed: fields with a value of the command's own. options: names or descriptions of options by field. is_partial:
    whether at least one option must be given.
    """

    arguments: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    fixed: Mapping[str, object] = field(default_factory=dict)
    options: Mapping[str, str | OptionInfo] = field(default_factory=dict)
    is_partial: bool = False


_PLAIN = Form()


class Commands:
    """The commands of one subject; `app` is what the program includes."""

    def __init__(self, help: str) -> None:  # noqa: A002 - as typer calls it
        """help: the line in the program's own help."""
        self.app = typer.Typer(no_args_is_help=True, help=help)

    def add(
        self, name: str, operation: Operation[P, R], show: Callable[[R], Shown], form: Form = _PLAIN, doc: str = ""
    ) -> None:
        """A command that runs one operation. show: its result for people. doc: instead of the operation's own."""

        def command(session: Session, **given: Any) -> None:
            parameters = _parameters(operation, form, given)
            result = session.call(operation, parameters)
            session.show(result, lambda: show(result))

        self._register(name, command, _signature(operation, form), doc or _doc(operation))

    def add_list(
        self, name: str, operation: Operation[Q, Listed[R]], show: Callable[[Sequence[R]], Shown], form: Form = _PLAIN,
        doc: str = "",
    ) -> None:  # fmt: skip
        """A command that shows a whole list."""
        paged = Form(form.arguments, (*form.hidden, *_PAGING), form.fixed, form.options)

        def command(session: Session, **given: Any) -> None:
            listed = session.every(operation, _parameters(operation, paged, given))
            session.show(listed, lambda: show(listed.items))

        self._register(name, command, _signature(operation, paged), doc or _doc(operation))

    def add_delete(
        self,
        name: str,
        operation: Operation[P, Any],
        find: Operation[P, R],
        question: Callable[[R], str],
        told: Callable[[R], str],
        doc: str = "",
    ) -> None:
        """A command that asks before it deletes or stops for good what `find` finds.

        operation: answers nothing, or what `find` finds as it is then; that is printed, else what was deleted.
        """

        def command(session: Session, *, is_agreed: bool, **given: Any) -> None:
            parameters = _parameters(operation, _PLAIN, given)
            found = session.call(find, parameters)
            asking.confirm(question(found), is_agreed=is_agreed)
            left: R | None = session.call(operation, parameters)
            done = found if left is None else left
            session.show(done, lambda: told(done))

        agreed = inspect.Parameter("is_agreed", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=asking.Yes)
        self._register(name, command, [*_signature(operation, _PLAIN), agreed], doc or _doc(operation))

    def written(
        self, name: str
    ) -> Callable[[Callable[Concatenate[Session, Given], None]], Callable[Concatenate[Session, Given], None]]:
        """A command that is written by hand: a function of a session and its own arguments and options."""

        def register(
            function: Callable[Concatenate[Session, Given], None],
        ) -> Callable[Concatenate[Session, Given], None]:
            self._register(name, function, _own(function), function.__doc__ or "")
            return function

        return register

    def written_itself(
        self, function: Callable[Concatenate[Session, Given], None]
    ) -> Callable[Concatenate[Session, Given], None]:
        """What the group does by itself, written by hand, where none of its commands is named."""
        self.app.info.no_args_is_help, self.app.info.help = False, inspect.cleandoc(function.__doc__ or "")
        self._register("", function, _own(function), function.__doc__ or "", is_group=True)
        return function

    def _register(
        self,
        name: str,
        command: Callable[..., None],
        own: Sequence[inspect.Parameter],
        doc: str,
        *,
        is_group: bool = False,
    ) -> None:
        def callback(context: typer.Context, **given: Any) -> None:
            config_file, url, api_key = (given.pop(common.name) for common in _COMMON[1:])
            if is_group and context.invoked_subcommand is not None:
                _refuse_options_in_front(context)
                context.obj = config_file or context.obj
                return
            with opened(context, config_file, url, api_key) as reached:
                command(Session(reached, as_json=given.pop("as_json")), **given)

        context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        parameters = [context, *own, *_COMMON]
        callback.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
        callback.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        callback.__doc__ = doc
        if is_group:
            self.app.callback(invoke_without_command=True)(callback)
        else:
            self.app.command(name)(callback)


@contextmanager
def opened(
    context: typer.Context, config_file: Path | None, url: str | None, api_key: str | None
) -> Iterator[access.Access]:
    """The gateway at the address if there is one, else the data folder of the settings."""
    if url is not None:
        with access.remote(url, api_key) as reached:
            yield reached
    else:
        with access.local(options.load_settings(context, config_file)) as reached:
            yield reached


_COMMON = tuple(
    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
    for name, annotation, default in (
        ("as_json", options.AsJson, False),
        ("config_file", options.ConfigFile, None),
        ("url", options.Url, None),
        ("api_key", options.ApiKey, None),
    )
)


def _own(function: Callable[..., None]) -> list[inspect.Parameter]:
    """The arguments and options of a function that is written by hand: all but its session."""
    _, *own = inspect.signature(function, eval_str=True).parameters.values()
    return [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]


def _refuse_options_in_front(context: typer.Context) -> None:
    """Options that stand before the name of another command would do nothing; only `--config` counts there."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name != "config_file" and source is ParameterSource.COMMANDLINE:
            raise typer.BadParameter(f"put it behind `{context.invoked_subcommand}`", param_hint=parameter.opts[0])


def _doc(operation: Operation[P, R]) -> str:
    return f"{operation.summary}.\n\n{operation.description}".strip()


def _parameters(operation: Operation[P, R], form: Form, given: Mapping[str, Any]) -> P:
    """The operation's parameters from what the command line has. Raises BadParameter if they do not fit."""
    if form.is_partial:
        options.require_some({name: value for name, value in given.items() if name not in operation.path_parameters})
    absent = {parameter.name for parameter in msgspec.structs.fields(operation.takes) if parameter.default is not None}
    fields = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in given.items()
        if value is not None or name not in absent
    }
    try:
        return operation.make({**fields, **form.fixed})
    except msgspec.ValidationError as error:
        raise typer.BadParameter(str(error)) from error


def _signature(operation: Operation[P, R], form: Form) -> list[inspect.Parameter]:
    """The arguments and options of a command, one for each field of the operation's parameters."""
    skipped = {*form.hidden, *form.fixed}
    positional = {*operation.path_parameters, *form.arguments}
    found = []
    for parameter in msgspec.structs.fields(operation.takes):
        if parameter.name in skipped:
            continue
        kind, meta = _kind_of(parameter.type)
        is_required = parameter.default is NODEFAULT and parameter.default_factory is NODEFAULT
        default: object = inspect.Parameter.empty if is_required else parameter.default
        if default in (UNSET, NODEFAULT):
            default = None
        is_list = get_origin(kind) is list
        if is_list and not is_required:
            default = None
        info = _info(parameter.name, kind, meta, form, default, is_positional=parameter.name in positional)
        has_parser = isinstance(info, OptionInfo) and info.parser is not None
        if has_parser:
            kind = Any
        elif not is_required and not (kind is bool and default is False):
            kind = kind | None
        annotation = Annotated[kind, info]  # type: ignore[valid-type]  # made at run time for typer
        found.append(
            inspect.Parameter(parameter.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        )
    return sorted(found, key=lambda parameter: parameter.name not in positional)


def _info(
    name: str, kind: Any, meta: Meta | None, form: Form, default: object, *, is_positional: bool
) -> ArgumentInfo | OptionInfo:
    """What typer is told of one field."""
    given = form.options.get(name)
    if isinstance(given, OptionInfo):
        return given
    help_text = (meta.description if meta else None) or ""
    if is_positional:
        info: ArgumentInfo = typer.Argument(metavar=name.upper(), help=help_text)
        return info
    word = name.removeprefix("is_").replace("_", "-")
    flag = given or (f"--{word}/--no-{word}" if kind is bool and default is None else f"--{word}")
    option: OptionInfo = typer.Option(flag, help=help_text)
    return option


def _kind_of(declared: Any) -> tuple[Any, Meta | None]:
    """The type that typer is given for a field: without null, unset and bounds; and what is said of the field."""
    meta = None
    while get_origin(declared) is Annotated:
        declared, *notes = get_args(declared)
        meta = meta or next((note for note in notes if isinstance(note, Meta)), None)
    if get_origin(declared) in (UnionType, Union):
        (declared,) = (member for member in get_args(declared) if member not in (NoneType, UnsetType))
        inner, inner_meta = _kind_of(declared)
        return inner, meta or inner_meta
    if get_origin(declared) is tuple:
        return list[get_args(declared)[0]], meta  # type: ignore[misc]  # made at run time for typer
    return declared, meta
