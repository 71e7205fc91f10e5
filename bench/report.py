"""What a run says: one table on the screen, the same as a Markdown page, and everything as JSON."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from bench.chat import Chat
from bench.local import LocalResult, LocalRow
from bench.machine import Machine
from bench.peers import ABOUT
from bench.runner import Effort, Row
from bench.targets import DIRECT, OURS

_BUSY_SHARE = 0.9
_BUSY_MARK = " *"
_ABSENT_MARK = " †"
_COLUMNS = (
    *("", "load", "target", "req/s", "p50 ms", "p99 ms"),
    *("CPU µs/req", "peak MB", "idle MB", "calls/req", "of direct", "embedgate is"),
)
_LOCAL_COLUMNS = ("", "texts", "engine", "tokens/s", "of peak", "one text ms", "peak MB", "idle MB", "embedgate is")
_CHAT_COLUMNS = (
    *("", "load", "target", "calls", "direct ms", "through ms", "added ms", "added p99 ms"),
    *("stream MB", "MB/s", "before MB", "grown MB"),
)
_OURS = "embedgate checks a user's key and every vector, and writes its ledger; its embedded model is off."
_NOTES = (
    "A closed loop: every connection sends its next request when its last is answered. Figures are medians of the "
    "rounds; the targets took turns in each. CPU is that of all processes of a gateway, peak and idle their resident "
    "memory. Calls are those that reached the upstream. `of direct` is the share of the requests per second that the "
    "upstream answers without a gateway; `embedgate is` says how many times as many requests (or tokens) per second "
    "embedgate served in the same run.",
    f"Marked{_BUSY_MARK}: load and upstream were more than {_BUSY_SHARE:.0%} busy, and so perhaps the limit.",
    "Texts have about 100 bytes, and each is sent once unless a scenario is about the cache. Before it is measured, "
    "each target is asked once for every kind of answer, and each number is compared with the upstream's.",
)


class Report(msgspec.Struct, frozen=True):
    """Everything that one run found."""

    date: str
    command: str
    machine: Machine
    effort: Effort
    titles: dict[str, str]
    rows: tuple[Row, ...]
    local: LocalResult | None = None
    chat: Chat | None = None


def show(report: Report, console: Console) -> None:
    """Print the tables."""
    for heading, columns, lines, notes in _sections(report):
        table = Table(*columns, title=heading, title_justify="left", caption_justify="left")
        for column in table.columns[3:]:
            column.justify = "right"
        for line in lines:
            table.add_row(*line)
        console.print(table)
        for note in notes:
            console.print(note.replace("**", ""), style="dim")


def write(report: Report, folder: Path) -> list[Path]:
    """Write `<date>.json` and `<date>.md` into `folder`. Returns their paths. Replaces those of the same date."""
    folder.mkdir(parents=True, exist_ok=True)
    data, page = folder / f"{report.date}.json", folder / f"{report.date}.md"
    data.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    page.write_text(markdown(report), encoding="utf-8")
    return [data, page]


def markdown(report: Report) -> str:
    """The page: what was run, on what, the tables, how to read them."""
    machine, effort = report.machine, report.effort
    packages = ", ".join(f"{name} {version}" for name, version in machine.packages.items())
    others = {row.target: row.version for row in report.rows if row.target not in (DIRECT, OURS) and row.version}
    versions = [f"embedgate {machine.embedgate} ({machine.commit})"]
    versions += [f"{name} {version}" for name, version in others.items() if not name.startswith(OURS)]
    lines = [
        f"# Benchmark of {report.date}",
        "",
        f"    {report.command}",
        "",
        f"{machine.processor}, {machine.cores} cores, {machine.memory_gib:g} GiB; {machine.system}; {machine.python}. "
        f"Load average before the run: {machine.load_average:g}. Pinned: {machine.pinned}. "
        f"{effort.rounds} rounds of {effort.seconds:g} s each after {effort.warmup_s:g} s of warm-up.",
        "",
        f"{'; '.join(versions)}. With {packages}.",
    ]
    for heading, columns, table, notes in _sections(report):
        lines += ["", f"## {heading}", "", *_markdown_table(columns, table)]
        for note in notes:
            lines += ["", note]
    return "\n".join(lines) + "\n"


Section = tuple[str, Sequence[str], list[tuple[str, ...]], Sequence[str]]


def _sections(report: Report) -> Iterable[Section]:
    if report.rows:
        absent = _absent((row.target, row.note) for row in report.rows)
        peers = [ABOUT[name] for name in dict.fromkeys(row.target for row in report.rows) if name in ABOUT]
        notes = [_titles(report), *absent, *_NOTES, " ".join([_OURS, *peers]), *_load_costs(report.rows)]
        yield "Gateways", _COLUMNS, _gateway_lines(report.rows), notes
    if report.chat is not None:
        notes = [
            "A streamed chat, one at a time, directly and through the gateway. `added ms` is what the gateway adds to "
            "the median time until the first event, `grown MB` the most that its resident memory grew in the course of "
            "a long stream.",
            *_absent([("embedgate", report.chat.note)]),
        ]
        yield "Chat", _CHAT_COLUMNS, [_chat_line(report.chat)], notes
    if report.local is not None:
        rows = report.local.rows
        notes = [
            f"The peak is {report.local.peak_gflops:.0f} GFLOP/s, the best single-precision matrix product on all "
            "cores, measured between the rounds. Engines other than embedgate are called directly, without a server.",
            *_absent((row.engine, row.note) for row in rows),
        ]
        yield "The model in the process", _LOCAL_COLUMNS, _local_lines(rows), notes


def _chat_line(chat: Chat) -> tuple[str, ...]:
    place = ("C", "c1", OURS)
    if chat.note:
        return ("C", "c1", OURS + _ABSENT_MARK, *[""] * (len(_CHAT_COLUMNS) - len(place)))
    return (
        *place,
        f"{chat.calls:,}",
        _number(chat.direct_p50_ms),
        _number(chat.gateway_p50_ms),
        _number(chat.added_ms),
        _number(chat.added_p99_ms),
        _megabytes(chat.long_bytes),
        _number(chat.long_bytes_per_s / 1e6),
        _megabytes(chat.before_bytes),
        _number(chat.grown_bytes / 1e6),
    )


def _titles(report: Report) -> str:
    return "; ".join(f"**{id_}** {title}" for id_, title in report.titles.items()) + "."


def _absent(notes: Iterable[tuple[str, str]]) -> list[str]:
    """Why figures are missing, each reason once."""
    return [f"{_ABSENT_MARK.strip()} {name}: {note}" for name, note in dict.fromkeys(notes) if note]


def _load_costs(rows: Sequence[Row]) -> list[str]:
    """What driving a target costs beside the gateway, from the rows without one."""
    costs: dict[str, float] = {}
    for row in rows:
        if row.target == DIRECT and row.median is not None:
            cost_us = row.median.load_busy_share / row.median.requests_per_s * 1e6
            costs[row.scenario] = min(cost_us, costs.get(row.scenario, cost_us))
    found = ", ".join(f"{scenario} {_number(cost_us)}" for scenario, cost_us in costs.items() if scenario != "P")
    return [f"Load and upstream together used, in µs of CPU per request: {found}."] if found else []


def _gateway_lines(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    by_load: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        by_load.setdefault((row.scenario, row.load), []).append(row)
    return [_gateway_line(row, peers) for peers in by_load.values() for row in peers]


def _gateway_line(row: Row, beside: Sequence[Row]) -> tuple[str, ...]:
    """One row, compared with those of the same load."""
    sample = row.median
    if sample is None:
        return (row.scenario, row.load, row.target + _ABSENT_MARK, *[""] * (len(_COLUMNS) - 3))
    rates = {other.target: other.median.requests_per_s for other in beside if other.median is not None}
    rate = sample.requests_per_s
    return (
        row.scenario,
        row.load,
        row.target + (_ABSENT_MARK if row.note else ""),
        _number(rate) + (_BUSY_MARK if row.target != DIRECT and sample.load_busy_share > _BUSY_SHARE else ""),
        _number(sample.p50_ms),
        _number(sample.p99_ms),
        _number(sample.cpu_us_per_request),
        _megabytes(sample.peak_bytes),
        _megabytes(row.idle_bytes),
        _number(sample.upstream_calls_per_request),
        "" if row.target == DIRECT else _share(rate, rates.get(DIRECT)),
        "" if row.target in (DIRECT, OURS) else _times(rates.get(OURS), rate),
    )


def _local_lines(rows: Sequence[LocalRow]) -> list[tuple[str, ...]]:
    ours = {row.length: row.tokens_per_s for row in rows if row.engine == OURS}
    lines = []
    for row in rows:
        place = (row.length, f"{row.batch} of {row.tokens} tokens")
        if row.tokens_per_s is None:
            lines.append((*place, row.engine + _ABSENT_MARK, *[""] * (len(_LOCAL_COLUMNS) - 3)))
            continue
        lines.append(
            (
                *place,
                f"{row.engine} {row.version}",
                _number(row.tokens_per_s),
                "" if row.share_of_peak is None else f"{row.share_of_peak:.0%}",
                _number(row.one_text_p50_ms),
                _megabytes(row.peak_bytes),
                _megabytes(row.idle_bytes),
                "" if row.engine == OURS else _times(ours.get(row.length), row.tokens_per_s),
            )
        )
    return lines


def _number(value: float | None) -> str:
    """Three significant digits, whole from a hundred on."""
    if value is None:
        return ""
    if value >= 100:
        return f"{value:,.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def _megabytes(value: int | None) -> str:
    return "" if value is None else f"{value / 1e6:,.0f}"


def _share(rate: float, whole: float | None) -> str:
    return "" if not whole else f"{rate / whole:.1%}"


def _times(ours: float | None, rate: float) -> str:
    return "" if ours is None or not rate else f"{_number(ours / rate)}x"


def _markdown_table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    aligned = ["---"] * 3 + ["---:"] * (len(columns) - 3)
    rows = [columns, aligned, *lines]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
