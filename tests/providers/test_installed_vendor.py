"""A vendor module of another package: found by its entry point, used like ours; a broken one stops the start."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from made_up_vendor import CATALOG, MODULE, NAME
from running import clean_environment
from upstream import Answer, running_upstream

Install = Callable[..., None]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder on the path of `run`, where packages can be installed."""
    return tmp_path / "site"


@pytest.fixture
def install(site: Path) -> Install:
    """Installs a package as pip does. modules: code by dotted name, with `__` for each dot."""

    def put(entry_points: str, distribution: str = "embedgate-acme", **modules: str) -> None:
        info = site / f"{distribution.replace('-', '_')}-1.2.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[embedgate.providers]\n{entry_points}\n")
        for name, code in modules.items():
            file = site.joinpath(*name.split("__")).with_suffix(".py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(code)

    return put


@pytest.fixture
def run(tmp_path: Path, site: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `embedgate` in a process of its own that finds the installed packages."""

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = clean_environment(PYTHONPATH=str(site), ACME_TEST_KEY="k-1", WORDMILL_API_KEY="k-2")
        return subprocess.run(
            [sys.executable, "-m", "embedgate", *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env=environment,
        )

    return call


Run = Callable[..., subprocess.CompletedProcess[str]]


def settings_in(folder: Path, port: int, name: str = NAME) -> None:
    (folder / "models.toml").write_text(CATALOG.replace(NAME, name))
    (folder / "embedgate.toml").write_text(
        f"""
        [storage]
        data_dir = "data"
        [catalog]
        file = "models.toml"
        [providers.local]
        enabled = false
        [providers.{name}]
        base_url = "http://127.0.0.1:{port}/api"
        """
    )


@pytest.mark.parametrize("module", ["embedgate_acme", "acme.vendors.words"])
def test_an_installed_vendor_serves_its_model(install: Install, run: Run, tmp_path: Path, module: str) -> None:
    install(f"acme_made_up = {module}", **{module.replace(".", "__"): MODULE})
    with running_upstream() as upstream:
        settings_in(tmp_path, upstream.port)
        upstream.script(Answer(200, b'{"numbers": [[3.0, 4.0], [0.0, 2.0]]}'))
        ended = run("embed", "--model", "acme/words", "--output", "vectors.npy", "one", "two")
        assert ended.returncode == 0, ended.stderr
        (seen,) = upstream.requests
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), [[0.6, 0.8], [0.0, 1.0]], atol=1e-6)
    assert (seen.path, seen.headers["x-acme-key"], seen.json) == ("/api/vectors", "k-1", {"words": ["one", "two"]})


def test_the_vendor_of_the_page_that_says_how_serves_its_model(install: Install, run: Run, tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "contribute" / "add-a-provider.md"
    (module,) = re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    install("wordmill = embedgate_wordmill", embedgate_wordmill=module)
    with running_upstream() as upstream:
        settings_in(tmp_path, upstream.port, "wordmill")
        upstream.script(Answer(200, b'{"vectors": [[3.0, 4.0]], "billed_tokens": 3}'))
        ended = run("embed", "--model", "acme/words", "--output", "vectors.npy", "one")
        assert ended.returncode == 0, ended.stderr
        (seen,) = upstream.requests
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), [[0.6, 0.8]], atol=1e-6)
    assert (seen.path, seen.headers["x-api-key"], seen.json) == (
        "/api/vectors",
        "k-2",
        {"model": "w", "texts": ["one"]},
    )


@pytest.mark.parametrize(
    ("entry_points", "modules", "expected"),
    [
        (
            "acme = absent",
            {},
            "acme of embedgate-acme 1.2 cannot be imported: ModuleNotFoundError: No module named 'absent'",
        ),
        ("acme = broken", {"broken": "1 / 0"}, "cannot be imported: ZeroDivisionError: division by zero"),
        ("acme = empty", {"empty": ""}, "acme of embedgate-acme 1.2: empty needs HOST, a Host, and provider(host)"),
        ("openai = sound", {"sound": MODULE}, "openai of embedgate-acme 1.2: a provider of that name is built in"),
        ("local = sound", {"sound": MODULE}, "local of embedgate-acme 1.2: a provider of that name is built in"),
    ],
)
def test_a_broken_vendor_is_a_mistake_of_the_settings(
    install: Install, run: Run, entry_points: str, modules: dict[str, str], expected: str
) -> None:
    install(entry_points, **modules)
    ended = run("config", "check")
    assert (ended.returncode, ended.stdout) == (3, "")
    assert expected in ended.stderr
    assert "Traceback" not in ended.stderr


def test_all_broken_vendors_are_told_at_once(install: Install, run: Run) -> None:
    install("one = absent\ntwo = absent")
    install("three = sound", "a-first", sound=MODULE)
    install("three = sound", "a-second")
    told = run("config", "check").stderr
    assert "provider one of" in told
    assert "provider two of" in told
    assert "has the same name; uninstall one of them" in told
