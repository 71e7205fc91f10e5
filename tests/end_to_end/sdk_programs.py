"""Runs the programs of tests/sdk, each with the packages of its SDK, and reads what they got from the gateway.

The Python SDKs live in an environment of their own under .tools, made from their own lock file and kept until that
changes. Those of node are installed by `make test`. Where packages cannot be had, tests skip and say why; in continuous
integration they fail.
"""

import base64
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import openai
import pytest

from embedgate.core.vectors import Vectors
from running import RunningGateway, clean_environment
from upstream import Upstream

ROOT = Path(__file__).parents[2]
NODE_FOLDER = ROOT / "tests" / "sdk" / "node"
PYTHON_FOLDER = ROOT / "tests" / "sdk" / "python"
UV = ROOT / ".tools" / "bin" / "uv"

INSTALL_TIMEOUT_S = 1000
RUN_TIMEOUT_S = 600
_SAID_WHEN_OFFLINE = ("error sending request", "network was disabled")
_OFFLINE = {
    "ANONYMIZED_TELEMETRY": "False",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "MEM0_TELEMETRY": "False",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it asks a public host for prices
}
_FROM_SOURCE = ("pybars4", "pymeta3")
"""Of Semantic Kernel: there are no wheels of them."""

MAX_INPUTS = 2048
"""How many texts fit into one request."""

MODELS = {"local/all-minilm-l6-v2": 384, "openai/text-embedding-3-small": 1536}
"""The models that every program asks for, and the length of their vectors."""


@dataclass(frozen=True)
class Answer:
    """What a program got. `vectors`: by way to ask, then by model, (n, d). `failures`: by way, then by mistake.

    `strangers`: the hosts other than this machine that it tried to reach, where it can tell.
    """

    vectors: Mapping[str, Mapping[str, Vectors]]
    failures: Mapping[str, Mapping[str, str]]
    strangers: Sequence[str]


def unavailable(reason: str) -> NoReturn:
    """Skip the test, or fail it in continuous integration, where everything must run."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def node_with(package: str) -> str:
    """The node that can run programs which import `package`."""
    node = shutil.which("node")
    if node is None or not (NODE_FOLDER / "node_modules" / package).is_dir():
        unavailable("node, or its packages in tests/sdk/node, are not here: install node and npm, then `make test`")
    return node


def python_with_sdks(locked: str = "requirements") -> Path:
    """The interpreter of the environment that holds the Python SDKs, which is made now if it is not there.

    locked: name of the lock file in tests/sdk/python.
    """
    if not UV.is_file():
        unavailable("the Python SDKs are installed with uv, which is not here: `make test` brings it")
    environment, lock_file = ROOT / ".tools" / f"sdk-python-{locked}", PYTHON_FOLDER / f"{locked}.lock"
    python = environment / "bin" / "python"
    wanted = hashlib.sha256(lock_file.read_bytes() + sys.version.encode()).hexdigest()
    stamp = environment / ".installed"
    with environment.with_suffix(".lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)  # another run of the tests may be at it
        if not stamp.is_file() or stamp.read_text() != wanted:
            _uv("venv", "--clear", "--python", sys.executable, str(environment))
            install = ["pip", "sync", "--python", str(python), "--require-hashes", "--only-binary", ":all:"]
            install += [option for name in _FROM_SOURCE for option in ("--no-binary", name)]
            _uv(*install, str(lock_file))
            stamp.write_text(wanted)
    return python


def _uv(*arguments: str) -> None:
    command = [str(UV), "--system-certs", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=INSTALL_TIMEOUT_S)
    if any(said in done.stderr for said in _SAID_WHEN_OFFLINE):
        unavailable("the Python SDKs cannot be installed: the package index cannot be reached")
    assert done.returncode == 0, done.stderr


def ask_with_python(python: Path, program: str, texts: Sequence[str], served: RunningGateway, home: Path) -> Answer:
    """Have a program of tests/sdk/python embed the texts. Its SDK keeps files of its own in `home`."""
    environment = clean_environment(HOME=str(home), **_OFFLINE)
    return _ask([str(python), "answer.py", program], PYTHON_FOLDER, texts, served, environment)


def ask_with_node(node: str, program: str, texts: Sequence[str], served: RunningGateway) -> Answer:
    """Have a program of tests/sdk/node embed the texts."""
    return _ask([node, program], NODE_FOLDER, texts, served, clean_environment())


def _ask(
    command: Sequence[str], folder: Path, texts: Sequence[str], served: RunningGateway, environment: Mapping[str, str]
) -> Answer:
    job = {"base_url": f"{served.url}/v1", "key": served.key, "models": list(MODELS), "texts": texts}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        input=json.dumps(job),
        capture_output=True,
        check=False,
        text=True,
        timeout=RUN_TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    vectors = {
        way: {model: _unpacked(packed, MODELS[model]) for model, packed in of_models.items()}
        for way, of_models in found["vectors"].items()
    }
    return Answer(vectors, found["failures"], found.get("strangers", []))


def _unpacked(packed: str, dim: int) -> Vectors:
    return np.frombuffer(base64.b64decode(packed), "<f4").reshape(-1, dim)


def vectors_expected(texts: Sequence[str], sdk: openai.OpenAI) -> dict[str, Vectors]:
    """What each model must give: the far side's own vectors, or those that the OpenAI SDK gets for the model here."""
    local, remote = MODELS
    calls = [texts[start : start + MAX_INPUTS] for start in range(0, len(texts), MAX_INPUTS)]
    items = [item for call in calls for item in sdk.embeddings.create(model=local, input=list(call)).data]
    here = np.array([item.embedding for item in items], np.float32)
    return {local: here, remote: np.stack([Upstream.vector(text, MODELS[remote]) for text in texts])}
