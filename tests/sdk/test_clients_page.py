"""What docs/clients.md shows stands, line for line, in the programs that are run against the gateway."""

import re
import textwrap
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
PROGRAMS = sorted([*Path(__file__).parent.glob("python/*.py"), *Path(__file__).parent.glob("node/*.mjs")])
INDENTS = ("", "  ", "    ", "        ")
_CODE = re.compile(r"^```(?:python|js)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def pieces() -> list[str]:
    """The code of the page, parted where a line is empty: in a program the parts may stand in several functions."""
    blocks = _CODE.findall(PAGE.read_text(encoding="utf-8"))
    return [piece.strip("\n") + "\n" for block in blocks for piece in block.split("\n\n")]


def test_every_line_of_code_is_run() -> None:
    programs = [f"\n{program.read_text(encoding='utf-8')}" for program in PROGRAMS]
    shown = pieces()
    assert len(shown) > 10
    strange = [
        piece
        for piece in shown
        if not any(f"\n{textwrap.indent(piece, indent)}" in program for indent in INDENTS for program in programs)
    ]
    assert strange == []
