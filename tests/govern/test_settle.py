"""Estimates are settled by a bill: what was not billed is given back, once, to who was charged for it."""

from collections.abc import Sequence
from datetime import date

from msgspec.structs import replace

from embedgate.core.access import Subject
from embedgate.core.types import LedgerEntry
from embedgate.govern import settle
from embedgate.govern.entries import LedgerFilter
from embedgate.govern.reconcile import Bill, reconcile
from embedgate.govern.settle import Settled, SettledPlace, Settlement
from embedgate.govern.usage import sum_up
from embedgate.storage.appender import Appender
from embedgate.storage.database import Database
from embedgate.storage.spending import sum_spent
from governing import Governing, entries_in

NEW_YEAR_MS = 1_767_225_600_000  # 2026-01-01T00:00Z
PLAIN = LedgerEntry(
    "req_plain", NEW_YEAR_MS, "openai", "user", "key_a", None, "m", "m", "openai", "small", 1, 100, 0, False, 5, None,
    500, "ok", 1.0, 1.0,
)  # fmt: skip
LOST = replace(
    PLAIN, request_id="req_lost", key_id="key_b", outcome="interrupted", tokens_estimated=True, tokens=30,
    cost_picodollars=150, estimated_tokens=30, estimated_picodollars=150,
)  # fmt: skip
GUESSED = replace(LOST, request_id="req_guessed", key_id="key_c", outcome="ok", tokens=10, cost_picodollars=50,
                  estimated_tokens=10, estimated_picodollars=50)  # fmt: skip


def write(database: Database, entries: Sequence[LedgerEntry]) -> None:
    with database.write() as connection:
        Appender(database.dialect)(connection.exec_driver_sql, entries)


def bill(tokens: int) -> Bill:
    return Bill("openai", f"date,model,tokens\n2026-01-01,small,{tokens}\n")


def spent(database: Database, key_id: str) -> int:
    with database.read() as connection:
        return sum_spent(connection, Subject("key", key_id), 0)


def test_what_was_not_billed_is_given_back_and_the_rest_is_confirmed(call: Governing, database: Database) -> None:
    elsewhere = replace(LOST, request_id="req_other", provider="elsewhere")
    write(database, [PLAIN, LOST, GUESSED, elsewhere])
    # 140 tokens are in the ledger, 40 of them by estimate; the provider has billed 120.
    assert call(settle.settle, bill(120)) == Settled(2, "0.0000000002", "0.0000000001")
    assert [spent(database, key) for key in ("key_a", "key_b", "key_c")] == [500, 150 - 75 + 150, 25]
    assert call(reconcile, bill(120)).total.token_difference == 0
    with call.invocation().read() as reading:
        (total,) = sum_up(reading, filter_by=LedgerFilter(provider="openai"))
    assert (total.requests, total.errors, total.tokens, total.estimated_picodollars) == (3, 1, 120, 0)
    assert call.last_event()[:2] == ("usage.settle", "openai")
    assert call(settle.settle, bill(120)) == Settled(0, "0.0", "0.0")  # once


def test_a_bill_beyond_the_ledger_confirms_the_estimates_and_gives_nothing_back(
    call: Governing, database: Database
) -> None:
    write(database, [PLAIN, LOST])
    assert call(settle.settle, bill(500)) == Settled(1, "0.00000000015", "0.0")
    assert spent(database, "key_b") == 150
    corrected = [entry for entry in entries_in(database) if entry.outcome == "settled"]
    assert [(entry.request_id, entry.cost_picodollars) for entry in corrected] == [("req_lost/settled", 0)]


def test_costs_are_settled_where_the_bill_states_them(call: Governing, database: Database) -> None:
    write(database, [PLAIN, LOST])
    text = "date,model,cost_usd\n2026-01-01,small,0.0000000006\n"
    assert call(settle.settle, Bill("openai", text)) == Settled(1, "0.00000000015", "0.00000000005")
    assert spent(database, "key_b") == 100


DAY_MS = 86_400_000
ALL_KEPT = Settled(0, "0.0", "0.0", 1, "0.00000000015")


def test_what_the_bill_does_not_name_keeps_its_estimates(call: Governing, database: Database) -> None:
    """A name that is spelt otherwise, a day that is missing: neither is a bill of nothing."""
    write(database, [PLAIN, LOST])
    for text in (
        "date,model,tokens\n2026-01-01,smal,130\n",
        "date,model,tokens\n2026-01-01,Small,0\n",
        "date,model,cost_usd\n2026-01-01,small-v2,0\n",
        "date,model,tokens\n2025-12-31,small,0\n2026-01-02,small,0\n",
    ):
        assert call(settle.settle, Bill("openai", text)) == ALL_KEPT, text
        assert spent(database, "key_b") == 150
    assert call(settle.settle, bill(0)) == Settled(1, "0.00000000015", "0.00000000015")  # a line of nothing is said


def test_a_bill_for_whole_days_names_each_day_of_its_models(call: Governing, database: Database) -> None:
    other = replace(LOST, request_id="req_large", upstream_model="large")
    later = replace(LOST, request_id="req_later", at_ms=NEW_YEAR_MS + 2 * DAY_MS)
    write(database, [PLAIN, LOST, other, later])
    first, last = date(2026, 1, 1), date(2026, 1, 3)
    text = "date,model,tokens\n2026-01-01,small,130\n"
    assert call(settle.settle, Bill("openai", text, first=first)) == Settled(
        1, "0.00000000015", "0.0", 1, "0.00000000015"
    )
    assert call(settle.settle, Bill("openai", text, first=first, last=last)) == Settled(
        1, "0.00000000015", "0.00000000015", 1, "0.00000000015"
    )
    assert spent(database, "key_b") == 150 + 150 + 0  # what the other model has is nowhere on the bill


def test_a_preview_says_what_would_be_settled_and_changes_nothing(call: Governing, database: Database) -> None:
    other = replace(LOST, request_id="req_large", upstream_model="large")
    write(database, [PLAIN, LOST, other])
    text = "date,model,tokens\n2026-01-01,small,110\n2026-01-01,larg,5\n"
    before = call(settle.preview_settlement, Bill("openai", text))
    day = date(2026, 1, 1)
    assert before == Settlement(
        (
            SettledPlace(day, "large", 1, "0.00000000015", False, "0.0"),
            SettledPlace(day, "small", 1, "0.00000000015", True, "0.0000000001"),
        ),
        Settled(1, "0.00000000015", "0.0000000001", 1, "0.00000000015"),
        ("larg",),
    )
    assert len(list(entries_in(database))) == 3
    assert call(settle.settle, Bill("openai", text)) == before.total
