"""The ledger read by administrators and users: its entries, page by page or as a file, and how they are narrowed down.

The ledger itself is written by `storage.ledger`; sums of it are in `usage`.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from msgspec import Meta, Struct

from embedgate.core.actions import POLICY_NAMES
from embedgate.core.errors import Conflict, UnknownEntity
from embedgate.core.money import to_usd, usd_text
from embedgate.core.types import LedgerEntry
from embedgate.govern.aliases import model_ids
from embedgate.govern.change import Invocation, Reading
from embedgate.govern.csv_file import Cell, csv_lines
from embedgate.govern.fields import check_number, findable
from embedgate.govern.keys import find_key
from embedgate.govern.lists import Listed, Listing, ListQuery, Numbered, read_numbered, read_page, sorts
from embedgate.govern.operation import Facts, File, reads, runs
from embedgate.govern.projects import find_project
from embedgate.govern.users import find_user
from embedgate.govern.values import Moment, Usd, milliseconds_or_none, moment
from embedgate.storage import schema

Format = Annotated[Literal["json", "csv"], Meta(description="`csv` answers with a file.")]
UserName = Annotated[str | None, Meta(description="Name or id of a user.")]

_LEDGER = schema.ledger
_ID = re.compile(r"(user|project|key)_[0-9a-f]{16}")
_READ_AT_ONCE = 1_000
_FIELDS = LedgerEntry.__struct_fields__
_COLUMNS = tuple(_LEDGER.c[name] for name in _FIELDS)
_FILE_COLUMNS = tuple({"at_ms": "at"}.get(name, name.replace("_picodollars", "_usd")) for name in _FIELDS)
_NUMBERED = Numbered("Entry", _LEDGER.c.id)
_LISTING = Listing(
    fields={
        "at": _LEDGER.c.at_ms,
        "cost_usd": _LEDGER.c.cost_picodollars,
        **{name: _LEDGER.c[name] for name in ("model", "provider", "items", "tokens", "total_ms")},
    },
    unique=_LEDGER.c.id.desc(),
    searched=tuple(_LEDGER.c[name] for name in ("request_id", "model", "user_id", "key_id", "end_user", "outcome")),
    numbered=_NUMBERED,
)
_OLDEST_FIRST = dataclasses.replace(_LISTING, unique=_LEDGER.c.id)


class Narrowed(ListQuery):
    """Which entries of the ledger. project, key: name or id; of one's own, the id of the project."""

    since: Annotated[Moment | None, Meta(description="The first moment that counts.")] = None
    until: Annotated[Moment | None, Meta(description="The first moment that no longer counts.")] = None
    project: str | None = None
    key: str | None = None
    model: Annotated[str | None, Meta(description="Id, alias or bare name of a model.")] = None
    provider: str | None = None


class OwnEntryQuery(Narrowed):
    """Which entries of the ledger."""

    sort: Annotated[str, sorts("at", "model", "provider", "items", "tokens", "cost_usd", "total_ms")] = ""


class EntryQuery(OwnEntryQuery):
    """Which entries of the ledger. A file has all of them, whatever `offset`, `limit`, `sort` and `search` say."""

    user: UserName = None
    format: Format = "json"


class Entry(Struct, frozen=True):
    """A line of the ledger: one request."""

    request_id: str
    at: Moment
    dialect: Annotated[str, Meta(description="The API that it spoke.")]
    user_id: str
    key_id: str
    project_id: str | None
    end_user: Annotated[str | None, Meta(description="The `user` field of the request.")]
    model: str
    space: str
    provider: str
    upstream_model: Annotated[str, Meta(description="What the provider calls the model.")]
    items: int
    tokens: int
    reused_tokens: int
    tokens_estimated: bool
    price_usd: Annotated[str, Meta(description="Dollars per token.")]
    price_as_of: str | None
    cost_usd: Usd
    outcome: Annotated[
        str,
        Meta(description="`ok`, the code of an error, `interrupted` (killed), or `settled` (corrects another one)."),
    ]
    total_ms: float
    upstream_ms: float
    authenticate_ms: float
    admit_ms: float
    action: Annotated[str, Meta(description=f"What was asked for: {POLICY_NAMES}.")]
    output_tokens: Annotated[int, Meta(description="Tokens that a chat model wrote.")]
    estimated_tokens: Annotated[
        int, Meta(description="Of `tokens`, those that no provider has confirmed: it told no usage, or never answered.")
    ]
    estimated_usd: Annotated[Usd, Meta(description="Of `cost_usd`, what is charged by estimate for that reason.")]


@dataclass(frozen=True, slots=True)
class LedgerFilter:
    """Which entries are meant: those that agree in every field that is given.

    `since_ms` is the first moment that counts, `until_ms` the first that no longer does.
    """

    since_ms: int | None = None
    until_ms: int | None = None
    user_id: str | None = None
    project_id: str | None = None
    key_id: str | None = None
    model: str | None = None
    provider: str | None = None

    def narrow(self, query: sa.Select[Any]) -> sa.Select[Any]:
        """The query of the ledger for these entries only. Raises InvalidInput for a time before 1970."""
        for name, is_meant in (("since_ms", _LEDGER.c.at_ms.__ge__), ("until_ms", _LEDGER.c.at_ms.__lt__)):
            at_ms: int | None = getattr(self, name)
            if at_ms is not None:
                check_number(at_ms, f"time {name}", param=name, minimum=0)
                query = query.where(is_meant(at_ms))
        for name in ("user_id", "project_id", "key_id", "model", "provider"):
            value: str | None = getattr(self, name)
            if value is not None:
                query = query.where(_LEDGER.c[name] == findable(value))
        return query


EVERY_ENTRY = LedgerFilter()


@runs(
    "usage.entries",
    "GET",
    "/api/usage/entries",
    Facts("listEntries", raises=(UnknownEntity, Conflict)),
)
def list_entries(invocation: Invocation, query: EntryQuery) -> Listed[Entry] | File:
    """List the entries of the ledger.

    Newest first; in a file, the oldest first.
    """
    with invocation.read() as reading:
        filter_by = named(reading, query, query.user)
        if query.format == "json":
            return _page(reading, query, filter_by)
    return File(csv_lines(_FILE_COLUMNS, map(_cells, every_entry(invocation, filter_by))))


@reads(
    "me.entries", "GET", "/api/me/usage/entries", Facts("listMyEntries", who="user", raises=(UnknownEntity, Conflict))
)
def list_own_entries(reading: Reading, query: OwnEntryQuery) -> Listed[Entry]:
    """List your entries in the ledger."""
    return _page(reading, query, own(reading, query))


def named(reading: Reading, query: Narrowed, user: str | None) -> LedgerFilter:
    """The filter of a query by an administrator. user, project, key: name or id.

    The id of what was deleted is understood, since the ledger keeps it. Raises UnknownEntity, or Conflict if several
    keys have the name.
    """
    project_id = _id_of(query.project, lambda name: find_project(reading, name).id)
    return LedgerFilter(
        since_ms=milliseconds_or_none(query.since),
        until_ms=milliseconds_or_none(query.until),
        user_id=_id_of(user, lambda name: find_user(reading, name).id),
        project_id=project_id,
        key_id=_id_of(query.key, lambda key: find_key(reading, key).id),
        model=_model(reading, query.model, project_id),
        provider=query.provider,
    )


def _model(reading: Reading, name: str | None, project_id: str | None) -> str | None:
    """The id of a model by id, alias or bare name; the ledger keeps ids that the catalogue has no more."""
    return None if name is None else model_ids(reading, (name,), project_id)[0]


def own(reading: Reading, query: Narrowed) -> LedgerFilter:
    """The filter of a query by a user, of this user alone: a key of theirs by name or id, a project by id.

    Raises UnknownEntity for the name of a key, or Conflict if several of theirs have it.
    """
    user_id = reading.actor.id
    return LedgerFilter(
        since_ms=milliseconds_or_none(query.since),
        until_ms=milliseconds_or_none(query.until),
        user_id=user_id,
        project_id=query.project,
        key_id=_id_of(query.key, lambda key: find_key(reading, key, user_id=user_id).id),
        model=_model(reading, query.model, query.project),
        provider=query.provider,
    )


def find_entry(reading: Reading, request_id: str, user_id: str | None = None) -> LedgerEntry:
    """The entry of one request. user_id: whose it must be, None for anybody's. Raises UnknownEntity."""
    query = sa.select(*_COLUMNS).where(_LEDGER.c.request_id == request_id)
    if user_id is not None:
        query = query.where(_LEDGER.c.user_id == user_id)
    row = reading.connection.execute(query).first()
    if row is None:
        raise UnknownEntity(
            f"The ledger has no request {request_id[:100]!r} of yours. It has those that were answered, and those that "
            "failed after a provider was paid; their id is in the header x-request-id.",
            param="id",
        )
    return LedgerEntry(*row)


def every_entry(invocation: Invocation, filter_by: LedgerFilter = EVERY_ENTRY) -> Iterator[LedgerEntry]:
    """All the entries in the order in which they were written, in bounded memory and without a long transaction.

    Raises Conflict naming an entry that cannot be read.
    """
    query = filter_by.narrow(sa.select(_LEDGER.c.id, *_COLUMNS))
    last_id, n = 0, _READ_AT_ONCE
    while n == _READ_AT_ONCE:
        page = query.where(_LEDGER.c.id > last_id).order_by(_LEDGER.c.id).limit(_READ_AT_ONCE)
        with invocation.read() as reading:
            rows, entries = read_numbered(reading, query, page, _entries, _NUMBERED)
        n = len(rows)
        last_id = rows[-1][0] if rows else last_id
        yield from entries


def _entries(rows: Iterable[Sequence[Any]]) -> list[LedgerEntry]:
    """Entries of rows, each with its id before its fields."""
    without_ids: Iterable[Sequence[Any]] = (row[1:] for row in rows)
    return [LedgerEntry(*fields) for fields in without_ids]


def _page(reading: Reading, query: OwnEntryQuery, filter_by: LedgerFilter) -> Listed[Entry]:
    listing = _OLDEST_FIRST if query.sort == "at" else _LISTING
    rows = filter_by.narrow(sa.select(*_COLUMNS))
    return read_page(reading, rows, listing, query, lambda found: map(_entry, found), default_sort="-at")


def _entry(row: sa.Row[Any]) -> Entry:
    fields = dict(row._mapping)
    for name in ("price", "cost", "estimated"):
        fields[f"{name}_usd"] = usd_text(fields.pop(f"{name}_picodollars"))
    return Entry(at=moment(fields.pop("at_ms")), **fields)


def _cells(entry: LedgerEntry) -> Iterator[Cell]:
    for name in _FIELDS:
        value = getattr(entry, name)
        if name == "at_ms":
            yield moment(value)
        else:
            yield to_usd(value) if name.endswith("_picodollars") else value


def _id_of(given: str | None, find: Callable[[str], str]) -> str | None:
    return given if given is None or _ID.fullmatch(given) else find(given)


OPERATIONS = (list_entries, list_own_entries)
