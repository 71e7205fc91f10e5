"""A model comes from a hub whole and as it was published, or not at all; what was loaded is not loaded again."""

import asyncio
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedgate.core.errors import (
    ConfigError,
    GatewayError,
    InvalidInput,
    UnknownModel,
    UpstreamBusy,
    UpstreamDenied,
    UpstreamFailed,
    UpstreamGarbled,
    UpstreamMismatch,
)
from embedgate.inference.download import PARTIAL
from embedgate.inference.hub_files import HubFile
from embedgate.inference.pull import Pull, Pulled, Wanted
from embedgate.inference.runtime import LocalModels
from embedgate.settings import LocalSettings
from embedgate.transport import Endpoint
from embedgate.transport.hub import Hub

pytest.importorskip("onnx", reason="the extra embedgate[local] is not installed")
pytest.importorskip("onnxruntime", reason="the extra embedgate[local] is not installed")

from model_hub import Fault, ModelHub, cut, running_hub
from onnx_folders import BERT, DIM, XLM_R, modules, pass_trial, write_dense, write_folder

WEIGHTS = "onnx/model.onnx"
ID = "ann/tiny"


class Quiet:
    """Progress that nobody sees; what was reported last of each file."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}
        self.announced: list[str] = []

    def begin(self, files: Sequence[HubFile]) -> None:
        self.announced += [file.path for file in files]

    def report(self, path: str, size_bytes: int) -> None:
        self.seen[path] = size_bytes


class Puller:
    """Pulls from one hub into one data folder; `slept` are the waits that were asked for."""

    def __init__(self, hub: ModelHub, folder: Path) -> None:
        self.hub = hub
        self.data_dir = folder / "data"
        self.slept: list[float] = []
        self.progress = Quiet()

    @property
    def target(self) -> Path:
        return self.data_dir / "pulled" / "tiny"

    def __call__(self, model: str = ID, *, token: str | None = None, url: str = "", **wanted: Any) -> Pulled:
        async def sleep(wait_s: float) -> None:
            self.slept.append(wait_s)

        async def run() -> Pulled:
            async with Hub(url or self.hub.url, token) as hub:
                settings = LocalSettings(threads=1)
                pull = Pull(hub, Wanted(model, **wanted), settings, self.data_dir, self.progress, sleep)
                return await pull.run()

        return asyncio.run(run())

    def partial(self) -> Path:
        """What has come of the weights."""
        (found,) = (self.data_dir / "pulled").glob(f".tiny.*.part/{WEIGHTS}{PARTIAL}")
        return found

    def revision(self) -> str:
        (found,) = (m.revision for m in LocalModels(LocalSettings(), self.data_dir).models() if m.name == "tiny")
        return found


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as it is published, with much that is not needed."""
    folder = write_folder(
        tmp_path_factory.mktemp("published"), XLM_R, modules=modules("Transformer", "Pooling", "Dense")
    )
    write_dense(folder, DIM, 5)
    for name in ("README.md", "pytorch_model.bin", "onnx/model_fp16.onnx", "openvino/model.xml", "onnx/other.bin"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not needed" * 500)
    return folder


@pytest.fixture
def hub(published: Path) -> Iterator[ModelHub]:
    with running_hub() as running:
        running.add(ID, published)
        yield running


@pytest.fixture
def puller(hub: ModelHub, published: Path, tmp_path: Path) -> Puller:
    made = Puller(hub, tmp_path)
    pass_trial(published, made.data_dir)
    return made


def test_only_what_is_needed_is_loaded_and_the_model_runs(puller: Puller) -> None:
    pulled = puller()
    assert (pulled.name, pulled.folder, pulled.is_new, pulled.is_tried) == ("tiny", puller.target, True, True)
    there = {path.relative_to(puller.target).as_posix() for path in puller.target.rglob("*") if path.is_file()}
    assert there == {
        "config.json", "embedgate.json", "modules.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS,
        "2_Dense/config.json", "2_Dense/model.safetensors",
    }  # fmt: skip
    assert [path.name for path in puller.target.parent.iterdir() if path.is_dir()] == ["tiny"]
    models = LocalModels(LocalSettings(threads=1), puller.data_dir)
    (record,) = (model for model in models.models() if model.id == "local/tiny")
    model = models.load("tiny")
    vectors = model.engine.embed(model.tokenizer.encode(["one two"]))
    assert vectors.shape == (1, 5)
    np.testing.assert_allclose(np.linalg.norm(vectors), 1, atol=1e-6)
    manifest = json.loads((puller.target / "embedgate.json").read_text())
    assert manifest["commit"] in (record.revision or "")
    assert {file["path"] for file in manifest["files"]} == there - {"embedgate.json"}
    assert puller.progress.seen == {file["path"]: file["size_bytes"] for file in manifest["files"]}


def test_what_is_there_is_not_loaded_again(puller: Puller, hub: ModelHub) -> None:
    first = puller()
    n_calls = len(hub.calls)
    again = puller()
    assert (again.is_new, again.manifest) == (False, first.manifest)
    assert len(hub.calls) == n_calls + 1  # which commit it is
    pinned = puller(digest=first.manifest.digest, url="http://127.0.0.1:9")  # where nobody listens
    assert (pinned.is_new, len(hub.calls)) == (False, n_calls + 1)


def test_a_connection_that_breaks_is_taken_up_where_it_was(puller: Puller, hub: ModelHub, published: Path) -> None:
    hub.faults[WEIGHTS] = [cut(100), cut(300), Fault(503), cut(50)]
    puller()
    asked = [call.headers.get("range") for call in hub.asked(WEIGHTS)]
    assert asked == [None, "bytes=100-", "bytes=400-", "bytes=400-", "bytes=450-"]
    assert (puller.target / WEIGHTS).read_bytes() == (published / WEIGHTS).read_bytes()
    assert len(puller.slept) == 4


def test_a_hub_that_cannot_continue_begins_anew(puller: Puller, hub: ModelHub, published: Path) -> None:
    hub.faults[WEIGHTS] = [cut(100), Fault(ignores_range=True, cut=200), Fault(416, body=b""), cut(70)]
    puller()
    asked = [call.headers.get("range") for call in hub.asked(WEIGHTS)]
    assert asked == [None, "bytes=100-", "bytes=200-", None, "bytes=70-"]
    assert (puller.target / WEIGHTS).read_bytes() == (published / WEIGHTS).read_bytes()


def test_a_run_that_failed_is_continued_by_the_next(puller: Puller, hub: ModelHub) -> None:
    hub.faults[WEIGHTS] = [cut(100), *[Fault(500)] * 9]
    with pytest.raises(UpstreamFailed, match="answers 500"):
        puller()
    assert not puller.target.exists()
    assert puller.partial().stat().st_size == 100
    assert LocalModels(LocalSettings(), puller.data_dir).models()  # the half folder is none
    hub.faults.clear()
    hub.calls.clear()
    puller()
    assert [call.headers.get("range") for call in hub.asked(WEIGHTS)] == ["bytes=100-"]
    assert not hub.asked("tokenizer.json")


def test_what_an_earlier_run_left_is_not_trusted(puller: Puller, hub: ModelHub, published: Path) -> None:
    hub.faults[WEIGHTS] = [cut(100), *[Fault(500)] * 9]
    with pytest.raises(UpstreamFailed):
        puller()
    puller.partial().write_bytes(b"?" * 100)
    tokenizer = next((puller.data_dir / "pulled").glob(".tiny.*.part/tokenizer.json"))
    tokenizer.write_bytes(b"?" * tokenizer.stat().st_size)
    hub.faults.clear()
    hub.calls.clear()
    puller()
    assert [call.headers.get("range") for call in hub.asked(WEIGHTS)] == ["bytes=100-", None]
    assert (puller.target / WEIGHTS).read_bytes() == (published / WEIGHTS).read_bytes()
    assert (puller.target / "tokenizer.json").read_bytes() == (published / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("path", [WEIGHTS, "tokenizer_config.json"], ids=["sha256", "git"])
def test_other_bytes_than_promised_are_refused(puller: Puller, hub: ModelHub, published: Path, path: str) -> None:
    wrong = bytearray((published / path).read_bytes())
    wrong[-1] ^= 1
    hub.always[path] = Fault(body=bytes(wrong))
    with pytest.raises(UpstreamGarbled, match=rf"{path} as .* sends it (has SHA-256|is git blob) [0-9a-f]+, not"):
        puller()
    assert not puller.target.exists()
    assert not list(puller.data_dir.rglob("*" + PARTIAL))


def test_a_wrong_length_is_refused(puller: Puller, hub: ModelHub, published: Path) -> None:
    whole = (published / WEIGHTS).read_bytes()
    hub.always[WEIGHTS] = Fault(body=whole + b"more")
    with pytest.raises(UpstreamMismatch, match="sends more of"):
        puller()
    hub.always[WEIGHTS] = Fault(body=whole[:-5])
    with pytest.raises(UpstreamFailed, match=rf"sent \d+ of {len(whole)} bytes"):
        puller()
    assert not puller.target.exists()


@pytest.mark.parametrize(
    ("place", "fault", "error", "words"),
    [
        ("revision/main", Fault(404), UnknownModel, "has no ann/tiny at main"),
        ("revision/main", Fault(401, {"x-error-code": "GatedRepo"}), UpstreamDenied, "is gated: accept its terms"),
        ("revision/main", Fault(403), UpstreamDenied, "HF_TOKEN"),
        ("revision/main", Fault(body=b"<html>"), UpstreamGarbled, "does not answer as a hub of models"),
        ("revision/main", Fault(body=b'{"sha": "../../up"}'), UpstreamGarbled, "names no commit"),
        ("revision/main", Fault(500), UpstreamFailed, "answers 500"),
        (WEIGHTS, Fault(404), UnknownModel, "has no onnx/model.onnx"),
        (WEIGHTS, Fault(403), UpstreamDenied, "denies onnx/model.onnx"),
        (WEIGHTS, Fault(429, {"retry-after": "3600"}), UpstreamBusy, "is asked too often"),
    ],
)  # fmt: skip
def test_what_a_hub_refuses_is_said_in_a_sentence(
    puller: Puller, hub: ModelHub, place: str, fault: Fault, error: type[GatewayError], words: str
) -> None:
    hub.always[place] = fault
    with pytest.raises(error, match=words) as caught:
        puller()
    assert "\n" not in caught.value.message
    assert not puller.target.exists()


def test_a_hub_that_asks_for_a_pause_gets_it(puller: Puller, hub: ModelHub) -> None:
    hub.faults = {
        "revision/main": [Fault(429, {"retry-after": "7"})],
        WEIGHTS: [Fault(429, {"retry-after": "11"}), Fault(503, {"retry-after": "13"})],
    }
    puller()
    assert puller.slept == [7, 11, 13]


def test_the_token_goes_to_the_hub_and_not_to_where_it_redirects(
    puller: Puller, hub: ModelHub, published: Path
) -> None:
    with running_hub() as store:
        store.add(ID, published)
        (commit,) = (name.rpartition("@")[2] for name in hub.files if not name.endswith("@main"))
        hub.always[WEIGHTS] = Fault(302, {"location": f"{store.url}/{ID}/resolve/{commit}/{WEIGHTS}"})
        hub.faults["tokenizer.json"] = [Fault(307, {"location": f"/{ID}/resolve/{commit}/tokenizer.json"})]
        puller(token="hf_secret")
        assert [call.headers.get("authorization") for call in store.calls] == [None]
    assert {call.headers.get("authorization") for call in hub.calls} == {"Bearer hf_secret"}
    assert len(hub.asked("tokenizer.json")) == 2


@pytest.mark.parametrize(
    ("location", "words"),
    [
        (f"/{ID}/resolve/again/{WEIGHTS}", "redirects more than 5 times"),
        ("file:///etc/passwd", "redirects to no address"),
        ("http://user:secret@127.0.0.1:9/", "redirects to no address"),
        ("http://[", "redirects to no address"),
        ("", "redirects to no address"),
        ("http://127.0.0.1:9/x?signature=secret", r"http://127\.0\.0\.1:9 cannot be reached"),
    ],
)
def test_redirects_lead_somewhere(puller: Puller, hub: ModelHub, location: str, words: str) -> None:
    hub.always[WEIGHTS] = Fault(302, {"location": location})
    with pytest.raises(UpstreamFailed, match=words) as caught:
        puller()
    assert "secret" not in str(caught.value)


def test_a_token_goes_where_nobody_reads_it_on_the_way() -> None:
    addresses = (
        "https://hub.example",
        "http://127.0.0.1:3",
        "http://localhost",
        "http://hub.example",
        "http://10.0.0.7",
    )
    assert [Endpoint("hub", address).keeps_secrets for address in addresses] == [True, True, True, False, False]


def test_size_is_bounded_before_anything_is_loaded(puller: Puller, hub: ModelHub, published: Path) -> None:
    with pytest.raises(InvalidInput, match=r"at most 1000 are downloaded \(--max-bytes"):
        puller(max_bytes=1000)
    hub.sizes[WEIGHTS] = 2**62
    with pytest.raises(InvalidInput, match="has room for"):
        puller(max_bytes=2**63)
    assert not hub.asked(WEIGHTS)


def test_what_lies_in_the_way_of_a_file_is_not_read(puller: Puller, hub: ModelHub, published: Path) -> None:
    hub.faults[WEIGHTS] = [Fault(404)]
    with pytest.raises(UnknownModel):
        puller()
    folder = next((puller.data_dir / "pulled").glob(".tiny.*.part/onnx"))
    (folder / f"model.onnx{PARTIAL}").symlink_to("/dev/zero")
    assert puller().is_new
    assert (puller.target / WEIGHTS).read_bytes() == (published / WEIGHTS).read_bytes()


def test_digest_pins_all_files(puller: Puller, hub: ModelHub, published: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"has digest [0-9a-f]{64}, not 0000"):
        puller(digest="0" * 64)
    assert not puller.target.exists()
    digest = puller().manifest.digest
    elsewhere = Puller(hub, tmp_path / "elsewhere")
    pass_trial(published, elsewhere.data_dir)
    assert elsewhere(digest=digest).manifest.digest == digest
    with pytest.raises(InvalidInput, match="Nothing was changed"):
        elsewhere(digest="0" * 64)


def test_a_new_revision_replaces_the_old_one_and_is_another_model(
    puller: Puller, hub: ModelHub, published: Path
) -> None:
    first = puller()
    before = puller.revision()
    files = dict(hub.files[f"{ID}@main"])
    hub.publish(ID, {**files, "tokenizer_config.json": b'{"pad_token": "[PAD]", "model_max_length": 9}'})
    second = puller()
    assert second.manifest.commit != first.manifest.commit
    assert puller.revision() != before
    assert [path.name for path in puller.target.parent.iterdir() if path.is_dir()] == ["tiny"]
    old = puller(revision=first.manifest.commit)
    assert old.manifest == first.manifest
    assert puller.revision() == before


def test_a_revision_that_cannot_run_leaves_the_old_one(puller: Puller, hub: ModelHub) -> None:
    first = puller()
    files = dict(hub.files[f"{ID}@main"])
    for change in (
        {"config.json": b'{"model_type": "gemma", "architectures": ["GemmaForCausalLM"]}'},
        {WEIGHTS: b"no graph" * 200},
        {"tokenizer.json": b"{}"},
    ):
        hub.publish(ID, {**files, **change})
        with pytest.raises(ConfigError, match="decoder-only|no ONNX model|tokenizer"):
            puller()
        assert puller(digest=first.manifest.digest).manifest == first.manifest


def test_a_run_that_was_killed_between_two_renames_is_undone(puller: Puller) -> None:
    first = puller()
    puller.target.rename(puller.target.parent / ".tiny.old")
    assert puller(digest=first.manifest.digest).is_new is False


def test_files_that_were_changed_are_found_and_pulled_again(puller: Puller) -> None:
    puller()
    weights, config = puller.target / WEIGHTS, puller.target / "config.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"?")
    models = LocalModels(LocalSettings(), puller.data_dir)
    with pytest.raises(ConfigError, match=r"model\.onnx is not the file that was pulled: run `embedgate models pull"):
        models.load("tiny")
    config.write_bytes(config.read_bytes().replace(b"16", b"15"))
    with pytest.raises(ConfigError, match=r"pulled model tiny: .*config\.json is not the file that was pulled"):
        LocalModels(LocalSettings(), puller.data_dir)
    assert puller().is_new
    assert weights.read_bytes() == whole
    (puller.target / "modules.jsonl").write_text("{}")
    with pytest.raises(ConfigError, match="does not belong to the model"):
        LocalModels(LocalSettings(), puller.data_dir)


def test_a_folder_that_is_something_else_is_left_alone(puller: Puller, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear")
    with pytest.raises(ConfigError, match="was not pulled: take it away"):
        puller(into=tmp_path / "mine")
    assert puller(into=tmp_path / "new" / "place", name="other").folder == tmp_path / "new" / "place"
    assert not puller.target.exists()


def test_names_that_cannot_be_are_refused(puller: Puller, hub: ModelHub) -> None:
    for model in ("../up", "a/b/c", "", "a b", "/etc", "a/..", "x" * 300):
        with pytest.raises(InvalidInput, match="is no id of a model"):
            puller(model)
    for wanted in ({"name": "../up"}, {"name": "all-minilm-l6-v2"}, {"name": "Upper"}):
        with pytest.raises(InvalidInput, match="--name"):
            puller(**wanted)
    assert not hub.calls


def test_a_list_in_pages_is_read_to_its_end_and_at_the_hub_only(puller: Puller, hub: ModelHub) -> None:
    hub.page = 3
    puller()
    shutil.rmtree(puller.target)
    other = {"link": '<http://127.0.0.1:9/api/models/x/tree/y?cursor=1>; rel="next"'}
    (commit,) = (name.rpartition("@")[2] for name in hub.files if not name.endswith("@main"))
    hub.always[f"tree/{commit}"] = Fault(headers=other, body=b"[]")
    with pytest.raises(UpstreamGarbled, match="at another host"):
        puller()


def test_paths_of_a_list_cannot_lead_elsewhere(puller: Puller, hub: ModelHub) -> None:
    files = dict(hub.files[f"{ID}@main"])
    odd = ("../config.json", "/tokenizer.json", "1_Pooling/../../config.json", "onnx/model.onnx_data/../../x")
    hub.publish(ID, files | dict.fromkeys(odd, b"{}"))
    puller()
    assert {call.target.rpartition("/")[2] for call in hub.calls}.isdisjoint({"x"})
    assert not (puller.target.parent / "config.json").exists()


def test_weights_can_be_chosen_and_safetensors_of_a_bert_come_first(
    puller: Puller, hub: ModelHub, tmp_path: Path
) -> None:
    from bert_reference import write_tiny_folder

    both = write_tiny_folder(tmp_path / "both")
    files = {path.relative_to(both).as_posix(): path.read_bytes() for path in both.rglob("*") if path.is_file()}
    hub.publish("ann/both", files | {WEIGHTS: b"not looked at" * 100})
    assert puller("ann/both").manifest.weights == "model.safetensors"
    quantized = write_folder(tmp_path / "quantized", BERT, file="onnx/model_quantized.onnx")
    pass_trial(quantized, puller.data_dir)
    hub.add("ann/quantized", quantized)
    assert puller("ann/quantized", weights="onnx/model_quantized.onnx").manifest.weights.endswith("quantized.onnx")
    with pytest.raises(UnknownModel, match=r"There is no file model\.bin; there are onnx/model_quantized\.onnx"):
        puller("ann/quantized", weights="model.bin")
    hub.publish("ann/none", {"config.json": b"{}", "pytorch_model.bin": b"pickles"})
    with pytest.raises(UnknownModel, match="neither model.safetensors nor an ONNX file"):
        puller("ann/none")
