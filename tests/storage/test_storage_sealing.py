"""Sealing of secrets under the master key: what was touched does not open, and a wrong master key is told."""

from pathlib import Path

import pytest

from embedgate.core.errors import ConfigError
from embedgate.storage.sealing import Sealer

KEY = "sk-proj-0123456789abcdef"
MASTER_KEY = "0123456789abcdef" * 4


@pytest.mark.parametrize("master_key", ["", "x", MASTER_KEY[:-1], MASTER_KEY + "0", "g" * 64])
def test_a_master_key_of_another_form_is_refused(tmp_path: Path, master_key: str) -> None:
    with pytest.raises(ConfigError, match="64 hexadecimal digits") as caught:
        Sealer(tmp_path, master_key)
    assert len(master_key) < 2 or master_key not in str(caught.value)
    (tmp_path / "secrets.key").write_text(master_key)
    with pytest.raises(ConfigError, match=r"secrets\.key has .* 64 hexadecimal digits"):
        Sealer(tmp_path).seal("openai", KEY)


def test_what_is_sealed_twice_differs_and_what_was_touched_does_not_open(tmp_path: Path) -> None:
    sealer = Sealer(tmp_path)
    sealed = sealer.seal("openai", KEY)
    assert sealer.seal("openai", KEY) != sealed
    assert sealer.unseal("openai", sealed) == KEY
    for position in range(len(sealed)):
        touched = sealed[:position] + bytes([sealed[position] ^ 1]) + sealed[position + 1 :]
        with pytest.raises(ConfigError):
            sealer.unseal("openai", touched)
    for cut in (b"", sealed[:1], sealed[:-1]):
        with pytest.raises(ConfigError):
            sealer.unseal("openai", cut)


def test_a_folder_that_cannot_be_written_is_a_mistake_of_the_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        Sealer(tmp_path / "missing").seal("openai", KEY)
    (tmp_path / "secrets.key").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        Sealer(tmp_path).seal("openai", KEY)
