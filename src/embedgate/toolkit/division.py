"""Division of a text into ranges that fit a number of tokens, at its best cuts."""

import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise

from embedgate.toolkit.outline import HEADING, Cut, sentences
from embedgate.toolkit.tokens import MeasuredText

Range = tuple[int, int]
"""Start and end, in characters."""

_SMALL = 8
"""A range of less than one in so many of the tokens joins its neighbour, if they fit together."""
_JOINERS = "\u200d\ufe0f"


class Division:
    """Divides one text. The ranges lie side by side, from the start of the text to its end."""

    def __init__(self, measured: MeasuredText, cuts: Sequence[Cut], room: int, always: Sequence[int] = ()) -> None:
        """room: most tokens of a range, without special tokens. always: places to cut at even if both sides fit."""
        self._measured = measured
        self._room = room
        self._n_special = measured.n_special
        first = len(measured.text) - len(measured.text.lstrip())
        self._cuts = [cut for cut in cuts if cut.offset > first]
        self._offsets = [cut.offset for cut in self._cuts]
        self._always = [offset for offset in always if offset > first]

    def ranges(self) -> list[Range]:
        """The ranges, in order."""
        places = [0, *self._always, len(self._measured.text)]
        found: list[Range] = []
        for start, end in pairwise(places):
            found += self._divide(start, end, self._room)
        return self._without_small(found)

    def _divide(self, start: int, end: int, room: int) -> list[Range]:
        """Ranges of a stretch: itself if it fits, else cut at the best places inside it."""
        if self._measured.tokens(start, end) <= room:
            return self._checked(start, end, room)
        inside = self._cuts[bisect_right(self._offsets, start) : bisect_left(self._offsets, end)]
        if inside:
            best = max(cut.strength for cut in inside)
            places = [cut.offset for cut in inside if cut.strength == best]
        else:
            places = sentences(self._measured.text, start, end) or self._measured.words(start, end)
        return self._packed([start, *places, end], room) if places else self._halved(start, end, room)

    def _packed(self, places: Sequence[int], room: int) -> list[Range]:
        """As many neighbours together as fit."""
        found: list[Range] = []
        first = 0
        while first < len(places) - 1:
            last = bisect_right(places, self._measured.farthest(places[first], room)) - 1
            if last > first:
                found += self._checked(places[first], places[last], room)
            else:
                last = first + 1
                found += self._divide(places[first], places[last], room)
            first = last
        return found

    def _checked(self, start: int, end: int, room: int) -> list[Range]:
        """The range itself if it fits exactly; where sums are only close, it may not, and is divided with less room."""
        excess = self._measured.exact(start, end) - self._n_special - self._room
        if excess <= 0:
            return [(start, end)]
        less = room * self._room // (self._room + excess)
        return self._divide(start, end, min(less, room - 1)) if room > 1 else self._halved(start, end, room)

    def _halved(self, start: int, end: int, room: int) -> list[Range]:
        """Ranges of a single word that does not fit."""
        middle = start + (end - start) // 2
        text = self._measured.text
        while middle < end and (unicodedata.combining(text[middle]) or text[middle] in _JOINERS):
            middle += 1
        if self._measured.exact(start, end) - self._n_special <= self._room or not start < middle < end:
            return [(start, end)]
        return self._halved(start, middle, room) + self._halved(middle, end, room)

    def _without_small(self, ranges: Sequence[Range]) -> list[Range]:
        """The ranges with small ones joined to a neighbour, but none that begins with a heading to the one before."""
        headings = {cut.offset for cut in self._cuts if cut.strength >= HEADING}
        found: list[Range] = []
        for start, end in ranges:
            may_join = found and (self._is_small(found[-1]) or (self._is_small((start, end)) and start not in headings))
            if may_join and self._fits(found[-1][0], end):
                found[-1] = (found[-1][0], end)
            else:
                found.append((start, end))
        return found

    def _is_small(self, found: Range) -> bool:
        return self._measured.tokens(*found) * _SMALL < self._room

    def _fits(self, start: int, end: int) -> bool:
        is_close = self._measured.tokens(start, end) <= self._room
        return is_close and self._measured.exact(start, end) - self._n_special <= self._room
