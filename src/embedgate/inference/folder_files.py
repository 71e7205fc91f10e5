"""Files of one model folder: found inside it, of bounded size, read as JSON with the file named in every error."""

from pathlib import Path, PurePosixPath
from typing import TypeVar

import msgspec

from embedgate.core.errors import ConfigError

MAX_JSON_BYTES = 64 * 2**20
"""Of one JSON file. The largest in use are tokenizers of 33 MB."""

_Parsed = TypeVar("_Parsed")


class FolderFiles:
    """Files of a model folder, by their paths in it with `/`. Nothing is read before it is asked for."""

    def __init__(self, path: Path) -> None:
        """path: the folder, which need not exist."""
        self.path = path

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return (self.path / name).is_file()

    def file(self, name: str, max_bytes: int, *, may_lead_out: bool = False) -> Path:
        """The path of a file that is there, is a regular file, and has at most `max_bytes`.

        may_lead_out: whether the operator may have put a link to a file elsewhere. What other files of the folder name
        may not lead out of it, except into the cache of a hub, whose folders are made of links to its own blobs.
        Raises ConfigError naming the file.
        """
        file = self._place(name)
        try:
            if not file.is_file():
                fault = "is no regular file" if file.exists() else "does not exist"
                raise ConfigError([f"{file} {fault}"])
            if not may_lead_out:
                self._refuse_outside(file)
            size_bytes = file.stat().st_size
        except (OSError, RuntimeError) as error:  # a RuntimeError is a loop of links
            raise ConfigError([f"{file} cannot be read: {getattr(error, 'strerror', None) or error}"]) from error
        if size_bytes > max_bytes:
            raise ConfigError([f"{file} has {size_bytes} bytes; at most {max_bytes} are read"])
        return file

    def read(self, name: str, max_bytes: int) -> bytes:
        """The content of a file that does not lead out of the folder. Raises ConfigError."""
        file = self.file(name, max_bytes)
        try:
            with file.open("rb") as stream:
                content = stream.read(max_bytes + 1)  # it may have grown since
        except OSError as error:
            raise ConfigError([f"{file} cannot be read: {error.strerror or error}"]) from error
        if len(content) > max_bytes:
            raise ConfigError([f"{file} has more than {max_bytes} bytes, which is all that is read"])
        return content

    def json(self, name: str, kind: type[_Parsed], *, may_lead_out: bool = True) -> _Parsed | None:
        """The parsed file, None if it does not exist. Raises ConfigError naming the file."""
        if not self._place(name).exists():
            return None
        file = self.file(name, MAX_JSON_BYTES, may_lead_out=may_lead_out)
        try:
            return msgspec.json.decode(file.read_bytes(), type=kind)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError([f"{file} cannot be read: {error.strerror or error}"]) from error
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigError([f"{file}: {error}"]) from error

    def _place(self, name: str) -> Path:
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or "\\" in name or "\0" in name:
            raise ConfigError([f"{self.path}: {name!r} leads out of the folder; only files inside it are read"])
        return self.path / name

    def _refuse_outside(self, file: Path) -> None:
        root, real = self.path.resolve(), file.resolve()
        if real.is_relative_to(root):
            return
        blobs = root.parent.parent / "blobs"
        if root.parent.name == "snapshots" and real.parent == blobs:
            return
        raise ConfigError([f"{file} is a link that leads out of the folder, to {real}; put the file itself there"])
