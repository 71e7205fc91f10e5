"""`embedgate models verify` on loopback servers that run the embedded model, some of them with a fault."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedgate.core.vectors import Vectors
from embedgate.engine.routing.compare import probes
from embedgate.inference.runtime import LoadedModel, LocalModels
from embedgate.inference.weights import MINILM
from embedgate.settings import LocalModelSettings, LocalSettings
from kept_models import share_models
from program import Program
from running import gateway
from upstream import Upstream, VectorOf, error, running_upstream

pytest.importorskip("onnxruntime", reason="the extra embedgate[local] is not installed")
pytestmark = pytest.mark.skipif(MINILM.folder() is None, reason="the extra embedgate[minilm] is not installed")

DIM = 384
TWIN = "local/all-minilm-l6-v2"
Start = Callable[[str, VectorOf], Upstream]


@pytest.fixture(autouse=True)
def prepared(folder: Path) -> None:
    share_models(folder / "data")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> LocalModels:
    """The embedded model as it is, and as `cls` with the same weights pooled by the first token."""
    installed = MINILM.folder()
    assert installed is not None
    folder = tmp_path_factory.mktemp("cls")
    for file in (installed / "model").iterdir():
        if file.is_file():
            (folder / file.name).symlink_to(file)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    settings = LocalSettings(models={"cls": LocalModelSettings(path=folder)})
    data_dir = tmp_path_factory.mktemp("data")
    share_models(data_dir)
    return LocalModels(settings, data_dir)


@pytest.fixture(scope="module")
def honest(models: LocalModels) -> VectorOf:
    return run_by(models.load("all-minilm-l6-v2"))


def run_by(model: LoadedModel) -> VectorOf:
    def vector_of(item: str | tuple[int, ...], dim: int) -> Vectors:
        assert isinstance(item, str)
        (vector,) = model.engine.embed(model.tokenizer.encode([item]))
        found: Vectors = vector
        return found

    return vector_of


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a server at the name of a provider."""
    with ExitStack() as running:

        def run(name: str, vector_of: VectorOf) -> Upstream:
            upstream = running.enter_context(running_upstream())
            upstream.dim, upstream.vector_of = DIM, vector_of
            return upstream

        yield run


def write_settings(folder: Path, servers: dict[str, Upstream], *, is_twin: bool = True, **routes: str) -> None:
    """Settings under which `acme/encoder` has a route at each server. routes: further fields by provider."""
    space = "sentence-transformers/all-MiniLM-L6-v2" if is_twin else "acme/encoder"
    providers = [f'[providers.{name}]\nbase_url = "{server.base_url}"' for name, server in servers.items()]
    if not is_twin:
        providers.append("[providers.local]\nenabled = false")
    settings = [*providers, '[catalog]\nfile = "models.toml"']
    (folder / "embedgate.toml").write_text("\n".join(settings), encoding="utf-8")
    model = f"""
        [[model]]
        id = "acme/encoder"
        space = "{space}"
        dims = {{ default = {DIM} }}
        max_input_tokens = 256
        normalised = true
    """
    tables = [
        f'[[model.route]]\nprovider = "{name}"\nupstream_model = "encoder"\nusd_per_million_input_tokens = "0.01"\n'
        + routes.get(name, "")
        for name in servers
    ]
    (folder / "models.toml").write_text("\n".join([model, *tables]), encoding="utf-8")


def verdicts(program: Program, *arguments: str, code: int) -> dict[str, dict[str, Any]]:
    """What is said of each provider."""
    ended = program("models", "verify", *arguments, "--json")
    assert ended.code == code, ended.errors
    (found,) = json.loads(ended.text)
    return {route["provider"]: route for route in found["routes"]}


def test_pooling_and_precision_are_found_out_beside_the_local_twin(
    program: Program, folder: Path, models: LocalModels, honest: VectorOf, start: Start
) -> None:
    def as_int8(item: str | tuple[int, ...], dim: int) -> Vectors:
        vector = honest(item, dim)
        step = np.abs(vector).max() / 127
        rounded: Vectors = (np.round(vector / step) * step).astype(np.float32)
        return rounded

    faults = {"fine": honest, "pooled": run_by(models.load("cls")), "rounded": as_int8}
    write_settings(folder, {name: start(name, vector_of) for name, vector_of in faults.items()})
    found = verdicts(program, "acme/encoder", code=1)
    states = {name: route["state"] for name, route in found.items()}
    assert states == {"fine": "same", "pooled": "wrong", "rounded": "wrong", "local": "reference"}
    assert found["local"]["model"] == TWIN
    assert found["fine"]["similarity"] > 0.9999
    assert found["pooled"]["similarity"] < 0.6
    assert found["pooled"]["explanation"].startswith("pooling")
    assert found["rounded"]["explanation"].startswith("precision: its vectors are rounded to int8")


def test_a_missing_prefix_is_found_out_by_the_majority(
    program: Program, folder: Path, honest: VectorOf, start: Start
) -> None:
    servers = {name: start(name, honest) for name in ("bare", "first", "second")}
    prefix = 'query_prefix = "query: "'
    write_settings(folder, servers, is_twin=False, first=prefix, second=prefix)
    found = verdicts(program, "encoder", code=1)
    assert {name: route["state"] for name, route in found.items()} == {
        "bare": "wrong",
        "first": "reference",
        "second": "same",
    }
    assert found["bare"]["explanation"].startswith("prefix: only its query vectors differ")
    shown = program("models", "verify")
    assert shown.code == 1
    model, provider, similarity, state, blame = shown.text.splitlines()[1].split(maxsplit=4)
    assert (model, provider, state) == ("acme/encoder", "bare", "wrong")
    assert float(similarity) == pytest.approx(found["bare"]["similarity"], abs=1e-4)
    assert blame.startswith("prefix")


def test_honest_routes_pass_are_asked_anew_each_time_and_are_in_the_ledger(
    program: Program, folder: Path, honest: VectorOf, start: Start
) -> None:
    server = start("fine", honest)
    write_settings(folder, {"fine": server})
    for _ in range(2):
        assert verdicts(program, code=0)["fine"]["state"] == "same"
    assert verdicts(program, TWIN, code=0).keys() == {"fine", "local"}
    assert len(server.requests) == 6
    with sqlite3.connect(folder / "data" / "embedgate.db") as database:
        rows = database.execute("SELECT items, tokens, cost_picodollars FROM ledger WHERE provider = 'fine'").fetchall()
    database.close()
    assert sum(tokens for _, tokens, _ in rows) == sum(server.billed)
    assert {items for items, _, _ in rows} == {len(probes(256))}
    assert sum(cost for _, _, cost in rows) == sum(server.billed) * 10_000


def test_a_route_that_does_not_answer_is_told_and_the_others_are_judged(
    program: Program, folder: Path, honest: VectorOf, start: Start
) -> None:
    servers = {name: start(name, honest) for name in ("fine", "broken")}
    servers["broken"].usually(error(401, "no such key"))
    write_settings(folder, servers)
    found = verdicts(program, code=1)
    assert {name: route["state"] for name, route in found.items()} == {
        "fine": "same",
        "broken": "failed",
        "local": "reference",
    }
    assert found["broken"]["explanation"]


def test_nothing_to_compare_is_no_failure(program: Program) -> None:
    ended = program("models", "verify")
    assert (ended.code, ended.text) == (0, "There is nothing to compare: no model has two routes that are on.\n")
    assert program("models", "verify", TWIN).text == f"There is nothing to compare: {TWIN} is served by local only.\n"
    off = program("models", "verify", "text-embedding-3-small")
    assert (off.code, "no provider of openai/text-embedding-3-small is on" in off.text) == (0, True)
    assert program("models", "verify", "--json").text == "[]\n"


def test_what_makes_no_vectors_cannot_be_verified(program: Program) -> None:
    assert program("models", "verify", "absent/model").code == 1
    ended = program("models", "verify", "openai/gpt-4o-mini")
    assert (ended.code, "makes no vectors" in ended.errors) == (1, True)


def test_a_gateway_elsewhere_compares_its_own_routes(
    program: Program, folder: Path, honest: VectorOf, start: Start
) -> None:
    servers = {"fine": start("fine", honest), "broken": start("broken", honest)}
    servers["broken"].usually(error(401, "no such key"))
    write_settings(folder, servers)
    settings = (folder / "embedgate.toml").read_text().replace("models.toml", str(folder / "models.toml"))
    with gateway(folder / "data", settings) as running:
        there = ("--url", running.url, "--api-key", running.admin_key)
        assert program("aliases", "set", "encode", "acme/encoder", *there).code == 0
        found = verdicts(program, "encode", *there, code=1)
        assert {name: route["state"] for name, route in found.items()} == {
            "fine": "same",
            "broken": "failed",
            "local": "reference",
        }
        unknown = program("models", "verify", "no/such", *there)
        assert (unknown.code, "There is no model 'no/such'" in unknown.errors) == (1, True)
