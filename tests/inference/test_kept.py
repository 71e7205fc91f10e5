"""Prepared models on disk: whole or not there, and made again when damaged."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from embedgate.core.errors import ConfigError
from embedgate.inference.kept import keep

BODY = bytes(range(256)) * 8192  # two chunks of the check


class Build:
    """Counts how often it is asked."""

    def __init__(self, body: bytes = BODY) -> None:
        self.body = body
        self.n_calls = 0

    def __call__(self) -> tuple[bytes, memoryview]:
        self.n_calls += 1
        return self.body[:1000], memoryview(self.body)[1000:]


def test_model_is_built_once_and_kept(tmp_path: Path) -> None:
    build = Build()
    file = tmp_path / "models" / "a.onnx"
    assert keep(file, build) == keep(file, build) == file
    assert build.n_calls == 1
    assert file.read_bytes().startswith(BODY)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "longer"])
def test_damaged_model_is_built_again(tmp_path: Path, damage: str) -> None:
    file = keep(tmp_path / "a.onnx", Build())
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[1000] ^= 1
    file.write_bytes({"cut": whole[:-100], "flipped": bytes(flipped), "empty": b"", "longer": whole + b"x"}[damage])
    build = Build()
    keep(file, build)
    assert build.n_calls == 1
    assert file.read_bytes() == whole


def test_failed_build_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail() -> tuple[bytes]:
        raise ConfigError(["no weights"])

    def fail_midway() -> Iterator[bytes]:
        yield BODY
        raise ConfigError(["no weights"])

    for build in (fail, fail_midway):
        with pytest.raises(ConfigError, match="no weights"):
            keep(tmp_path / "a.onnx", build)
        assert list(tmp_path.iterdir()) == []


def test_unwritable_folder_is_a_clear_mistake(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file, not a folder")
    with pytest.raises(ConfigError, match=r"a\.onnx cannot be written"):
        keep(tmp_path / "models" / "a.onnx", Build())


def test_many_starts_at_once_all_end_with_the_whole_model(tmp_path: Path) -> None:
    file = tmp_path / "a.onnx"

    def start(_: int) -> bytes:
        return keep(file, Build()).read_bytes()

    with ThreadPoolExecutor(8) as starts:
        assert len(set(starts.map(start, range(16)))) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]
