"""Targets of the load: the upstream itself, for comparison, and the gateway as a user would run it.

A target is an address with the headers that a request needs. Peers are in `peers.py`.
"""

import contextlib
import http.client
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from bench import rules, upstream
from bench.processes import Cores, Program, free_port, program
from bench.texts import Encoding, Texts, bodies
from embedgate import config
from embedgate.core.errors import UpstreamGarbled
from embedgate.core.vectors import Vectors, from_base64
from embedgate.core.version import VERSION
from embedgate.settings_reference import fields

START_TIMEOUT_S = 60
ANSWER_TIMEOUT_S = 120
DIRECT = "direct"
OURS = "embedgate"
PATH = "/v1/embeddings"
CACHE_SETTING = "cache.enabled"
BATCHING_SETTING = "providers.<name>.batching"
UPSTREAM_KEY = "sk-of-the-loopback-upstream"
_TOLERANCE = 1e-6


def settings_of(folder: Path, file: Path) -> config.Loaded:
    """Settings of a gateway in this process before the upstream. folder: of its data. file: of its other settings."""
    environment = {
        "EMBEDGATE_DATA_DIR": str(folder / "data"),
        "EMBEDGATE_CONFIG": str(file),
        "EMBEDGATE_LOG__LEVEL": "error",
        "OPENAI_API_KEY": UPSTREAM_KEY,
    }
    return config.load(environment=environment)


class WrongAnswer(Exception):
    """A target's answer differs from the upstream's vectors."""


@dataclass(frozen=True)
class Target:
    """A server of embeddings requests. `program` is None for the upstream without a gateway."""

    name: str
    version: str
    port: int
    model: str
    headers: Mapping[str, str] = field(default_factory=dict)
    program: Program | None = None


@contextlib.contextmanager
def running_upstream(
    cores: Cores, folder: Path, latency_ms: float = 0.0, *, only_floats: bool = False
) -> Iterator[Program]:
    """The upstream of one scenario. latency_ms: how long each of its answers takes. only_floats: it knows no base64."""
    port = free_port()
    command = [sys.executable, "-m", "bench.upstream", "--port", str(port), "--latency-ms", str(latency_ms)]
    command += ["--only-floats"] if only_floats else []
    with program(command, port, folder / "upstream.log", cores=cores.upstream, timeout_s=START_TIMEOUT_S) as running:
        yield running


def direct(running: Program) -> Target:
    """The upstream, called directly."""
    return Target(DIRECT, VERSION, running.port, upstream.MODEL)


def has_setting(path: str) -> bool:
    """Whether this version of the gateway knows a setting, given as `section.field`."""
    return any(known.path == path for known in fields())


@contextlib.contextmanager
def embedgate(
    folder: Path,
    cores: Cores,
    settings: str,
    model: str,
    name: str = OURS,
    *,
    has_rules: bool = False,
    checkout: Path | None = None,
) -> Iterator[Target]:
    """The gateway with the given TOML settings, the first user's key, its ledger and its checks.

    has_rules: with policies, limits and budgets in force. checkout: of another version, with its environment; this one
    if absent. Raises NotStarted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    file = folder / "embedgate.toml"
    file.write_text(settings, encoding="utf-8")
    python = str(checkout / ".venv/bin/python") if checkout else sys.executable
    command = [python, "-m", "embedgate", "serve", "--port", str(port), "--data-dir", str(folder)]
    # Nothing of the caller's environment: its settings and keys are not part of the measurement.
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "OPENAI_API_KEY": UPSTREAM_KEY}
    with program(
        [*command, "--config", str(file)],
        port,
        folder / "gateway.log",
        cores=cores.gateway,
        timeout_s=START_TIMEOUT_S,
        environment=environment,
    ) as running:
        key = (folder / "user.key").read_text(encoding="utf-8").strip()
        if has_rules:
            rules.put_in_force(folder)
        yield Target(name, VERSION, port, model, {"authorization": f"Bearer {key}"}, running)


def forwarding(upstream_port: int, provider_settings: str = "", switch: tuple[str, bool] | None = None) -> str:
    """TOML of a gateway whose only provider is the upstream.

    provider_settings: further lines for the provider. switch: a setting as `section.field`, or as
    `providers.<name>.field` for one of the provider, and its value; left out if this version does not know it.
    """
    # The embedded model is off, as the peers have none that would count against their memory.
    lines = ["[providers.local]", "enabled = false", "[providers.openai]"]
    lines += [f'base_url = "http://127.0.0.1:{upstream_port}/v1"', provider_settings]
    if switch is not None and has_setting(switch[0]):
        section, _, field_name = switch[0].rpartition(".")
        lines += [] if section == "providers.<name>" else [f"[{section}]"]
        lines.append(f"{field_name} = {str(switch[1]).lower()}")
    return "\n".join(lines) + "\n"


def ask(target: Target, body: bytes) -> bytes:
    """One request outside any measurement. Returns the answer's body. Raises WrongAnswer unless it succeeds."""
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=ANSWER_TIMEOUT_S)
    try:
        connection.request("POST", PATH, body, {"content-type": "application/json", **target.headers})
        response = connection.getresponse()
        content = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise WrongAnswer(f"no answer: {error!r}") from error
    finally:
        connection.close()
    if response.status != 200:
        raise WrongAnswer(f"status {response.status}: {content[:200].decode(errors='replace')}")
    return content


def verify(target: Target, inputs: int, encoding: Encoding, first_number: int) -> None:
    """Ask for fresh texts and compare every vector with the upstream's. Raises WrongAnswer saying what is different."""
    request = next(bodies(Texts(inputs=inputs, first_number=first_number), target.model, encoding))
    answer = ask(target, request)
    try:
        _compare(orjson.loads(answer)["data"], inputs, encoding)
    except (ValueError, KeyError, TypeError, UpstreamGarbled) as error:
        raise WrongAnswer(f"an answer that cannot be read: {error!r}") from error


def _compare(data: list[dict[str, Any]], inputs: int, encoding: Encoding) -> None:
    if [item["index"] for item in data] != list(range(inputs)):
        raise WrongAnswer(f"{len(data)} vectors, or out of order, for {inputs} inputs")
    wanted: type = str if encoding == "base64" else list
    if not all(isinstance(item["embedding"], wanted) for item in data):
        raise WrongAnswer(f"vectors of another form than {encoding}")
    rows = [_row(item["embedding"]) for item in data]
    if any(len(row) != upstream.DIM for row in rows):
        raise WrongAnswer(f"vectors of another size than {upstream.DIM}")
    expected = upstream.vectors()[np.arange(inputs) % upstream.DISTINCT]
    worst = float(np.abs(np.stack(rows) - expected).max())
    if worst > _TOLERANCE:
        raise WrongAnswer(f"vectors other than the upstream's, by up to {worst:g}")


def _row(embedding: str | list[float]) -> Vectors:
    if isinstance(embedding, str):
        return from_base64(embedding)
    return np.array(embedding, dtype=np.float32)
