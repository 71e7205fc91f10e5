"""Pull of a model from a hub into a folder: the files that it needs, each checked, and the folder whole or not at all.

Files come into a folder of their own beside the target, which one rename puts in place at the end. A run that is killed
leaves it, and the next one goes on there.
"""

import asyncio
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from embedgate.core.errors import ConfigError, InvalidInput, UpstreamBusy, UpstreamError
from embedgate.inference.available import NAME_RULE, has_engine, is_free_name
from embedgate.inference.download import PARTIAL, Patience, Sleep, download
from embedgate.inference.folder_models import from_folder
from embedgate.inference.hub_files import (
    HubFile,
    check_id,
    find_commit,
    list_files,
    small_files,
    weights_choices,
    weights_files,
)
from embedgate.inference.manifest import MANIFEST_FILE, PULLED_FOLDER, Manifest, PulledFile, check_files, read_manifest
from embedgate.inference.model_folder import TOKENIZER_FILE, read_model_folder
from embedgate.settings import LocalModelSettings, LocalSettings
from embedgate.transport.hub import Hub

_LOCK_DIGITS = 12
_PARALLEL = 3
"""Downloads at a time: enough to fill a line while small files wait for answers, and few for a hub."""


class Progress(Protocol):
    """Told how a pull goes on."""

    def begin(self, files: Sequence[HubFile]) -> None:
        """These are the next files."""
        ...

    def report(self, path: str, size_bytes: int) -> None:
        """So many bytes of a file are there."""
        ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to pull. into: the folder; the one of pulled models if None. weights: the file to run; chosen if None.

    digest: that the manifest must have. name: of the local model; made of the id if None.
    """

    model: str
    revision: str = "main"
    into: Path | None = None
    name: str | None = None
    weights: str | None = None
    digest: str | None = None
    max_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Pulled:
    """What was pulled: the name of the local model, its folder and manifest. is_new: whether it was not there."""

    name: str
    folder: Path
    manifest: Manifest
    is_new: bool
    is_tried: bool


@dataclass(slots=True)
class Pull:
    """One pull. The folder of the data, and the settings of local models, are those of the gateway."""

    hub: Hub
    wanted: Wanted
    settings: LocalSettings
    data_dir: Path
    progress: Progress
    sleep: Sleep = asyncio.sleep
    name: str = field(init=False)
    target: Path = field(init=False)

    def __post_init__(self) -> None:
        """Check what is wanted. Raises InvalidInput."""
        check_id(self.wanted.model)
        self.name = self.wanted.name or _name_of(self.wanted.model)
        if not is_free_name(self.name):
            raise InvalidInput(
                f"{self.name!r} cannot be the name of the model: {NAME_RULE}. Give another with --name.", param="name"
            )
        into = self.wanted.into
        self.target = (self.data_dir / PULLED_FOLDER / self.name) if into is None else into.expanduser().absolute()

    async def run(self) -> Pulled:
        """Pull the model, unless the same is there.

        Raises ConfigError if the folder belongs to something else or the model cannot be run here, what `find_commit`
        and `download` raise, and InvalidInput if the files are too large or the digest is another.
        """
        parent = self.target.parent
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(self.data_dir / PULLED_FOLDER, self.target):
            self._restore()
            before = self._manifest_there()
            if before is not None and before.digest == self.wanted.digest and before.model == self.wanted.model:
                return Pulled(self.name, self.target, before, is_new=False, is_tried=False)  # needs no network
            commit = await self._commit()
            is_same = before is not None and before.commit == commit and before.model == self.wanted.model
            if is_same and before is not None and self.wanted.weights in (None, before.weights):
                self._check_digest(before)
                return Pulled(self.name, self.target, before, is_new=False, is_tried=False)
            part = self._part(commit)
            manifest = await self._fetch(part, commit)
            self._check_digest(manifest)
            is_tried = self._try(part)
            self._publish(part)
            return Pulled(self.name, self.target, manifest, is_new=True, is_tried=is_tried)

    def _part(self, commit: str) -> Path:
        """The folder in which the files of a commit are gathered; those of other commits are deleted."""
        part = self.target.parent / f".{self.target.name}.{commit[:12]}.part"
        for other in self.target.parent.glob(f".{self.target.name}.{'[0-9a-f]' * 12}.part"):
            if other != part:
                shutil.rmtree(other)
        part.mkdir(mode=0o700, exist_ok=True)
        return part

    async def _fetch(self, part: Path, commit: str) -> Manifest:
        files = await self._list(commit)
        choices = weights_choices(files, self.wanted.weights)
        small = small_files(files)
        if not any(file.path == TOKENIZER_FILE for file in small):
            raise ConfigError([f"{self.wanted.model} has no {TOKENIZER_FILE}, so it cannot be run here"])
        fetched = await self._download(part, commit, small)
        weights = _first_that_runs(part, choices)
        large = weights_files(files, weights)
        self._check_size([*small, *large])
        fetched += await self._download(part, commit, [file for file in large if file not in small])
        _drop_others(part, {file.path for file in fetched})
        manifest = Manifest(self.wanted.model, commit, self.hub.url, weights, tuple(sorted(fetched, key=_path)))
        (part / MANIFEST_FILE).write_bytes(manifest.encoded())
        return manifest

    async def _commit(self) -> str:
        patience = Patience(self.sleep)
        while True:
            try:
                return await find_commit(self.hub, self.wanted.model, self.wanted.revision)
            except UpstreamBusy as error:  # any other fault is said at once: nothing has been begun yet
                await patience.wait_or_raise(error)

    async def _list(self, commit: str) -> list[HubFile]:
        patience = Patience(self.sleep)
        while True:
            try:
                return await list_files(self.hub, self.wanted.model, commit)
            except UpstreamError as error:
                await patience.wait_or_raise(error)

    async def _download(self, part: Path, commit: str, files: Sequence[HubFile]) -> list[PulledFile]:
        self._check_size(files)
        self._check_space(part, files)
        self.progress.begin(files)
        places = asyncio.Semaphore(_PARALLEL)

        async def one(file: HubFile) -> PulledFile:
            place = part / file.path
            place.parent.mkdir(parents=True, exist_ok=True)
            path = f"/{self.wanted.model}/resolve/{commit}/{file.path}"
            async with places:
                return await download(self.hub, path, file, place, report=self.progress.report, sleep=self.sleep)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(file)) for file in files]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    def _check_size(self, files: Sequence[HubFile]) -> None:
        size_bytes = sum(file.size_bytes for file in files)
        limit = self.wanted.max_bytes or self.settings.max_model_bytes
        if size_bytes > limit:
            raise InvalidInput(
                f"{self.wanted.model} has {size_bytes} bytes; at most {limit} are downloaded (--max-bytes, "
                "local.max_model_bytes)."
            )

    def _check_space(self, part: Path, files: Sequence[HubFile]) -> None:
        there = sum(_size(part / file.path) + _size(part / (file.path + PARTIAL)) for file in files)
        needed, free = sum(file.size_bytes for file in files) - there, shutil.disk_usage(part).free
        if needed > free:
            raise InvalidInput(
                f"{part.parent} has room for {free} bytes, and {needed} more are needed. Free some, or choose another "
                "disk with --into."
            )

    def _check_digest(self, manifest: Manifest) -> None:
        if self.wanted.digest not in (None, manifest.digest):
            raise InvalidInput(
                f"The manifest of {manifest.model} at {manifest.commit} has digest {manifest.digest}, not "
                f"{self.wanted.digest}. Nothing was changed.",
                param="digest",
            )

    def _try(self, part: Path) -> bool:
        """Load the model as the gateway does: none is put in place that cannot run. False without the engine."""
        if not has_engine():
            return False
        entry = LocalModelSettings(path=part)
        model = from_folder(self.name, entry, self.settings, self.data_dir)
        model.load_tokenizer()
        model.load_engine()
        return True

    def _manifest_there(self) -> Manifest | None:
        """The manifest of what is in the target, if it is whole. Raises ConfigError if it is something else."""
        if not self.target.exists() or (self.target.is_dir() and not any(self.target.iterdir())):
            return None
        try:
            manifest = read_manifest(self.target)
        except ConfigError:
            manifest = None
            if not (self.target / MANIFEST_FILE).is_file():
                raise
        else:
            if manifest is None:
                raise ConfigError(
                    [f"{self.target} is there and was not pulled: take it away, or choose another folder"]
                )
        try:
            if manifest is not None:
                check_files(self.target, manifest, is_all=True)
        except ConfigError:
            return None
        return manifest

    def _publish(self, part: Path) -> None:
        old = self._old()
        if self.target.exists():
            self.target.rename(old)
        part.rename(self.target)
        _sync(self.target.parent)
        if old.exists():
            shutil.rmtree(old)

    def _restore(self) -> None:
        """Undo what a run that was killed between two renames has left."""
        old = self._old()
        if old.exists():
            if self.target.exists():
                shutil.rmtree(old)
            else:
                old.rename(self.target)

    def _old(self) -> Path:
        return self.target.parent / f".{self.target.name}.old"


def _name_of(model: str) -> str:
    return re.sub(r"[^a-z0-9._-]", "-", model.rpartition("/")[2].lower())[:64]


def _first_that_runs(part: Path, choices: Sequence[str]) -> str:
    """The first weights that the folder's own files allow. Raises ConfigError of the first if none are."""
    refused: ConfigError | None = None
    for weights in choices:
        try:
            read_model_folder(part, weights)
        except ConfigError as error:
            refused = refused or error
        else:
            return weights
    raise refused or ConfigError([f"{part} has nothing that can be run"])


def _drop_others(part: Path, wanted: set[str]) -> None:
    for file in part.rglob("*"):
        if file.is_file() and file.relative_to(part).as_posix() not in wanted:
            file.unlink()


def _path(file: PulledFile) -> str:
    return file.path


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


@contextmanager
def _locked(folder: Path, target: Path) -> Iterator[None]:
    """Hold the lock of a target, in the folder of pulled models wherever the target is."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = hashlib.sha256(str(target).encode()).hexdigest()[:_LOCK_DIGITS]
    with (folder / f".{name}.lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError([f"another run pulls into {target} already"]) from error
        yield


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
