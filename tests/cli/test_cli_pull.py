"""`embedgate models pull`: what it prints works when it is typed; a killed or full run is continued by the next."""

import json
import os
import resource
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="the extra embedgate[local] is not installed")
pytest.importorskip("onnxruntime", reason="the extra embedgate[local] is not installed")

from model_hub import Fault, ModelHub, running_hub
from onnx_folders import BERT, pass_trial, write_folder
from program import Program
from waiting import wait_until

ID = "ann/Tiny-Encoder.v1"
WEIGHTS = "onnx/model.onnx"


@pytest.fixture
def published(folder: Path) -> Path:
    made = write_folder(folder / "published", BERT)
    pass_trial(made, folder / "data")
    return made


@pytest.fixture
def hub(published: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelHub]:
    with running_hub() as running:
        running.add(ID, published)
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def start(*arguments: str, **options: object) -> subprocess.Popen[bytes]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "embedgate", "models", "pull", ID, *arguments]
    # Imports would leave cut files behind, and the measuring of coverage would fail at its end.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)  # type: ignore[call-overload,no-any-return]  # options are passed on


def test_a_pulled_model_is_listed_and_the_printed_command_works(
    program: Program, hub: ModelHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    ended = program("models", "pull", ID)
    assert ended.code == 0, ended.errors
    assert ended.text.startswith(f"local/tiny-encoder.v1 is {ID} at commit ")
    assert f"{WEIGHTS}  " in ended.errors
    assert {call.headers["authorization"] for call in hub.calls} == {"Bearer hf_secret"}
    assert "local/tiny-encoder.v1" in program("models", "list").text
    _, *typed = shlex.split(ended.text.splitlines()[-1])
    vectors = program(*typed)
    assert vectors.code == 0, vectors.errors
    again = program("models", "pull", ID, "--json")
    found = json.loads(again.output)
    assert (found["model"], found["is_new"], found["manifest"]["weights"]) == ("local/tiny-encoder.v1", False, WEIGHTS)
    assert program("models", "pull", ID, "--digest", f"sha256:{found['digest']}").code == 0


def test_a_model_in_a_folder_of_ones_own_needs_the_lines_that_are_printed(
    program: Program, hub: ModelHub, folder: Path
) -> None:
    ended = program("models", "pull", ID, "--into", "mine/tiny", "--from", hub.url)
    assert ended.code == 0, ended.errors
    assert "local/tiny-encoder.v1" not in program("models", "list").text
    lines = ended.text.split("Put this into the settings:")[1].split("Then try it:")[0]
    (folder / "embedgate.toml").write_text(lines)
    assert "local/tiny-encoder.v1" in program("models", "list").text


def test_what_goes_wrong_has_an_exit_code_and_a_sentence(program: Program, hub: ModelHub) -> None:
    cases = [
        (("ann/none",), 1, "has no ann/none at main. Check the id"),
        (("../up",), 1, "is no id of a model on a hub"),
        ((ID, "--from", "http://127.0.0.1:9"), 4, "http://127.0.0.1:9 cannot be reached"),
        ((ID, "--from", "ftp://there"), 3, "hub its address is not an http or https address"),
        ((ID, "--max-bytes", "10"), 1, "at most 10 are downloaded"),
    ]
    for arguments, code, words in cases:
        ended = program("models", "pull", *arguments)
        assert (ended.code, words in ended.errors) == (code, True), ended
        assert "Traceback" not in ended.errors


def test_a_run_that_is_killed_is_continued(program: Program, hub: ModelHub, folder: Path) -> None:
    gate = threading.Event()
    hub.faults[WEIGHTS] = [Fault(cut=300, gate=gate)]
    running = start()
    pulled = folder / "data" / "pulled"
    try:
        wait_until("300 bytes are there", lambda: any(hub.asked(WEIGHTS)))
        wait_until("they are announced", lambda: any(pulled.glob(f".*.part/{WEIGHTS}.partial")))
        assert program("models", "pull", ID).code == 3  # another run is at it
    finally:
        running.kill()
        running.communicate()
        gate.set()
    assert [path.name for path in pulled.iterdir() if not path.name.startswith(".")] == []
    assert program("models", "pull", ID).code == 0
    assert len(hub.asked("tokenizer.json")) == 1


def test_a_full_disk_is_a_sentence_and_what_came_is_kept(program: Program, hub: ModelHub, published: Path) -> None:
    most_bytes = (published / WEIGHTS).stat().st_size - 100
    assert (published / "tokenizer.json").stat().st_size < most_bytes
    running = start(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes)))
    _, errors = running.communicate()
    assert running.returncode == 3
    assert b"cannot be written: File too large. What has come is kept" in errors
    hub.calls.clear()
    assert program("models", "pull", ID).code == 0
    assert not hub.asked("tokenizer.json")
    assert hub.asked(WEIGHTS)[0].headers.get("range") == f"bytes={most_bytes}-"
