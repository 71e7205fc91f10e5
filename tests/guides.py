"""Pages of the documentation as scripts: their commands, what they print, and the files that they show."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from program import Ended, Program

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE_NAME = re.compile(r"`([\w-]+\.\w+)`[^`]*\Z")


class Step(NamedTuple):
    """What a page shows in one place: commands and what they print, None if it does not say."""

    commands: tuple[str, ...]
    printed: str | None


def steps(page: Path, folder: Path) -> Iterator[Step]:
    """The commands of a page. The files that it shows, named just before them, are put into the folder."""
    text = page.read_text(encoding="utf-8")
    commands: tuple[str, ...] = ()
    for fence in _FENCE.finditer(text):
        language, content = fence.groups()
        if language == "sh":
            if commands:
                yield Step(commands, None)
            commands = tuple(content.replace("\\\n", " ").splitlines())
        elif language == "text":
            yield Step(commands, content)
            commands = ()
        elif language != "python" and (name := _FILE_NAME.search(text[: fence.start()])):
            (folder / name[1]).write_text(content, encoding="utf-8")
    if commands:
        yield Step(commands, None)


def run_command(program: Program, folder: Path, command: str) -> Ended:
    """Run a line of shell that calls the program, perhaps with a file as its input or output."""
    words = shlex.split(command)
    stdin = b""
    if "<" in words:
        *words, _, file = words
        stdin = (folder / file).read_bytes()
    if ">" in words:
        *words, _, file = words
        ended = program(*words[1:])
        (folder / file).write_bytes(ended.output)
        return Ended(ended.code, b"", ended.errors)
    return program(*words[1:], stdin=stdin)
