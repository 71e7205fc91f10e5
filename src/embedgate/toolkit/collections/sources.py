"""Records as a collection keeps them: documents in pieces, lines of a pipe known by their texts."""

from collections.abc import Iterable

from msgspec.structs import replace

from embedgate.toolkit.collections.store import Item
from embedgate.toolkit.records import Origin, Record
from embedgate.toolkit.splitting import Splitter, as_records


def in_pieces(records: Iterable[Record], splitter: Splitter) -> list[Record]:
    """Documents in pieces that the model takes; lines and rows as they are."""
    found: list[Record] = []
    for record, pieces in splitter.split_records(record for record in records if record.origin.number is None):
        for number, piece in enumerate(as_records(record, pieces), start=1):
            found.append(replace(piece, origin=Origin(record.origin.file, number, "piece")))
    return [*(record for record in records if record.origin.number is not None), *found]


def known_by_text(records: Iterable[Record], stream: str) -> list[Record]:
    """The lines of a stream with ids made of their texts, each text once: their numbers do not last.

    stream: its name. Records that have ids of their own keep them.
    """
    found: dict[str, Record] = {}
    for record in records:
        is_numbered = record.id == f"{stream}:{record.origin.number}"
        item_id = Item("", record.text).digest[:16] if is_numbered else record.id
        found.setdefault(item_id, replace(record, id=item_id))
    return list(found.values())
