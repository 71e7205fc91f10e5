"""A map as a page: one HTML file with hover, search and colours, which loads nothing from elsewhere; and as a PNG.

The script is our own, 8 KB: plotly, inlined, is 4.8 MB for each map, and has neither a search box nor neighbours.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from string import Template

import orjson

from embedgate.toolkit.mapping import Map
from embedgate.toolkit.pictures import new_figure, png_of
from embedgate.toolkit.prepared import Floats
from embedgate.toolkit.records import Record, Scalar
from embedgate.toolkit.writing import metadata_columns

PALETTE = (
    "#4269d0", "#efb118", "#ff725c", "#3ca951", "#a463f2", "#6cc5b0", "#ff8ab7", "#9c6b4e", "#97bbf5", "#d45d00",
    "#757b00", "#00758f",
)  # fmt: skip
"""Colours of groups, the largest first."""
OTHERS = "#9aa4b2"

_MOST_VALUES = 200
"""Different values of a column that can colour a map; more are names, not groups."""
_MOST_TEXT = 600
_MOST_LABEL = 40
_DIGITS = 4
_N_NEIGHBOURS = 6


def colourings(records: Sequence[Record], groups: Mapping[str, Sequence[Scalar]]) -> dict[str, list[str]]:
    """What a map can be coloured by: the given groups, and the columns of metadata with few values."""
    found = {name: [_shown(value) for value in values] for name, values in groups.items()}
    for name in metadata_columns(records):
        values = [_shown(record.metadata.get(name)) for record in records]
        if name not in found and 1 < len(set(values)) <= min(_MOST_VALUES, len(records) - 1):
            found[name] = values
    return found


def map_html(
    found: Map,
    records: Sequence[Record],
    colours: Mapping[str, Sequence[str]],
    *,
    title: str = "Map of texts",
    note: str = "",
) -> bytes:
    """The page. colours: by name, the value of each text; the first is shown first. Long texts are cut."""
    data = {
        "title": title,
        "note": note,
        "palette": PALETTE,
        "ids": [record.id for record in records],
        "texts": [record.text[:_MOST_TEXT] for record in records],
        "x": _rounded(found.coordinates[:, 0]),
        "y": _rounded(found.coordinates[:, 1]),
        "neighbours": found.neighbours[:, :_N_NEIGHBOURS].tolist(),
        "cosines": [_rounded(row) for row in found.cosines[:, :_N_NEIGHBOURS]],
        "names": list(colours),  # a script puts names that are numbers first
        "columns": {name: list(values) for name, values in colours.items()},
        "orders": {name: _by_size(values) for name, values in colours.items()},
    }
    # Within a script element, `<` could end it; as an escape it is the same JSON.
    text = orjson.dumps(data).decode().replace("<", "\\u003c")
    page = resources.files("embedgate.toolkit").joinpath("map.html").read_text(encoding="utf-8")
    safe_title = title.replace("&", "&amp;").replace("<", "&lt;")
    return Template(page).substitute(title=safe_title, data=text).encode()


def map_png(found: Map, values: Sequence[str] | None = None, *, title: str = "") -> bytes:
    """The map as a picture, with a legend. values: the group of each text."""
    figure = new_figure(10, 7)
    axes = figure.subplots()
    size = max(4.0, min(34.0, 9_000 / len(found.coordinates)))
    groups = _by_size(values) if values is not None else [""]
    shown = values if values is not None else [""] * len(found.coordinates)
    handles, labels = [], []
    for at, group in enumerate([*groups[: len(PALETTE)], None] if len(groups) > len(PALETTE) else groups):
        is_other = group is None
        inside = [value in groups[len(PALETTE) :] if is_other else value == group for value in shown]
        colour, label = (OTHERS, "all others") if is_other else (PALETTE[at], group or "(empty)")
        points = found.coordinates[inside]
        handles.append(axes.scatter(points[:, 0], points[:, 1], s=size, c=colour, alpha=0.85, linewidths=0))
        labels.append(f"{_cut(label)} ({sum(inside):,})")
    if values is not None:
        legend = figure.legend(
            handles,
            [str(at) for at in range(len(labels))],
            loc="outside right upper",
            frameon=False,
            markerscale=1.4,
            fontsize=9,
        )
        for text, label in zip(legend.get_texts(), labels, strict=True):
            text.set_text(label)  # matplotlib leaves out what is called `_`, as values of a column may be
    axes.set_title(title, loc="left", fontsize=12)
    axes.set(xticks=[], yticks=[], aspect="equal")
    axes.spines[:].set_color("#d8dde5")
    return png_of(figure)


def _cut(label: str) -> str:
    """A label on one line, so long that the legend leaves room for the map."""
    line = " ".join(label.split())
    return line if len(line) <= _MOST_LABEL else line[: _MOST_LABEL - 1] + "…"


def _shown(value: Scalar) -> str:
    return "" if value is None else str(value)


def _by_size(values: Sequence[str]) -> list[str]:
    """The values, the most frequent first, of equal ones in the order of the alphabet."""
    counts = Counter(values)
    return sorted(counts, key=lambda value: (-counts[value], value))


def _rounded(values: Floats) -> list[float]:
    return [round(value, _DIGITS) for value in values.tolist()]
