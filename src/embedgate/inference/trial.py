"""First run of a foreign model file in a process of its own: a crash ends that process, not the gateway.

The engines are written in C++, and a file that was made to, or damaged just so, can end the process that reads it or
keep it busy for ever. So each file is loaded and run once by `python -m embedgate.inference.trial` before the gateway
loads it. That it passed is remembered in the data folder by the digest of all its bytes.
"""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from embedgate.core.errors import ConfigError, GatewayError

_TRIAL_S = 600.0
"""Seconds for one trial: a model of several gigabytes on a busy machine takes one or two minutes."""
_MOST_SAID = 2_000
_REFUSED = 3


class Tried(msgspec.Struct, frozen=True):
    """What is tried: the model folder, the file in it, the token that pads, and the most bytes that are read."""

    path: str
    weights: str
    pad_id: int
    max_bytes: int


def try_once(tried: Tried, mark: Path, timeout_s: float = _TRIAL_S, program: tuple[str, ...] = ()) -> None:
    """Try a file unless `mark` says that it has passed. program: instead of this module, for tests.

    Raises ConfigError naming the file if it is refused, ends the process or takes too long.
    """
    if mark.exists():
        return
    place = Path(tried.path, tried.weights)
    # Without -P, modules of the folder in which the gateway was started would come before the installed ones.
    command = program or (sys.executable, "-P", "-m", "embedgate.inference.trial")
    try:
        ended = subprocess.run(
            command, input=msgspec.json.encode(tried), capture_output=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigError([f"{place} did not finish a trial run in {timeout_s:g} s; it is not loaded"]) from error
    except OSError as error:
        raise ConfigError([f"{place} cannot be tried: {error.strerror or error}"]) from error
    said = ended.stderr.decode(errors="replace").strip()[-_MOST_SAID:]
    if ended.returncode == _REFUSED:
        raise ConfigError(said.splitlines() or [f"{place} is refused"])
    if ended.returncode < 0:
        name = signal.Signals(-ended.returncode).name if -ended.returncode in set(signal.Signals) else ended.returncode
        raise ConfigError([f"{place} ended the process that tried it ({name}); it is damaged or malicious"])
    if ended.returncode:
        raise ConfigError([f"{place} could not be tried: {said.splitlines()[-1] if said else ended.returncode}"])
    try:
        mark.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        mark.touch()
    except OSError as error:
        raise ConfigError([f"{mark} cannot be written: {error.strerror or error}"]) from error


def main(run: Callable[[Tried], None]) -> int:
    """Run the trial that standard input describes. Returns the exit code, with the reason on standard error."""
    with contextlib.suppress(OSError):  # not every system has it
        # Should it use up the memory, the system ends this process and not the gateway.
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    tried = msgspec.json.decode(sys.stdin.buffer.read(), type=Tried)
    try:
        run(tried)
    except (ConfigError, GatewayError) as error:
        sys.stderr.write("\n".join(error.mistakes if isinstance(error, ConfigError) else [error.message]))
        return _REFUSED
    return 0


def run_once(tried: Tried) -> None:
    """Load the file and embed two texts of different lengths. Raises ConfigError, or InternalError of the engine."""
    import numpy as np

    from embedgate.inference.folder_files import FolderFiles
    from embedgate.inference.model_folder import read_model_folder
    from embedgate.inference.onnx_encoder import OnnxEncoder
    from embedgate.inference.onnx_file import read_onnx_file

    path = Path(tried.path)
    folder = read_model_folder(path, tried.weights)
    file = read_onnx_file(FolderFiles(path), tried.weights, tried.max_bytes)
    encoder = OnnxEncoder(file, folder, tried.pad_id, threads=1, micro_batch_tokens=64)
    rows = [np.zeros(length, dtype=np.int32) for length in (1, min(3, folder.max_positions))]
    for run in encoder.cut([len(row) for row in rows]):
        encoder.embed([rows[position] for position in run])


if __name__ == "__main__":
    sys.exit(main(run_once))
