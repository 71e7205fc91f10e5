"""Which columns of a table fit a screen, and how wide each one is. Pure: knows texts and widths, prints nothing.

Facts, such as ids, times and numbers, are shown whole or not at all; prose may be broken between words. Widths are in
cells of a terminal: a character of Chinese, Japanese or Korean takes two.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

GAP = 2
"""Cells between two columns."""
_MIN_PROSE = 20
_LONG_WORD = 40
"""Longer words, such as addresses, do not widen a column of prose; they are broken where they must be."""


class Fitted(NamedTuple):
    """The columns that are shown, by place, the width of each, and the names of those that are left out."""

    places: tuple[int, ...]
    widths: tuple[int, ...]
    left_out: tuple[str, ...]


class _Width(NamedTuple):
    """What a column needs and what it would take. is_prose: whether it may be broken between words."""

    least: int
    whole: int
    is_prose: bool


def fit(
    columns: Sequence[str], rows: Sequence[Sequence[str]], width: int, least: Sequence[str] = (), *, is_whole: bool
) -> Fitted:
    """Choose columns for a screen of some cells.

    least: the columns that are left out first, in that order, after those without a text; then those at the right end.
    The first column and one more always stay. is_whole: leave none out, however wide the lines become.
    """
    needs = [_needs(name, [row[place] for row in rows]) for place, name in enumerate(columns)]
    shown = list(range(len(columns)))
    order = [columns.index(name) for name in least if name in columns]
    order += [place for place in reversed(range(1, len(columns))) if place not in order]
    order.sort(key=lambda place: any(row[place] for row in rows))  # stable: those without anything in them go first
    order = [place for place in order if place != 0]
    while not is_whole and len(shown) > 2 and _sum([needs[place].least for place in shown]) > width:
        shown.remove(order.pop(0))
    widths = _shared([needs[place] for place in shown], width)
    return Fitted(tuple(shown), widths, tuple(columns[place] for place in range(len(columns)) if place not in shown))


def _needs(name: str, cells: Collection[str]) -> _Width:
    from rich.cells import cell_len  # rich takes long to import

    longest = max((cell_len(cell) for cell in cells), default=0)
    in_header = max(map(cell_len, name.split()), default=0)
    whole = max(longest, cell_len(name))
    words = max((cell_len(word) for cell in cells for word in cell.split()), default=0)
    if longest > _MIN_PROSE and words < longest and any(cell.count(" ") > 1 for cell in cells):
        return _Width(max(in_header, min(words, _LONG_WORD), min(longest, _MIN_PROSE)), whole, is_prose=True)
    return _Width(max(longest, in_header), whole, is_prose=False)


def _shared(needs: Sequence[_Width], width: int) -> tuple[int, ...]:
    """The least widths, with what is left of the screen given evenly to the columns that want more."""
    widths = [need.least for need in needs]
    left = width - _sum(widths)
    while left > 0 and (wanting := [place for place, need in enumerate(needs) if widths[place] < need.whole]):
        for place in wanting[:left]:
            widths[place] += 1
        left -= len(wanting[:left])
    return tuple(widths)


def _sum(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)
