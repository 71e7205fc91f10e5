"""The tests' own PostgreSQL ends with the process that started it, even if that is killed."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from waiting import wait_until

_PROGRAM = """
import sys, time
sys.path[:0] = sys.argv[1:]
from postgres_server import running_postgres
with running_postgres() as address:
    print(address, flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the system tells of a parent's death on Linux only")
@pytest.mark.usefixtures("postgres")  # skips where there is none
def test_a_killed_test_run_leaves_no_server() -> None:
    command = [sys.executable, "-c", _PROGRAM, str(Path(__file__).parents[2])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as tests:
        assert tests.stdout is not None
        address = tests.stdout.readline().strip()
        socket = Path(address.rpartition("host=")[2]) / ".s.PGSQL.5432"
        assert socket.exists()
        tests.kill()
    wait_until("the server takes its socket away", lambda: not socket.exists())
    shutil.rmtree(socket.parent, ignore_errors=True)
