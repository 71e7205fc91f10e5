"""Model files come from installed packages, are never imported, and must be the very files that were pinned."""

import subprocess
import sys
from pathlib import Path

import pytest

from embedgate.core.errors import ConfigError, DependencyMissing
from embedgate.inference.weights import MINILM, WORDLLAMA, Packaged, verify


@pytest.mark.parametrize("packaged", [MINILM, WORDLLAMA], ids=lambda packaged: packaged.distribution)
def test_packaged_files_are_found_and_verified_without_importing_the_package(packaged: Packaged) -> None:
    if packaged.folder() is None:
        pytest.skip(f"{packaged.distribution} is not installed")
    assert packaged.verified_folder().is_dir()
    assert packaged.package not in sys.modules


def test_missing_package_names_the_extra_that_brings_it() -> None:
    absent = Packaged("no-such-weights", "no_such_weights", "minilm", {"model.safetensors": "0" * 64})
    with pytest.raises(DependencyMissing, match=r"no-such-weights is not installed: install embedgate\[minilm\]"):
        absent.file("model.safetensors")


def test_file_with_another_digest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"something else")
    with pytest.raises(ConfigError, match=r"has SHA-256 [0-9a-f]{64}, not 53aa5117"):
        verify(tmp_path / "model.safetensors", MINILM.digests["model/model.safetensors"])
    with pytest.raises(ConfigError, match="cannot be read"):
        verify(tmp_path / "absent", "0" * 64)


def test_importing_the_modules_loads_no_engine_and_starts_no_thread() -> None:
    code = """
import sys, threading
import embedgate.inference.runtime, embedgate.inference.counters, embedgate.providers.local
heavy = {"onnx", "onnxruntime", "safetensors", "tokenizers", "tiktoken", "rs_bpe", "wordllama"}
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
assert threading.active_count() == 1
"""
    subprocess.run([sys.executable, "-c", code], check=True)
