"""Tables on screens of any width: no word is broken, and no column is missing without a word."""

import io
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from embedgate.cli.columns import GAP, fit
from embedgate.cli.main import COMMANDS, load
from embedgate.cli.output import CHOICE, Choice, print_facts, print_table
from embedgate.cli.table_options import TABLES, table_commands
from embedgate.core.errors import InvalidInput
from program import Program

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z", "M", "S"]), min_size=1, max_size=12)
CELLS = st.lists(WORDS, max_size=6).map(" ".join)
KEYS = ("id", "name", "created", "state")
ROWS = [
    ["key_0123456789abcdef", "漢字の名前 laptop", "2026-11-28 18:50:35Z", "old secret, active until 2026-11-29 18:50Z"],
    ["key_fedcba9876543210", "é" * 30, "2026-11-28 18:50:35Z", "active"],
]  # fmt: skip
Screen = Callable[..., list[str]]


class Terminal(io.StringIO):
    """A screen that remembers what is written."""

    def isatty(self) -> bool:
        """It is one."""
        return True


@pytest.fixture
def on_screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """Prints a table on a screen of some columns, and gives its lines."""

    def lines(width: int, *arguments: object, choice: Choice | None = None, **more: object) -> list[str]:
        terminal = Terminal()
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setenv("TERM", "dumb")
        monkeypatch.setattr("sys.stdout", terminal)
        chosen = CHOICE.set(choice or Choice())
        try:
            print_table(*arguments, **more)  # type: ignore[arg-type]  # as the tests give them
        finally:
            CHOICE.reset(chosen)
        return terminal.getvalue().splitlines()

    return lines


@settings(max_examples=200, deadline=None)
@given(
    rows=st.integers(1, 6).flatmap(lambda n: st.lists(st.lists(CELLS, min_size=n, max_size=n), min_size=1, max_size=5)),
    width=st.integers(10, 200),
)
def test_facts_are_whole_and_what_is_shown_fits(rows: list[list[str]], width: int) -> None:
    columns = [f"c{place}" for place in range(len(rows[0]))]
    found = fit(columns, rows, width, is_whole=False)
    assert sorted((*found.left_out, *(columns[place] for place in found.places))) == columns
    assert found.places[0] == 0
    if len(found.places) > 2:
        assert sum(found.widths) + GAP * (len(found.widths) - 1) <= width
    for place, cells in zip(found.places, found.widths, strict=True):
        texts = [row[place] for row in rows]
        if all(text.count(" ") < 2 for text in texts):
            assert cells >= max(map(cell_len, texts))
    everything = fit(columns, rows, width, is_whole=True)
    assert (len(everything.places), everything.left_out) == (len(columns), ())


def test_a_screen_of_80_columns_breaks_no_word(on_screen: Screen) -> None:
    for width in (80, 100, 120):
        lines = on_screen(width, KEYS, ROWS, least=("created",))
        assert max(map(cell_len, lines)) <= width
        printed = set(" ".join(lines).split())
        for row in ROWS:
            assert {word for cell in (row[0], row[1], row[3]) for word in cell.split()} <= printed
    assert on_screen(80, KEYS, ROWS, least=("created",))[-1] == (
        "Left out: created. --wide shows all, --columns chooses."
    )
    assert not on_screen(200, KEYS, ROWS)[-1].startswith("Left out")


def test_columns_without_anything_go_first(on_screen: Screen) -> None:
    rows = [["a" * 30, "", "b" * 20, "c" * 30]]
    assert on_screen(88, ("one", "two", "three", "four"), rows, least=("three",))[-1].startswith("Left out: two.")


def test_every_column_is_shown_when_asked_for(on_screen: Screen) -> None:
    wide = on_screen(40, KEYS, ROWS, choice=Choice(is_wide=True))
    assert (wide[0].split(), len(wide)) == (list(KEYS), 1 + len(ROWS))
    chosen = on_screen(40, KEYS, ROWS, choice=Choice(columns=("state", "id")))
    assert chosen[0].split() == ["state", "id"]
    assert all("Left out" not in line for line in (*wide, *chosen))
    with pytest.raises(InvalidInput, match="no column 'nme' here. Choose of these: id, name, created, state"):
        on_screen(40, KEYS, ROWS, choice=Choice(columns=("nme",)))


def test_a_file_has_a_line_for_each_row_and_facts_are_never_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(KEYS, ROWS)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(ROWS)
    assert all(cell in line for line, row in zip(lines[1:], ROWS, strict=True) for cell in row)
    print_facts([("address", "https://" + "a" * 300)])
    assert "a" * 300 in capsys.readouterr().out


def test_every_command_with_a_table_has_its_options(program: Program) -> None:
    found = {path for name in COMMANDS for path in table_commands(name, load(name))}
    assert found == TABLES
    program("users", "create", "alice")
    assert program("users", "list", "--columns", "name,kind").text.splitlines()[-1].split() == ["alice", "user"]
    refused = program("users", "list", "--columns", "name,knd")
    assert (refused.code, refused.output) == (1, b"")
    assert "Choose of these: id, name, kind" in refused.errors
    assert "tenant" in program("users", "list").text  # the choice ends with its command


def test_the_program_fits_a_terminal(program: Program, folder: Path) -> None:
    program("users", "create", "alice")
    for name in ("laptop", "a phone with a name of several words"):
        program("keys", "create", "--user", "alice", "--name", name)
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "dumb"}
    ended = subprocess.run(
        [sys.executable, "-m", "embedgate", "keys", "list"], stdout=theirs, env=environment, check=True, cwd=folder
    )
    os.close(theirs)
    printed = b""
    while not printed.endswith(b"chooses.\r\n"):
        printed += os.read(ours, 65_536)
    os.close(ours)
    assert ended.returncode == 0
    assert max(map(len, printed.decode().splitlines())) <= 80
