"""Long lists, a page at a time: what is asked for, and what comes back. What is in the list is another's business."""

from dataclasses import dataclass
from typing import Generic, TypeVar

MAX_PAGE_ITEMS = 500

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class PageQuery:
    """Which part of a list, in which order.

    limit: at most `MAX_PAGE_ITEMS`. sort: name of a field, with `-` before it from the last to the first; empty for
    the list's own order. search: a part of a name, an id or the like; empty for everything.
    """

    offset: int = 0
    limit: int = 100
    sort: str = ""
    search: str = ""


FIRST_PAGE = PageQuery()


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """A part of a list, and how many items there are in all."""

    items: tuple[Item, ...]
    total: int
