"""`embedgate clean`: texts without mojibake, HTML remains, control characters and needless white space."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from embedgate.cli import results, texts
from embedgate.cli.output import print_json, print_table
from embedgate.core.errors import InvalidInput

if TYPE_CHECKING:
    from embedgate.toolkit.cleaning import Report, Step
    from embedgate.toolkit.records import Record

_WORDS: "dict[Step, str]" = {
    "mojibake": "mojibake repaired",
    "html": "HTML remains removed",
    "control": "control and zero-width characters removed",
    "form": "Unicode form unified",
    "space": "white space tidied",
}
_WHOLE_TEXTS = frozenset({".txt", ".md", ".markdown", ".rst", ".html", ".htm"})


def clean(
    files: texts.Files,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File for the clean texts; of a folder, another folder. None: only report."),
    ] = None,
    file_format: results.RowsFormat = None,
    mojibake: Annotated[bool, typer.Option(help="Repair letters that were decoded wrongly: Ã© for é.")] = True,
    html: Annotated[
        bool | None,
        typer.Option("--html/--no-html", help="Remove tags, decode entities. If absent: not in Markdown and code."),
    ] = None,
    control: Annotated[bool, typer.Option(help="Remove control and zero-width characters.")] = True,
    form: Annotated[
        Literal["NFC", "NFKC", "none"],
        typer.Option(help="Unicode form. NFKC also replaces ligatures, full-width letters and the like."),
    ] = "NFC",
    space: Annotated[bool, typer.Option(help="Tidy white space; indentation stays.")] = True,
    column: texts.Column = None,
    id_column: texts.IdColumn = None,
    read_as: texts.ReadAs = None,
    encoding: texts.Encoding = "utf-8",
    skip_empty: texts.SkipEmpty = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Clean texts, and report what was changed and how often.

    What is clean already stays as it is, byte for byte; cleaning twice changes nothing more.
    """
    from embedgate.toolkit.cleaning import Cleaning, clean_records
    from embedgate.toolkit.reading import Reading

    how = Reading(column, id_column, read_as, skip_empty=skip_empty, encoding=encoding)
    records = texts.read(files, how)
    cleaned, report = clean_records(records, Cleaning(mojibake, html, control, form, space))
    if output is not None or file_format is not None:
        _write(cleaned, files, output, file_format)
    _print(report, cleaned, as_json=as_json, is_beside=output is None and file_format is not None)


def _write(cleaned: "Sequence[Record]", files: Sequence[Path], output: Path | None, file_format: str | None) -> None:
    from embedgate.toolkit.writing import replaced

    rows = [{"id": record.id, "text": record.text, **record.metadata} for record in cleaned]
    ending = output.suffix.lower() if output is not None else ""
    if output is not None and file_format is None and len(files) == 1 and files[0].is_dir() and not ending:
        for record in cleaned:
            path = output / record.id
            path.parent.mkdir(parents=True, exist_ok=True)
            with replaced(path) as write:
                write(record.text.encode())
    elif file_format is None and ending in _WHOLE_TEXTS:
        is_lines = any(record.origin.number is not None for record in cleaned)
        if is_lines and any("\n" in record.text for record in cleaned):
            raise InvalidInput(f"{output}: some texts have several lines. Write them to .jsonl, .csv or .parquet.")
        if not is_lines and len(cleaned) > 1:
            raise InvalidInput(f"{output}: there are {len(cleaned)} texts. Name a folder, or a .jsonl file.")
        with results.written(output) as write:
            write("".join(f"{record.text}\n" if is_lines else record.text for record in cleaned).encode())
    else:
        results.print_rows(rows, output, file_format)


def _print(report: "Report", cleaned: "Sequence[Record]", *, as_json: bool, is_beside: bool) -> None:
    n_empty = sum(not record.text.strip() for record in cleaned)
    if as_json and not is_beside:
        steps = {str(step): {"times": report.times[step], "texts": report.texts[step]} for step in _WORDS}
        print_json({"texts": len(cleaned), "changed": report.n_changed, "empty": n_empty, "steps": steps})
        return
    lines = [f"{results.count(len(cleaned), 'text')}, {report.n_changed:,} changed"]
    if n_empty:
        first = next(record.origin for record in cleaned if not record.text.strip())
        lines.append(f"{results.count(n_empty, 'text')} with nothing left, the first at {first}")
    if is_beside:
        lines += [
            f"{_WORDS[step]}: {results.count(n, 'time')} in {results.count(report.texts[step], 'text')}"
            for step, n in report.times.items()
        ]
        for line in lines:
            results.say(line)
        return
    if report.times:
        rows = []
        for step, words in _WORDS.items():
            if times := report.times[step]:
                example = report.examples[step]
                shown = f"{_visible(example.before)} → {_visible(example.after)}"
                rows.append((words, f"{times:,}", f"{report.texts[step]:,}", shown))
        print_table(("what", "times", "texts", "for example"), rows, right=("times", "texts"))
        typer.echo()
    for line in lines:
        typer.echo(line)


def _visible(text: str) -> str:
    """A text with its characters that cannot be seen written as escapes."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
