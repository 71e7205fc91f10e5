"""Warnings about secret files that others on the machine can read; never refuses them.

The mode is not always the owner's choice: systems that provide secrets to containers mount them
with a mode of their own.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from embedgate.observe import events
from embedgate.settings import Settings

_IN_DATA_DIR = ("admin.key", "user.key", "secrets.key")


def warn_of_readable(settings: Settings) -> None:
    """Log a warning for each secret file that others can read or change."""
    for path in _files(settings):
        mode = _mode_if_open(path)
        if mode is not None:
            events.SECRET_FILE_READABLE.emit(path=str(path), mode=f"{mode:04o}", mend=f"chmod 600 {path}")


def _files(settings: Settings) -> Iterator[Path]:
    named = [path for entry in settings.providers.values() for path in entry.api_key_file]
    tls_key_file = settings.server.tls_key_file or settings.server.tls_cert_file
    if tls_key_file is not None:
        named.append(tls_key_file)
    yield from (path.expanduser() for path in named)
    data_dir = settings.storage.data_dir.expanduser()
    yield from (data_dir / name for name in _IN_DATA_DIR)


def _mode_if_open(path: Path) -> int | None:
    """The mode of a file if it is too permissive and can be changed; else None."""
    try:
        found = path.stat()
        is_read_only = bool(os.statvfs(path).f_flag & os.ST_RDONLY)  # a read-only mount, as for secrets of containers
    except OSError:
        return None  # the reader of the file reports the error
    mode = stat.S_IMODE(found.st_mode)
    # A file of another owner, such as root, is shared with our group on purpose.
    too_wide = 0o077 if found.st_uid == os.geteuid() else 0o027
    return mode if mode & too_wide and not is_read_only else None
