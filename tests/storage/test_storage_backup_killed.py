"""kill -9 at every step of a backup and of a restore: nothing is lost, and the next attempt goes through.

A child for each step: it ends itself at the n-th change that it makes to the names of files.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from forms import scaled
from waiting import PATIENCE_S

STRIDE = scaled(11, 1)
"""Every so many-th step is tried, in the short form."""

_STEPS = """
import os, shutil, signal, sys
from pathlib import Path

from embedgate.cli.main import run
from embedgate.core.errors import ConfigError
from embedgate.storage.database import open_database
from embedgate.wiring import backup
from embedgate.storage.schema import users
import sqlalchemy as sa

os.environ["EMBEDGATE_DATA_DIR"] = "data"
null = os.open(os.devnull, os.O_WRONLY)
DATA, KEPT = Path("data"), Path("kept")

def child(arguments, step=0):
    pid = os.fork()
    if not pid:
        os.dup2(null, 1)
        os.dup2(null, 2)
        left = step
        def count(event, values):
            nonlocal left
            if event in ("os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.truncate") or (
                event == "open" and isinstance(values[2], int) and values[2] & os.O_CREAT
            ):
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
        if step:
            sys.addaudithook(count)
        try:
            run(arguments)
        except SystemExit as ended:
            os._exit(ended.code)
    status = os.waitpid(pid, 0)[1]
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)

def names(folder):
    database = open_database(folder)
    with database.read() as connection:
        found = sorted(connection.execute(sa.select(users.c.name)).scalars())
    database.close()
    return found

def everywhere():
    return [names(path.parent) for path in (DATA / "embedgate.db", *DATA.glob("replaced-*/embedgate.db"))]

assert child(["users", "create", "old"]) == 0
(DATA / "collections").mkdir()
assert child(["backup", "a.zip", "--with-keys"]) == 0
assert child(["users", "create", "new"]) == 0
(DATA / "cache").mkdir(exist_ok=True)
(DATA / "cache" / "file").write_text("vectors")
(DATA / "intents").mkdir(exist_ok=True)
shutil.copytree(DATA, KEPT)

def restores(step):
    shutil.rmtree(DATA)
    shutil.copytree(KEPT, DATA)
    ended = child(["restore", "a.zip", "--replace"], step)
    at_once = names(DATA)
    assert at_once in (["new", "old"], ["old"]), (step, at_once)
    assert ["new", "old"] in everywhere(), (step, everywhere())
    files = [path for path in DATA.rglob("file") if path.read_text() == "vectors"]
    assert len(files) == 1, (step, files)
    if ended:
        assert ended == -signal.SIGKILL, (step, ended)
        assert child(["restore", "a.zip", "--replace"]) == 0, step
        assert names(DATA) == ["old"]
        assert ["new", "old"] in everywhere(), (step, everywhere())
    left = [path.name for path in DATA.iterdir() if path.name.startswith(".")]
    assert not left, (step, left)
    return ended

def backups(step):
    Path("b.zip").unlink(missing_ok=True)
    ended = child(["backup", "b.zip"], step)
    if ended:
        assert ended == -signal.SIGKILL, (step, ended)
        assert not Path("b.zip").exists() or child(["restore", "b.zip", "--check"]) == 0, step
        assert child(["backup", "b.zip", "--overwrite"]) == 0, step
    assert child(["restore", "b.zip", "--check"]) == 0, step
    assert not [path for path in Path().iterdir() if path.name.startswith(".")]
    return ended

stride = int(sys.argv[1])
for attempt in (restores, backups):
    step = stride
    while attempt(step):
        step += stride
    print(attempt.__name__, step)
"""


@pytest.mark.hostile
def test_a_kill_at_any_step_of_a_backup_or_a_restore_loses_nothing(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _STEPS, str(STRIDE)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=5 * PATIENCE_S,
    )
    assert ended.returncode == 0, ended.stderr
    steps = dict(line.split() for line in ended.stdout.splitlines())
    assert int(steps["restores"]) > 15
    assert int(steps["backups"]) > 4
