"""A disk that is full while texts are added: a sentence, an exit code, and nothing lost that was reported."""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from forms import scaled
from program import Program

pytestmark = pytest.mark.usefixtures("fake_only")

N_FIRST, N_MORE = 100, 700


@pytest.mark.hostile
@pytest.mark.parametrize("kind", scaled(["sqlite"], ["sqlite", "lancedb"]))
def test_what_was_added_before_the_disk_was_full_is_kept(program: Program, folder: Path, kind: str) -> None:
    place = f"{kind}:there"
    (folder / "first.txt").write_text("".join(f"first {number}\n" for number in range(N_FIRST)))
    (folder / "more.txt").write_text("".join(f"more {number} {'of this ' * 80}\n" for number in range(N_MORE)))
    assert program("index", "create", "c", "--dimensions", "64", "--store", place).code == 0
    assert program("index", "add", "c", "first.txt", "--store", place).code == 0
    largest = max(file.stat().st_size for file in (folder / "there").rglob("*") if file.is_file())
    most_bytes = largest + 400_000 if kind == "sqlite" else 60_000  # of a file: LanceDB writes new ones

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    ended = subprocess.run(
        [sys.executable, "-m", "embedgate", "index", "add", "c", "more.txt", "--store", place],
        preexec_fn=limit,
        # Imports would leave cut files behind, and the measuring of coverage would fail at its end.
        env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
        | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "Traceback" not in ended.stderr
    assert f"error: there/c.{'collection' if kind == 'sqlite' else 'lancedb'}: " in ended.stderr
    kept = re.search(r"failed after ([\d,]+) of", ended.stderr)
    n_reported = int(kept[1].replace(",", "")) if kept else 0
    (listed,) = json.loads(program("index", "list", "--store", place, "--json").output)
    assert N_FIRST + n_reported <= listed["texts"] < N_FIRST + N_MORE
    assert (
        program("search", "c", "first 7", "-k", "1", "--store", place).text.splitlines()[1].split()[2] == "first.txt:8"
    )
    again = program("index", "add", "c", "more.txt", "--store", place)
    assert f"{N_FIRST + N_MORE - listed['texts']:,} new" in again.text
    assert f"c has {N_FIRST + N_MORE:,} texts" in again.text
