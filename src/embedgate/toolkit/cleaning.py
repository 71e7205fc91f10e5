"""Cleaning texts: mojibake, HTML remains, control and zero-width characters, Unicode form, white space; each a switch.

Cleaning a clean text changes nothing: the steps are repeated until they find nothing more to do.
"""

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from embedgate.toolkit.libraries import library
from embedgate.toolkit.outline import Kind
from embedgate.toolkit.records import Record
from embedgate.toolkit.splitting import kind_of

Form = Literal["NFC", "NFKC", "none"]
Step = Literal["mojibake", "html", "control", "form", "space"]

_MAX_ROUNDS = 100
"""Rounds until nothing changes: two or three are usual. More are only taken by tags that are nested inside of tags."""

_BREAKING = frozenset(f"h{level}" for level in range(1, 7)) | {
    *("address", "article", "aside", "blockquote", "br", "caption", "dd", "div", "dl", "dt", "figcaption", "figure"),
    *("footer", "form", "header", "hr", "li", "main", "nav", "ol", "option", "p", "pre", "section", "summary", "table"),
    *("tbody", "td", "tfoot", "th", "thead", "title", "tr", "ul"),
}
"""Tags that end a line. Without them two paragraphs would become one word where they meet."""
_TAGS = _BREAKING | {
    *(
        "a",
        "abbr",
        "audio",
        "b",
        "base",
        "big",
        "body",
        "button",
        "canvas",
        "center",
        "cite",
        "code",
        "col",
        "colgroup",
    ),
    *("del", "details", "dfn", "dialog", "em", "embed", "fieldset", "font", "frame", "frameset", "head", "html", "i"),
    *("iframe", "img", "input", "ins", "kbd", "label", "legend", "link", "map", "mark", "meta", "noscript", "object"),
    *("optgroup", "param", "picture", "q", "s", "samp", "script", "select", "small", "source", "span", "strike"),
    *(
        "strong",
        "style",
        "sub",
        "sup",
        "svg",
        "template",
        "textarea",
        "time",
        "track",
        "tt",
        "u",
        "var",
        "video",
        "wbr",
    ),
}
"""The tags of HTML: anything else in angle brackets may be a type, an address or a comparison."""
_NAMES = "|".join(sorted(_TAGS, key=len, reverse=True))
_OPENING = re.compile(r"<!--|<(script|style)\b[^<>]*>", re.IGNORECASE)
_CLOSING = {
    "": re.compile("-->"),
    "script": re.compile(r"</script\s*>", re.IGNORECASE),
    "style": re.compile(r"</style\s*>", re.IGNORECASE),
}
_MARKUP = re.compile(rf"<!doctype[^<>]*>|</?({_NAMES})(?:\s[^<>]*)?/?>", re.IGNORECASE)
_NESTED = re.compile(r"&(?:amp;|#38;|#x26;)+", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")

# Marks of direction, soft hyphens, joiners of nothing, byte order marks, halves of surrogate pairs.
_CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0001\U000e0020-\U000e007f]"
    # The joiners of Persian, of Indic scripts and of emoji stay where they join something.
    "|(?:^|(?<=[\x00-\x7f]))[\u200c\u200d]+|[\u200c\u200d]+(?=[\x00-\x7f]|$)"
)
_FLAG = re.compile("\U0001f3f4[\U000e0020-\U000e007f]+")
_LINE_ENDS = re.compile(r"\r\n?|[\u2028\u2029]")
_ODD_SPACES = re.compile(r"[\xa0\u1680\u2000-\u200a\u202f\u205f]")
_TRAILING = re.compile(r"(?<![ \t])[ \t]+(?=\n|\Z)")
_BLANK_LINES = re.compile(r"\n{4,}")
_RUNS = re.compile(r"(?<=\S)(?: {2,}| *\t[ \t]*)(?=\S)")
_EXAMPLE_CHARS = 24


@dataclass(frozen=True, slots=True)
class Cleaning:
    """What is cleaned.

    html: None for all texts but Markdown and code, in which tags and entities have a meaning. form: of Unicode; NFKC
    also replaces what only looks different, such as ligatures and full-width letters.
    """

    mojibake: bool = True
    html: bool | None = None
    control: bool = True
    form: Form = "NFC"
    space: bool = True


@dataclass(frozen=True, slots=True)
class Example:
    """A place that was changed, before and after."""

    before: str
    after: str


@dataclass(slots=True)
class Report:
    """What was changed: how often, in how many texts, and the first place of each kind."""

    times: Counter[Step] = field(default_factory=Counter)
    texts: Counter[Step] = field(default_factory=Counter)
    examples: dict[Step, Example] = field(default_factory=dict)
    n_changed: int = 0
    """Texts that are not as they were."""


def clean(text: str, cleaning: Cleaning | None = None, kind: Kind = "prose", report: Report | None = None) -> str:
    """The text without what `cleaning` takes away; the same object if there is nothing to do.

    report: what was changed is added to it. Raises DependencyMissing without ftfy, if mojibake is to be repaired.
    """
    seen = report or Report()
    found: Report = Report()
    steps = list(_steps(cleaning or Cleaning(), kind, ends_a_line=text.endswith("\n")))
    current = text
    for _ in range(_MAX_ROUNDS):
        before = current
        for step, work in steps:
            after, times = work(current)
            if after != current:
                found.times[step] += max(times, 1)
                found.examples.setdefault(step, _example(current, after))
                current = after
        if current == before:
            break
    if current == text:
        return text
    seen.n_changed += 1
    seen.times.update(found.times)
    seen.texts.update(found.times.keys())
    for step, example in found.examples.items():
        seen.examples.setdefault(step, example)
    return current


def clean_records(records: Iterable[Record], cleaning: Cleaning | None = None) -> tuple[list[Record], Report]:
    """The records with clean texts, and what was changed. Raises as `clean`."""
    report = Report()
    cleaned = [
        Record(
            record.id,
            clean(record.text, cleaning, kind_of(record.origin.file), report),
            record.origin,
            record.position,
            record.metadata,
        )
        for record in records
    ]
    return cleaned, report


_Work = Callable[[str], tuple[str, int]]


def _steps(cleaning: Cleaning, kind: Kind, *, ends_a_line: bool) -> Iterator[tuple[Step, _Work]]:
    if cleaning.mojibake:
        yield "mojibake", _without_mojibake
    if cleaning.html or (cleaning.html is None and kind == "prose"):
        yield "html", _without_html
    if cleaning.control:
        yield "control", _without_control
    if cleaning.form != "none":
        form = cleaning.form
        yield "form", lambda text: (unicodedata.normalize(form, text), _n_different(text, form))
    if cleaning.space:
        yield "space", partial(_tidy_prose, ends_a_line=ends_a_line) if kind == "prose" else _tidy_lines


def _without_mojibake(text: str) -> tuple[str, int]:
    if text.isascii():
        return text, 0
    fixed: str = library("ftfy").fix_encoding(text)
    fixed = library("ftfy.fixes").fix_c1_controls(fixed)
    words, fixed_words = text.split(), fixed.split()
    if len(words) != len(fixed_words):
        return fixed, 1
    return fixed, sum(one != other for one, other in zip(words, fixed_words, strict=True))


def _without_html(text: str) -> tuple[str, int]:
    if "<" not in text and "&" not in text:
        return text, 0
    times = 0

    def decoded(found: re.Match[str]) -> str:
        nonlocal times
        value = html.unescape(found[0])
        times += value != found[0]
        return value

    text, blocks = _without_blocks(text)
    text, tags = _MARKUP.subn(lambda found: "\n" if (found[1] or "").lower() in _BREAKING else "", text)
    return _ENTITY.sub(decoded, _NESTED.sub("&amp;", text)), times + blocks + tags


def _without_blocks(text: str) -> tuple[str, int]:
    """Without comments, scripts and styles that are closed. One pass: what is not closed is looked for once."""
    kept: list[str] = []
    unclosed: set[str] = set()
    place = times = 0
    while opening := _OPENING.search(text, place):
        kind = (opening[1] or "").lower()
        closing = None if kind in unclosed else _CLOSING[kind].search(text, opening.end())
        kept.append(text[place : opening.start() if closing else opening.end()])
        place = closing.end() if closing else opening.end()
        times += closing is not None
        if closing is None:
            unclosed.add(kind)
    return "".join([*kept, text[place:]]), times


def _without_control(text: str) -> tuple[str, int]:
    if text.isascii() and text.isprintable():
        return text, 0
    flags = list(_FLAG.finditer(text))
    if not flags:
        return _CONTROL.subn("", text)
    # The flags of Scotland and others are spelled in characters that mean nothing elsewhere.
    kept, times, place = [], 0, 0
    for flag in flags:
        piece, n = _CONTROL.subn("", text[place : flag.start()])
        kept += [piece, flag[0]]
        times += n
        place = flag.end()
    piece, n = _CONTROL.subn("", text[place:])
    return "".join([*kept, piece]), times + n


def _n_different(text: str, form: Form) -> int:
    if form == "none" or unicodedata.is_normalized(form, text):
        return 0
    return sum(not unicodedata.is_normalized(form, word) for word in text.split())


def _tidy_lines(text: str) -> tuple[str, int]:
    """Line ends, odd spaces, trailing ones, more than two blank lines; indentation and alignment stay."""
    times = 0
    for pattern, by in ((_LINE_ENDS, "\n"), (_ODD_SPACES, " "), (_TRAILING, ""), (_BLANK_LINES, "\n\n\n")):
        text, n = pattern.subn(by, text)
        times += n
    return text, times


def _tidy_prose(text: str, *, ends_a_line: bool) -> tuple[str, int]:
    """As `_tidy_lines`; also runs of spaces inside lines, and white space around the text.

    ends_a_line: a line end at the end stays.
    """
    text, times = _tidy_lines(text)
    text, n = _RUNS.subn(" ", text)
    stripped = text.strip()
    if stripped and ends_a_line and text.endswith("\n"):
        stripped += "\n"
    return stripped, times + n + (stripped != text)


def _example(before: str, after: str) -> Example:
    """The first place where two texts differ, with a few characters around it."""
    place = next((n for n, (one, other) in enumerate(zip(before, after, strict=False)) if one != other), None)
    place = min(len(before), len(after)) if place is None else place
    start = max(0, place - _EXAMPLE_CHARS // 3)
    return Example(before[start : start + _EXAMPLE_CHARS], after[start : start + _EXAMPLE_CHARS])
