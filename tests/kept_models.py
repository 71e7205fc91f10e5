"""Local models that are prepared once for all data folders of the tests: that takes most of the time of a first use."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path


def share_models(data_dir: Path) -> None:
    """Let a data folder, which is made if need be, keep its prepared models where those of all the others are."""
    data_dir.mkdir(parents=True, exist_ok=True)
    folder = data_dir / "models"
    if not folder.exists():
        folder.symlink_to(_shared(), target_is_directory=True)


@functools.cache
def _shared() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="embedgate-models-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
