"""What the program answers and how it ends, whatever the command."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer._click import Command
from typer.core import TyperGroup

import embedgate
from embedgate.cli.main import COMMANDS, EXIT_CODES, load
from program import Program


def test_help_tells_every_exit_code(program: Program) -> None:
    ended = program("--help")
    assert ended.code == 0
    for code, meaning in EXIT_CODES:
        assert f"{code:>3}  {meaning}\n" in ended.text


def test_version_is_that_of_the_package(program: Program) -> None:
    assert program("version").text == f"embedgate {embedgate.__version__}\n"
    assert program("version", "--json").text == f'{{\n  "version": "{embedgate.__version__}"\n}}\n'


@pytest.mark.parametrize("arguments", [["nonsense"], ["embed", "--format", "xml", "a"], ["models", "show"]])
def test_a_wrong_command_line_ends_with_2(program: Program, arguments: list[str]) -> None:
    ended = program(*arguments)
    assert ended.code == 2
    assert "Usage:" in ended.errors


def test_wrong_settings_end_with_3_and_every_mistake_on_its_own_line(program: Program, folder: Path) -> None:
    (folder / "wrong.toml").write_text('[server]\nport = "x"\nhots = "y"\n[log]\nlevel = "loud"\n', encoding="utf-8")
    for arguments in (["--config", "wrong.toml", "config", "check"], ["config", "check", "--config", "wrong.toml"]):
        ended = program(*arguments)
        assert ended.code == 3
        lines = ended.errors.splitlines()
        assert [line.split(":")[1].strip() for line in lines] == ["server.port", "server.hots", "log.level"]


def test_a_failure_ends_with_1_and_one_line(program: Program) -> None:
    ended = program("models", "show", "openai/text-embedding-3-smal")
    assert ended.code == 1
    assert ended.errors.startswith("error: There is no model")
    assert ended.errors.count("\n") == 1
    assert "Did you mean openai/text-embedding-3-small" in ended.errors


def test_a_missing_file_ends_with_1_and_its_name(program: Program) -> None:
    ended = program("embed", "--file", "absent.txt")
    assert (ended.code, ended.errors) == (1, "error: absent.txt: No such file or directory\n")


def test_help_and_mistakes_do_not_wait_for_heavy_modules(folder: Path) -> None:
    heavy = {"numpy", "onnxruntime", "pydantic", "pyreqwest", "rich", "sqlalchemy", "starlette", "uvicorn"}
    check = f"import sys, embedgate.cli.main; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_the_package_runs_as_a_module(folder: Path) -> None:
    ended = subprocess.run([sys.executable, "-m", "embedgate", "version"], capture_output=True, text=True, check=True)
    assert ended.stdout == f"embedgate {embedgate.__version__}\n"


def test_the_help_cuts_no_line_of_a_command(program: Program) -> None:
    assert "..." not in program("--help").text.partition("Commands:")[2]


TAKES_AWAY = {"clear", "delete", "drop", "prune", "reconcile", "remove", "remove-key", "revoke"}
"""Names of commands that do what no other command undoes; `reconcile` with --settle."""


def test_every_command_that_cannot_be_taken_back_asks() -> None:
    found = {path: each for name in COMMANDS for path, each in every_command(name, load(name))}
    taking = {path: each for path, each in found.items() if path.rpartition(" ")[2] in TAKES_AWAY}
    assert len(taking) >= len(TAKES_AWAY)
    for path, each in taking.items():
        assert any("--yes" in parameter.opts for parameter in each.params), path


def every_command(name: str, command: Command) -> Iterator[tuple[str, Command]]:
    yield name, command
    if isinstance(command, TyperGroup):
        for child, each in command.commands.items():
            yield from every_command(f"{name} {child}", each)


@pytest.mark.parametrize("name", COMMANDS)
def test_lists_of_commands_cut_no_summary(name: str) -> None:
    group = load(name)
    if isinstance(group, TyperGroup):
        columns = 80 - 2 - 6 - max(map(len, group.commands))  # margins and gaps of typer's help
        cut = [
            command for command, found in group.commands.items() if found.get_short_help_str(columns).endswith("...")
        ]
        assert cut == []
