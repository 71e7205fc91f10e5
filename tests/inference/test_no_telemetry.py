"""Libraries for local models report to nobody."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from waiting import PATIENCE_S

_USED = {
    "encoder": "from embedgate.inference.encoder import session_options; session_options(threads=1)",
    "index": "from embedgate.toolkit.collections.index_files import usearch; usearch()",
}


@pytest.mark.parametrize("used", _USED.values(), ids=list(_USED))
def test_the_engine_of_local_models_reports_to_nobody(used: str, tmp_path: Path) -> None:
    """Its reports would wait in files of the home folder until they are sent."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    ended = subprocess.run([sys.executable, "-c", used], env=environment | {"HOME": str(tmp_path)}, timeout=PATIENCE_S)
    assert ended.returncode == 0
    assert list(tmp_path.rglob("*")) == []
