"""Pages of long lists, read from the database: order, search and count. What a row means is the list's business."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa

from embedgate.core.errors import InvalidInput
from embedgate.core.pages import MAX_PAGE_ITEMS, Page, PageQuery
from embedgate.storage.fields import check_number

Item = TypeVar("Item")
Column = sa.ColumnElement[Any]
_MAX_SEARCH_CHARACTERS = 254  # the longest field that is searched, an e-mail address


@dataclass(frozen=True, slots=True)
class Listing:
    """How a list can be read.

    fields: what it can be sorted by; the first is its own order. unique: decides between equals. searched: where
    the search looks.
    """

    fields: Mapping[str, Column]
    unique: Column
    searched: tuple[Column, ...]


def read_page(
    connection: sa.Connection, rows: sa.Select[Any], listing: Listing, query: PageQuery
) -> tuple[Sequence[sa.Row[Any]], int]:
    """One page of `rows`, and how many there are in all. The search ignores the case of ASCII letters.

    Raises InvalidInput for an offset, a limit, a sort or a search that the list has not.
    """
    check_number(query.offset, "offset", param="offset", minimum=0)
    check_number(query.limit, "limit", param="limit", minimum=1, maximum=MAX_PAGE_ITEMS)
    order = _order(listing, query.sort)
    if query.search:
        _check_search(query.search)
        rows = rows.where(sa.or_(*(column.icontains(query.search, autoescape=True) for column in listing.searched)))
    total = connection.execute(rows.with_only_columns(sa.func.count(), maintain_column_froms=True)).scalar_one()
    page = rows.order_by(order.nulls_last(), listing.unique).offset(query.offset).limit(query.limit)
    return connection.execute(page).all(), total


def every(read: Callable[[PageQuery], Page[Item]]) -> list[Item]:
    """The whole list, read page by page."""
    items: list[Item] = []
    while True:
        page = read(PageQuery(offset=len(items), limit=MAX_PAGE_ITEMS))
        items += page.items
        if not page.items or len(items) >= page.total:
            return items


def _order(listing: Listing, sort: str) -> Column:
    name = sort[1:] if sort.startswith(("+", "-")) else sort
    column = listing.fields.get(name or next(iter(listing.fields)))
    if column is None:
        allowed = ", ".join(listing.fields)
        raise InvalidInput(f"The list cannot be sorted by {name!r}. Sort by one of: {allowed}.", param="sort")
    return column.desc() if sort.startswith("-") else column.asc()


def _check_search(search: str) -> None:
    if len(search) > _MAX_SEARCH_CHARACTERS or not search.isprintable():
        raise InvalidInput(
            f"The search has {len(search)} characters; it must be at most {_MAX_SEARCH_CHARACTERS} printable ones.",
            param="search",
        )
