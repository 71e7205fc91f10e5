"""Pages of lists: what is asked for, what comes back, and how a page is read from the database or cut from a list."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Generic, TypeVar

import msgspec
import sqlalchemy as sa
from msgspec import Meta, Struct

from embedgate.core.errors import Conflict, InvalidInput
from embedgate.govern.change import Reading
from embedgate.govern.fields import check_number

MAX_PAGE_ITEMS = 500
_MAX_SEARCH_CHARACTERS = 254  # the longest field that is searched, an e-mail address

_UNREADABLE = (sa.exc.DBAPIError, msgspec.MsgspecError, ArithmeticError, AttributeError, TypeError, ValueError)
"""What reading a row raises that holds what the gateway never writes, such as a text that is not UTF-8."""

Item = TypeVar("Item")
AnyStruct = TypeVar("AnyStruct", bound=Struct)
Column = sa.ColumnElement[Any]


class ListQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    """Which part of a list. Subclasses say what it can be sorted by."""

    offset: Annotated[int, Meta(ge=0, description="Items to pass over.")] = 0
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE_ITEMS, description="Items to give at most.")] = 100
    search: Annotated[str, Meta(description="Part of a name, an id or the like; capitals do not matter.")] = ""
    sort: str = ""


class Listed(Struct, Generic[Item], frozen=True):
    """A part of a list. `total` counts the items in all."""

    items: tuple[Item, ...]
    total: int
    offset: int
    limit: int


@dataclass(frozen=True, slots=True)
class Numbered:
    """What rows are called in errors, and the column with their number."""

    name: str
    column: Column

    def unreadable(self, number: object) -> Conflict:
        """The error for a row that holds what the gateway never writes."""
        return Conflict(
            f"{self.name} {number} cannot be read: something else than the gateway has changed it in the database. "
            "`embedgate audit verify` finds the first row that was changed; list the others by since and until."
        )


@dataclass(frozen=True, slots=True)
class Listing:
    """How a list can be read from the database.

    fields: what it can be sorted by; the first is its own order. unique: decides between equals. searched: where
    the search looks. numbered: of rows that a chain of digests protects, what they are called, and their number.
    """

    fields: Mapping[str, Column]
    unique: Column
    searched: tuple[Column, ...]
    numbered: Numbered | None = None

    @property
    def sorts(self) -> Meta:
        """For the `sort` of its query."""
        return sorts(*self.fields)


def sorts(*fields: str) -> Meta:
    """What a list can be sorted by, for the `sort` of its query."""
    return Meta(
        pattern=f"^(-?({'|'.join(fields)}))?$",
        description=f"One of {', '.join(fields)}; `-` before it reverses the order. Absent: the list's own order.",
    )


def read_page(
    reading: Reading,
    rows: sa.Select[Any],
    listing: Listing,
    query: ListQuery,
    records: Callable[[Sequence[sa.Row[Any]]], Iterable[Item]],
    *,
    default_sort: str = "",
) -> Listed[Item]:
    """One page of `rows`. The search ignores the case of ASCII letters.

    records: makes records of rows. default_sort: instead of the listing's first field.
    Raises InvalidInput for an offset, a limit, a sort or a search that the list does not have, Conflict for a numbered
    row that cannot be read.
    """
    check_number(query.offset, "offset", param="offset", minimum=0)
    check_number(query.limit, "limit", param="limit", minimum=1, maximum=MAX_PAGE_ITEMS)
    order = _order(listing, query.sort or default_sort)
    if query.search:
        _check_search(query.search)
        rows = rows.where(sa.or_(*(column.icontains(query.search, autoescape=True) for column in listing.searched)))
    count = rows.with_only_columns(sa.func.count(), maintain_column_froms=True)
    total = reading.connection.execute(count).scalar_one()
    page = rows.order_by(order.nulls_last(), listing.unique).offset(query.offset).limit(query.limit)
    if listing.numbered is None:
        items = tuple(records(reading.connection.execute(page).all()))
    else:
        items = tuple(read_numbered(reading, rows, page, records, listing.numbered)[1])
    return Listed(items, total, query.offset, query.limit)


def read_numbered(
    reading: Reading,
    rows: sa.Select[Any],
    page: sa.Select[Any],
    records: Callable[[Sequence[sa.Row[Any]]], Iterable[Item]],
    numbered: Numbered,
) -> tuple[Sequence[sa.Row[Any]], list[Item]]:
    """The rows of a page, and their records, checked. rows: of which the page is a part.

    Raises Conflict naming a row that cannot be read.
    """
    try:
        found = reading.connection.execute(page).all()
        items = list(records(found))
        _check_types(items)
    except _UNREADABLE:
        _name_unreadable(reading, rows, page, records, numbered)
        raise
    return found, items


def _check_types(items: Iterable[object]) -> None:
    """Raise one of _UNREADABLE unless every field has a value of its type. SQLite stores any in any column."""
    for item in items:
        msgspec.json.encode(item)  # no half characters
        msgspec.convert(msgspec.to_builtins(item, builtin_types=(bytes,)), type(item))


def _name_unreadable(
    reading: Reading,
    rows: sa.Select[Any],
    page: sa.Select[Any],
    records: Callable[[Sequence[sa.Row[Any]]], Iterable[object]],
    numbered: Numbered,
) -> None:
    """Raise Conflict for the first row of a page that cannot be read by itself. rows: of which the page is a part."""
    numbers = reading.connection.execute(page.with_only_columns(numbered.column, maintain_column_froms=True))
    for number in numbers.scalars().all():
        try:
            _check_types(records(reading.connection.execute(rows.where(numbered.column == number)).all()))
        except _UNREADABLE as error:
            raise numbered.unreadable(number) from error


def pick(items: Iterable[AnyStruct], query: ListQuery) -> Listed[AnyStruct]:
    """The part of a short list, which is here as a whole, that a query asks for. The search looks at all its texts."""
    wanted = query.search.lower()
    found = [item for item in items if wanted in "\n".join(_texts(item)).lower()]
    if query.sort:
        name = query.sort.removeprefix("-")
        known = [item for item in found if getattr(item, name) is not None]
        known.sort(key=lambda item: _sort_key(name, getattr(item, name)), reverse=query.sort.startswith("-"))
        found = [*known, *(item for item in found if getattr(item, name) is None)]
    return Listed(tuple(found[query.offset : query.offset + query.limit]), len(found), query.offset, query.limit)


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


def _texts(item: Struct) -> list[str]:
    values = [getattr(item, name) for name in item.__struct_fields__]
    values += [inner for value in values if isinstance(value, dict) for inner in value.values()]
    return [value for value in values if isinstance(value, str)]


def _sort_key(name: str, value: Any) -> Any:
    if name.endswith("_usd"):
        return Decimal(value)
    return value.lower() if isinstance(value, str) else value
