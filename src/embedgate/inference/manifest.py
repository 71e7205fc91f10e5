"""Manifest of a pulled model: where its files came from, at which commit, and the digest of each.

It lies in the folder as `embedgate.json`. Files that are not those of the manifest are not run.
"""

import hashlib
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from embedgate.core.errors import ConfigError
from embedgate.inference.folder_files import FolderFiles
from embedgate.inference.weights import digest_file

MANIFEST_FILE = "embedgate.json"
PULLED_FOLDER = "pulled"
"""Folder in the data folder that holds one folder for each pulled model, named like it."""

_FORMAT = 1

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]


class PulledFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file: its path in the folder, its size, its digest."""

    path: str
    size_bytes: Annotated[int, Meta(ge=0)]
    sha256: Sha256


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of the file. `weights` is the file that is run."""

    model: str
    commit: str
    source: str
    weights: str
    files: tuple[PulledFile, ...]
    format: int = _FORMAT

    @property
    def digest(self) -> str:
        """SHA-256 over the model's id, the commit and the digests of the files, wherever they came from."""
        listed = sorted(f"{file.sha256} {file.size_bytes} {file.path}" for file in self.files)
        return hashlib.sha256("\n".join([self.model, self.commit, self.weights, *listed]).encode()).hexdigest()

    def encoded(self) -> bytes:
        """The file as it is written."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def read_manifest(path: Path) -> Manifest | None:
    """The manifest of a folder, None if it has none: it was not pulled. Raises ConfigError if it is damaged."""
    manifest = FolderFiles(path).json(MANIFEST_FILE, Manifest, may_lead_out=False)
    if manifest is not None and manifest.format != _FORMAT:
        raise ConfigError([f"{path / MANIFEST_FILE} is of format {manifest.format}; this version reads {_FORMAT}"])
    return manifest


def check_files(path: Path, manifest: Manifest, *, is_all: bool) -> None:
    """Check that the files are those of the manifest. is_all: the weights, too, which takes a second per gigabyte.

    Raises ConfigError naming the first that is not.
    """
    files = FolderFiles(path)
    listed = {each.path for each in manifest.files} | {MANIFEST_FILE}
    for found in path.rglob("*"):
        if not found.is_dir() and found.relative_to(path).as_posix() not in listed:
            raise ConfigError([f"{found} does not belong to the model that was pulled: take it away"])
    for each in manifest.files:
        file = files.file(each.path, each.size_bytes)
        is_right = file.stat().st_size == each.size_bytes
        if is_right and (is_all or not each.path.startswith(manifest.weights)):
            is_right = digest_file(file) == each.sha256
        if not is_right:
            raise ConfigError(
                [f"{file} is not the file that was pulled: run `embedgate models pull {manifest.model}` again"]
            )
