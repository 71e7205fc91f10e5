"""A fuzzer asks every route whatever its description permits, and much that it does not.

`make fuzz` does it at length: EMBEDGATE_FUZZ_EXAMPLES is how many requests of its own each route gets.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from embedgate.providers import fake
from running import RunningGateway, clean_environment, gateway
from wire import call

HERE = Path(__file__).parent
EXAMPLES = int(os.environ.get("EMBEDGATE_FUZZ_EXAMPLES", "2"))
IS_LONG = EXAMPLES > 10
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
SETTINGS = f"""
    [providers.fake]
    enabled = true
    [providers.local]
    enabled = false
    [local]
    default_model = "{fake.models()[0].id}"
"""
ALIASES = """
    [[operations]]
    include-path-regex = "^/(api|openai)/v1/"
    phases.coverage.enabled = false
"""
"""The same routes under further names, whose bodies are the greatest. Only the long form tries all their cases."""


@pytest.mark.timeout(3600 if IS_LONG else 1800)
def test_no_route_fails_or_answers_other_than_described(tmp_path: Path) -> None:
    with gateway(tmp_path, SETTINGS) as running:
        done = fuzz(running)
        assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
        asked = re.search(r"(\d+) generated", done.stdout)
        assert asked
        assert int(asked[1]) > (20_000 if IS_LONG else 2_000), done.stdout[-2_000:]
        assert call(running.url, "/api/me", None, {"x-api-key": running.admin_key}).status == 200
        assert "internal_fault" not in running.log.read_text()


def fuzz(running: RunningGateway) -> subprocess.CompletedProcess[str]:
    config = running.data_dir / "fuzz.toml"
    config.write_text("" if IS_LONG else ALIASES, encoding="utf-8")
    program = str(Path(sys.executable).with_name("schemathesis"))
    command = [program, "--config-file", str(config), "run", f"{running.url}/openapi.json"]
    options = [
        *("--header", f"X-API-Key: {running.admin_key}"),
        *("--checks", CHECKS),
        *("--phases", "examples,coverage,fuzzing,stateful" if IS_LONG else "examples,coverage,fuzzing"),
        *("--max-examples", str(EXAMPLES)),
        *("--warnings", "off"),
        *("--continue-on-failure", "--no-shrink"),
        *("--suppress-health-check", "all"),  # they find a slow machine
        *(() if IS_LONG else ("--seed", "1")),
    ]
    environment = clean_environment(
        SCHEMATHESIS_HOOKS="fuzz_hooks",
        PYTHONPATH=str(HERE),
        EMBEDGATE_FUZZ_PROTECTED=json.dumps(own_names(running)),
        EMBEDGATE_FUZZ_KNOWN=json.dumps(known_names(running)),
    )
    return subprocess.run(
        [*command, *options], cwd=running.data_dir, env=environment, capture_output=True, text=True, check=False
    )


def own_names(running: RunningGateway) -> list[str]:
    """What the fuzzer must leave alone, or it could not go on: its user and its keys."""
    headers = {"x-api-key": running.admin_key}
    me = call(running.url, "/api/me", None, headers).json
    keys = call(running.url, "/api/me/keys", None, headers).json["items"]
    return [me["id"], me["name"], *(key["id"] for key in keys)]


def known_names(running: RunningGateway) -> dict[str, str]:
    """Something that is there, for each parameter of a path."""
    headers = {"x-api-key": running.admin_key}
    assert call(running.url, "/api/roles", {"name": "analyst"}, headers).status == 201
    assert call(running.url, "/api/projects", {"name": "search"}, headers).status == 201
    key = call(running.url, "/api/keys?user=user", None, headers).json["items"][0]["id"]
    return {
        "user": "user",
        "role": "analyst",
        "project": "search",
        "key": key,
        "policy": "permit-everything",
        "subject": "user",
        "provider": "fake",
    }
