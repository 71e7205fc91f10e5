"""Vulnerability audit of every locked dependency, for `make audit`.

Exits with 0 without known vulnerabilities, with 1 if there are some, with 2 if the lock file cannot be read. If the
vulnerability database (OSV) cannot be reached, it says so and exits with 0, because a build must not depend on an
external service. Options are passed on to pip-audit:
`make audit ARGS="--ignore-vuln ID"`.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

LOCK_FILE = Path(__file__).parents[1] / "requirements.lock"
ANSWER_TIMEOUT_S = 30
"""For each answer of the database."""
_TOTAL_TIMEOUT_S = 300
_VULNERABLE = 1
_UNREADABLE = 2


def audit(lock_file: Path, options: Sequence[str] = (), *, answer_timeout_s: int = ANSWER_TIMEOUT_S) -> int:
    """Audit one lock file and print the result. Returns the exit code."""
    source = ["--requirement", str(lock_file), "--require-hashes", "--disable-pip"]
    readable = _pip_audit(*source, "--dry-run")
    if readable.returncode != 0:
        _say(f"audit: {lock_file} cannot be read: {_last_line(readable.stderr)}")
        return _UNREADABLE
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        found = ["--format", "json", "--output", str(report), "--timeout", str(answer_timeout_s)]
        asked = _pip_audit(*source, *found, *options)
        # Its exit code is 1 for vulnerabilities and for any failure; only the report tells which.
        if not report.exists():
            _say(f"audit: COULD NOT RUN, so nothing is known of vulnerabilities: {_last_line(asked.stderr)}")
            return 0
        dependencies = json.loads(report.read_bytes())["dependencies"]
    vulnerable = list(_vulnerabilities(dependencies))
    _say(*vulnerable, f"audit: {len(vulnerable)} known vulnerabilities in {len(dependencies)} packages")
    return _VULNERABLE if vulnerable else 0


def _pip_audit(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pip_audit", "--vulnerability-service", "osv", "--progress-spinner", "off"]
    try:
        return subprocess.run(
            [*command, *arguments], capture_output=True, text=True, check=False, timeout=_TOTAL_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"it took more than {_TOTAL_TIMEOUT_S} seconds")


def _vulnerabilities(dependencies: Sequence[Any]) -> Iterator[str]:
    for dependency in dependencies:
        for vulnerability in dependency.get("vulns", ()):
            names = ", ".join([vulnerability["id"], *vulnerability["aliases"]])
            mended = ", ".join(vulnerability["fix_versions"]) or "no version yet"
            yield f"{dependency['name']} {dependency['version']}: {names}; mended in {mended}"


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2] or "it gave no reason"


def _say(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    sys.exit(audit(LOCK_FILE, sys.argv[1:]))
