"""Command line of the benchmark, `python -m bench`: progress on stderr, tables on stdout."""

import argparse
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from bench import chat, local, machine, report, runner
from bench.local import ENGINES
from bench.peers import PEERS
from bench.processes import Cores
from bench.runner import Effort
from bench.scenarios import SCENARIOS

_LOCAL = "L"
_CHAT = "C"
_RESULTS = Path(__file__).parent / "results"
_CONSOLE_WIDTH = 150


def main() -> int:
    """Measure the scenarios of the command line. Returns the exit status."""
    options = _options()
    if not Path("/proc/self/stat").exists():
        print("error: the benchmark reads /proc and so needs Linux", file=sys.stderr)
        return 1
    effort = Effort(seconds=1, warmup_s=0.3, rounds=1) if options.quick else Effort(options.seconds, 1, options.rounds)
    cores = Cores.shared_out()
    about = machine.describe(cores)
    rows: list[runner.Row] = []
    titles = {}
    for scenario in SCENARIOS:
        if scenario.id in options.scenarios:
            titles[scenario.id] = scenario.title
            rows += runner.run(scenario, options.peers, cores, effort, _say, options.against)
    chat_result = chat.run(cores, effort, _say) if _CHAT in options.scenarios else None
    local_result = local.run(options.engines, effort, _say) if _LOCAL in options.scenarios else None
    found = report.Report(
        date=datetime.now(UTC).date().isoformat(),
        command=shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
        machine=about,
        effort=effort,
        titles=titles,
        rows=tuple(rows),
        local=local_result,
        chat=chat_result,
    )
    report.show(found, Console(width=None if sys.stdout.isatty() else _CONSOLE_WIDTH))
    output = options.output or (None if options.quick else _RESULTS)
    if output is not None:
        for path in report.write(found, output):
            _say(f"written: {path}")
    return 0


def _options() -> argparse.Namespace:
    known = [*(scenario.id for scenario in SCENARIOS), _CHAT, _LOCAL]
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the gateway, and peers beside it.")
    add = parser.add_argument
    add("--scenarios", type=_names(known), default=known, metavar="IDS", help=f"of {','.join(known)}; all by default")
    add(
        "--peers",
        type=_names(list(PEERS)),
        default=[],
        metavar="NAMES",
        help=f"of {','.join(PEERS)}; installed if need be",
    )
    add(
        "--engines",
        type=_names(list(ENGINES)),
        default=[],
        metavar="NAMES",
        help=f"beside the local model, of {','.join(ENGINES)}; large, installed if need be",
    )
    add(
        "--against",
        type=_checkout,
        metavar="FOLDER",
        help="checkout of another version of the gateway, with its environment in .venv, to be driven in turns",
    )
    add("--seconds", type=float, default=3.0, help="of each round; 3 by default")
    add("--rounds", type=int, default=3, help="of each load and target; 3 by default")
    add("--quick", action="store_true", help="one round of a second each; writes nothing unless --output is given")
    add(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="where to write <date>.json and <date>.md; bench/results by default",
    )
    return parser.parse_args()


def _checkout(text: str) -> Path:
    folder = Path(text).resolve()
    if not (folder / ".venv/bin/python").exists():
        raise argparse.ArgumentTypeError(f"{text} has no .venv/bin/python; type `make .venv/.installed` in it")
    return folder


def _names(known: list[str]) -> "argparse._ActionType":
    def names(text: str) -> list[str]:
        asked = [name for name in text.split(",") if name]
        for name in asked:
            if name not in known:
                raise argparse.ArgumentTypeError(f"there is no {name}; there are {', '.join(known)}")
        return asked

    return names


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
