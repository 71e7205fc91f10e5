"""Pagination: the query for one page of a list, and the page."""

from dataclasses import dataclass
from typing import Generic, TypeVar

MAX_PAGE_ITEMS = 500

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class PageQuery:
    """Query for one page of a list: which part, in which order.

    limit: at most `MAX_PAGE_ITEMS`. sort: name of a field, with `-` before it for descending order; empty for
    the list's own order. search: a part of a name, an id or the like; empty for everything.
    """

    offset: int = 0
    limit: int = 100
    sort: str = ""
    search: str = ""


FIRST_PAGE = PageQuery()


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """One page of a list, and the number of items in all."""

    items: tuple[Item, ...]
    total: int
