"""Peers: other gateways, installed from their registries into a separate folder and run with minimal configuration.

Each forwards embeddings of one model to the loopback upstream, in one process with its defaults. A peer that cannot be
installed or does not start is reported as such, never left out.
"""

import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import orjson

from bench import upstream
from bench.processes import Cores, NotStarted, free_port, program
from bench.targets import UPSTREAM_KEY, Target

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "bench" / ".peers"
LITELLM_VERSION = "1.106.2"
PORTKEY_VERSION = "1.15.2"
# The newest that this Portkey works with; with later ones every request fails (its issue 1389).
_HONO_VERSION = "1.14.1"
_STAMP = "installed"
_INSTALL_TIMEOUT_S = 600
_START_TIMEOUT_S = 120
_UV = ROOT / ".tools" / "bin" / "uv"
_LITELLM_KEY = "sk-of-the-benchmark"


@contextlib.contextmanager
def litellm(folder: Path, cores: Cores, upstream_port: int) -> Iterator[Target]:
    """The LiteLLM proxy, one worker, with its master key and no database: it checks a key and writes no ledger."""
    environment = python_environment("litellm", f"litellm[proxy]=={LITELLM_VERSION}")
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    forwarding = {
        "model": f"openai/{upstream.MODEL}",
        "api_base": f"http://127.0.0.1:{upstream_port}/v1",
        "api_key": UPSTREAM_KEY,
    }
    configuration = {
        "model_list": [{"model_name": upstream.MODEL, "litellm_params": forwarding}],
        "general_settings": {"master_key": _LITELLM_KEY},
        "litellm_settings": {"telemetry": False},
    }
    file = folder / "litellm.yaml"
    file.write_bytes(orjson.dumps(configuration))  # all JSON is YAML
    command = [str(environment / "bin" / "litellm"), "--config", str(file), "--host", "127.0.0.1", "--port", str(port)]
    variables = {
        "PATH": f"{environment / 'bin'}:/usr/bin:/bin",
        "HOME": str(folder),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # its price table otherwise comes from the network
        "LITELLM_LOG": "ERROR",
    }
    with program(
        [*command, "--num_workers", "1"],
        port,
        folder / "litellm.log",
        cores=cores.gateway,
        timeout_s=_START_TIMEOUT_S,
        environment=variables,
    ) as running:
        headers = {"authorization": f"Bearer {_LITELLM_KEY}"}
        yield Target("litellm", LITELLM_VERSION, port, upstream.MODEL, headers, running)


@contextlib.contextmanager
def portkey(folder: Path, cores: Cores, upstream_port: int) -> Iterator[Target]:
    """The open Portkey gateway. It has no keys of its own and no ledger; each request says where to forward it."""
    installed = _install_portkey()
    node = _node()
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    server = installed / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    with program(
        [node, str(server), f"--port={port}", "--headless"],
        port,
        folder / "portkey.log",
        cores=cores.gateway,
        timeout_s=_START_TIMEOUT_S,
        environment={"PATH": "/usr/bin:/bin", "HOME": str(folder)},
    ) as running:
        headers = {
            "authorization": f"Bearer {UPSTREAM_KEY}",
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": f"http://127.0.0.1:{upstream_port}/v1",
        }
        yield Target("portkey", PORTKEY_VERSION, port, upstream.MODEL, headers, running)


Start = Callable[[Path, Cores, int], contextlib.AbstractContextManager[Target]]
PEERS: Mapping[str, Start] = {"litellm": litellm, "portkey": portkey}
ABOUT: Mapping[str, str] = {
    "litellm": "The LiteLLM proxy, one worker, checks its master key; without a database it keeps no ledger.",
    "portkey": "The open Portkey gateway on Node has no keys of its own and no ledger.",
}
"""What each does and does not do beside forwarding; to be said wherever it is compared."""


def python_environment(name: str, *requirements: str) -> Path:
    """A virtual environment of its own with packages of the registry, made the first time. Raises NotStarted."""
    folder = FOLDER / name
    if not _is_installed(folder, requirements):
        uv = str(_UV) if _UV.is_file() else shutil.which("uv")
        if uv is None:
            raise NotStarted(f"{name} cannot be installed: there is no uv; `make bench` brings it")
        _install(name, [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)])
        _install(
            name,
            [
                uv,
                "pip",
                "install",
                "--quiet",
                "--system-certs",
                "--python",
                str(folder / "bin" / "python"),
                *requirements,
            ],
        )
        _note_installed(folder, requirements)
    return folder


def _is_installed(folder: Path, packages: Sequence[str]) -> bool:
    stamp = folder / _STAMP
    return stamp.is_file() and stamp.read_text(encoding="utf-8").split() == list(packages)


def _note_installed(folder: Path, packages: Sequence[str]) -> None:
    (folder / _STAMP).write_text("\n".join(packages), encoding="utf-8")


def _install_portkey() -> Path:
    folder = FOLDER / "portkey"
    packages = [f"@portkey-ai/gateway@{PORTKEY_VERSION}", f"@hono/node-server@{_HONO_VERSION}"]
    if not _is_installed(folder, packages):
        npm = shutil.which("npm")
        if npm is None:
            raise NotStarted("portkey cannot be installed: there is no npm")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        manifest = {
            "dependencies": {"@portkey-ai/gateway": PORTKEY_VERSION},
            "overrides": {"@hono/node-server": _HONO_VERSION},
        }
        (folder / "package.json").write_bytes(orjson.dumps(manifest))
        _install("portkey", [npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder)])
        _note_installed(folder, packages)
    return folder


def _node() -> str:
    node = shutil.which("node")
    if node is None:
        raise NotStarted("portkey cannot be started: there is no node")
    return node


def _install(name: str, command: Sequence[str]) -> None:
    FOLDER.mkdir(exist_ok=True)
    try:
        # Elsewhere, because here the project's own rules would take part in the resolution.
        elsewhere = tempfile.gettempdir()
        done = subprocess.run(
            command, capture_output=True, timeout=_INSTALL_TIMEOUT_S, check=False, text=True, cwd=elsewhere
        )
    except subprocess.TimeoutExpired as error:
        raise NotStarted(f"{name} was not installed within {_INSTALL_TIMEOUT_S} s") from error
    if done.returncode:
        raise NotStarted(f"{name} could not be installed: {done.stderr.strip()[-300:]}")
