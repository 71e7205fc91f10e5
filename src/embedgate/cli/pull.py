"""`embedgate models pull`: a model from a hub into the data folder, where it is served from the next start on."""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from embedgate.cli.output import print_json

if TYPE_CHECKING:
    from rich.progress import TaskID

    from embedgate.config import Loaded
    from embedgate.inference.hub_files import HubFile
    from embedgate.inference.pull import Pulled, Wanted

_HUB_VARIABLE = "HF_ENDPOINT"
_TOKEN_VARIABLE = "HF_TOKEN"  # noqa: S105 - the name of a variable


def pull(loaded: "Loaded", wanted: "Wanted", hub_url: str | None, *, as_json: bool) -> None:
    """Pull a model and print what to do with it. hub_url: instead of the one of the environment or the settings."""
    from embedgate.inference.pull import Pull
    from embedgate.transport.hub import Hub

    local, data_dir = loaded.settings.local, loaded.settings.storage.data_dir.expanduser()
    url = hub_url or loaded.secrets.variable(_HUB_VARIABLE) or local.hub_url

    async def run() -> "Pulled":
        async with Hub(url, loaded.secrets.variable(_TOKEN_VARIABLE)) as hub:
            with _progress() as progress:
                return await Pull(hub, wanted, local, data_dir, progress).run()

    pulled = asyncio.run(run())
    if as_json:
        print_json(
            {
                "model": f"local/{pulled.name}",
                "path": str(pulled.folder),
                "is_new": pulled.is_new,
                "digest": pulled.manifest.digest,
                "manifest": pulled.manifest,
            }
        )
    else:
        _show(pulled, is_elsewhere=wanted.into is not None)


def _show(pulled: "Pulled", *, is_elsewhere: bool) -> None:
    manifest = pulled.manifest
    size_bytes = sum(file.size_bytes for file in manifest.files)
    state = "is" if pulled.is_new else "is already"
    typer.echo(f"local/{pulled.name} {state} {manifest.model} at commit {manifest.commit}")
    typer.echo(f"{len(manifest.files)} files, {size_bytes:,} bytes, in {pulled.folder}; {manifest.weights} is run")
    typer.echo(f"digest {manifest.digest}  (--digest takes nothing else)")
    if pulled.is_new and not pulled.is_tried:
        typer.echo("It was not tried, since the engine is missing: install embedgate[local]")
    if is_elsewhere:
        typer.echo(f'\nPut this into the settings:\n\n[local.models.{_key(pulled.name)}]\npath = "{pulled.folder}"')
        typer.echo("\nThen try it:")
    else:
        typer.echo("\nTry it; a gateway that runs serves it after a restart:")
    typer.echo(f'embedgate embed --model local/{pulled.name} "some text"')


def _key(name: str) -> str:
    """A name as a key of TOML."""
    return f'"{name}"' if "." in name else name


class _Lines:
    """Progress for what is no terminal: a line for each file that is there."""

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}

    def begin(self, files: Sequence["HubFile"]) -> None:
        """These are the next files."""
        self._sizes |= {file.path: file.size_bytes for file in files}

    def report(self, path: str, size_bytes: int) -> None:
        """So many bytes of a file are there."""
        if size_bytes == self._sizes.get(path):
            del self._sizes[path]
            typer.echo(f"{path}  {size_bytes:,} bytes", err=True)


class _Bars:
    """Progress for a terminal: a bar for each file."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.progress import TransferSpeedColumn as Speed

        columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), Speed(), TimeRemainingColumn()
        self.bars = Progress(*columns, console=Console(stderr=True))
        self._tasks: dict[str, TaskID] = {}

    def begin(self, files: Sequence["HubFile"]) -> None:
        """These are the next files."""
        for file in files:
            self._tasks[file.path] = self.bars.add_task(file.path, total=file.size_bytes)

    def report(self, path: str, size_bytes: int) -> None:
        """So many bytes of a file are there."""
        self.bars.update(self._tasks[path], completed=size_bytes)


@contextmanager
def _progress() -> Iterator[_Lines | _Bars]:
    if not sys.stderr.isatty():
        yield _Lines()
        return
    bars = _Bars()
    with bars.bars:
        yield bars
