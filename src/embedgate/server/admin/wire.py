"""What the bodies of several routes share: times as ISO 8601, money as dollars in texts, and pages of lists."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, TypeVar

from msgspec import Meta, Struct

from embedgate.core.money import usd_text
from embedgate.core.pages import MAX_PAGE_ITEMS, Page, PageQuery

Record = TypeVar("Record")

Moment = Annotated[datetime, Meta(tz=True)]
"""A time with a zone, such as `2026-11-21T09:30:00Z`."""
Usd = Annotated[str, Meta(description="Dollars, exactly.", pattern=r"^-?\d+\.\d+$")]
"""An amount in an answer."""
UsdGiven = Annotated[str, Meta(description="Dollars, as a text so that nothing is rounded: `0.02`.")]
"""An amount in a request."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RECORD_FIELDS = {"at": "at_ms", "cost_usd": "cost_picodollars"}


class ListQuery(Struct, forbid_unknown_fields=True):
    """Which part of a list. Subclasses say what it can be sorted by."""

    offset: Annotated[int, Meta(ge=0, description="Items to pass over.")] = 0
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE_ITEMS, description="Items to give at most.")] = 100
    search: Annotated[str, Meta(description="Part of a name, an id or the like; capitals do not matter.")] = ""
    sort: str = ""

    @property
    def page(self) -> PageQuery:
        """As the lists of records are asked for."""
        sign = "-" if self.sort.startswith("-") else ""
        name = self.sort.removeprefix("-")
        field = _RECORD_FIELDS.get(name, f"{name}_ms" if name.endswith("_at") else name)
        return PageQuery(self.offset, self.limit, sign + field, self.search)


class Listed(Struct, frozen=True):
    """A part of a list. `total` counts the items in all."""

    items: tuple[Any, ...]
    total: int
    offset: int
    limit: int


def sorts(*fields: str) -> Meta:
    """What a list can be sorted by, for the `sort` of its query."""
    return Meta(
        pattern=f"^(-?({'|'.join(fields)}))?$",
        description=f"One of {', '.join(fields)}; `-` before it reverses the order. Absent: the list's own order.",
    )


def listed(page: Page[Record], query: ListQuery, wired: Callable[[Record], Struct]) -> Listed:
    """A page of records as it is answered. wired: gives the wire form of one."""
    return Listed(tuple(map(wired, page.items)), page.total, query.offset, query.limit)


def pick(items: Iterable[Struct], query: ListQuery) -> Listed:
    """The part of a short list, which is here as a whole, that a query asks for. The search looks at all its texts."""
    wanted = query.search.lower()
    found = [item for item in items if wanted in "\n".join(_texts(item)).lower()]
    if query.sort:
        name = query.sort.removeprefix("-")
        known = [item for item in found if getattr(item, name) is not None]
        known.sort(key=lambda item: _order(name, getattr(item, name)), reverse=query.sort.startswith("-"))
        found = [*known, *(item for item in found if getattr(item, name) is None)]
    return Listed(tuple(found[query.offset : query.offset + query.limit]), len(found), query.offset, query.limit)


def moment(at_ms: int) -> datetime:
    """The time of a record."""
    return _EPOCH + timedelta(milliseconds=at_ms)


def moment_or_none(at_ms: int | None) -> datetime | None:
    """The same where there may be none."""
    return None if at_ms is None else moment(at_ms)


def milliseconds(at: datetime | None) -> int | None:
    """A given time as records have it."""
    return None if at is None else (at - _EPOCH) // timedelta(milliseconds=1)


def usd_or_none(amount_picodollars: int | None) -> str | None:
    """An amount where there may be none."""
    return None if amount_picodollars is None else usd_text(amount_picodollars)


def _texts(item: Struct) -> list[str]:
    values = [getattr(item, name) for name in item.__struct_fields__]
    values += [inner for value in values if isinstance(value, dict) for inner in value.values()]
    return [value for value in values if isinstance(value, str)]


def _order(name: str, value: Any) -> Any:
    if name.endswith("_usd"):
        return Decimal(value)
    return value.lower() if isinstance(value, str) else value
