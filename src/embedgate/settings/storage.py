"""Settings of what is on disk: the data folder, the ledger, the cache of vectors."""

from pathlib import Path
from typing import Annotated, Literal

import platformdirs
from pydantic import AfterValidator, Field

from embedgate.settings.base import Positive, Seconds, Section

MIN_CACHE_DISK_BYTES = 16_000_000


class StorageSettings(Section):
    """The data folder and the ledger."""

    data_dir: Path = Field(
        default_factory=lambda: Path(platformdirs.user_data_dir("embedgate", appauthor=False)),
        description="Folder of the database, the keys of the first start and prepared models.",
    )
    synchronous: Literal["normal", "full"] = Field(
        "normal",
        description="How SQLite commits. `normal` survives a killed process; `full` also a power cut, at the cost of "
        "a disk sync per group commit.",
    )
    ledger_max_pending: Positive = Field(
        10_000,
        description="Ledger entries that may wait in memory, about 1 KB each, while the database cannot be written, "
        "and as many audit events. With a full queue they are only logged, and their requests fail with 500.",
    )
    ledger_patience_s: Seconds = Field(
        5.0,
        description="Seconds that answers wait for a database that cannot be written, before their requests fail with "
        "500. Their entries are still written as soon as that is possible.",
    )
    intents: Literal["priced", "budgets", "off"] = Field(
        "priced",
        description="For whose provider calls it is written to disk, before they leave, who pays and how much is held: "
        "all that have a price, those of callers with a budget, or none. What a killed process leaves behind is booked "
        "at the next start, as outcome `interrupted`; without intents, nobody knows of it.",
    )
    ledger_check_s: Seconds = Field(
        1.0,
        description="Seconds that a quiet ledger may have before it is written on trial. While it cannot be written, "
        "`/readyz` is 503 and requests at a price are refused with 503.",
    )
    ledger_outage: Literal["refuse-priced", "refuse-all"] = Field(
        "refuse-priced",
        description="What is refused while the ledger cannot be written: requests that a provider bills, or all. "
        "Entries of those served wait in memory, within half of `storage.ledger_max_pending`.",
    )
    audit_keep_days: Annotated[int, Field(ge=1, le=36_500)] | None = Field(
        None,
        description="Days that events of the audit trail are kept. A running gateway deletes older ones every hour; "
        "the trail tells of it and stays verifiable. If absent: for ever.",
    )


def _check_disk_bytes(size_bytes: int) -> int:
    if 0 < size_bytes < MIN_CACHE_DISK_BYTES:
        raise ValueError(f"must be 0, for no cache on disk, or at least {MIN_CACHE_DISK_BYTES}")
    return size_bytes


class CacheSettings(Section):
    """The cache of vectors, so that a text is not embedded and paid for twice."""

    enabled: bool = Field(True, description="false turns the cache off.")
    scope: Literal["project", "user", "shared"] = Field(
        "project",
        description="Who shares cached vectors: the keys of one project (of one user, where a key has no project), "
        "those of one user, or everybody. `shared` lets a caller see from cost and speed that another one has "
        "embedded the same text.",
    )
    reuse_costs: Literal["nothing", "full"] = Field(
        "nothing",
        description="Price of a text that came from the cache or from another request's call: nothing, or as much as "
        "if it had been sent to the provider.",
    )
    ttl_s: Seconds | None = Field(
        None,
        description="Seconds until a cached vector expires; vectors of one model revision never change.",
    )
    memory_bytes: Annotated[int, Field(ge=0)] = Field(
        64_000_000,
        description="Size of the memory tier, in bytes, overhead included. 0 turns it off. Vectors on disk that are "
        "in the system's page cache are found nearly as fast.",
    )
    disk_bytes: Annotated[int, Field(ge=0), AfterValidator(_check_disk_bytes)] = Field(
        4_000_000_000,
        description="Size of the disk tier, in bytes, in the folder `cache` of the data folder, which must be on a "
        "local disk. Never exceeded; 0 turns it off, else at least 16,000,000. 4 GB hold 600,000 vectors of 1,536 "
        "numbers.",
    )
    json_bytes: Annotated[int, Field(ge=0)] = Field(
        16_000_000,
        description="Memory for the JSON of vectors that were found in the cache and asked for as floats, in bytes. "
        "The next such request is answered without writing 1,536 numbers anew, a fifth of its time. 16 MB hold 600 "
        "vectors of that size; the least recently used go. 0 keeps none.",
    )
    max_pending_bytes: Positive = Field(
        32_000_000,
        description="Queue of vectors to be written to disk, in bytes. When it is full, further vectors stay in "
        "memory only.",
    )


class IdempotencySettings(Section):
    """Answers that are kept for requests with the header `Idempotency-Key`. When a bound is reached the oldest go."""

    keep_s: Seconds = Field(
        86_400.0, description="Seconds that an answer is kept. A retry that comes later is served, and paid, anew."
    )
    max_answer_bytes: Positive = Field(
        8_000_000,
        description="Largest answer that is kept, in bytes. A retry of a request with a larger one gets 409.",
    )
    max_answers_per_key: Positive = Field(10_000, description="Answers that are kept for one API key.")
    max_bytes_per_key: Positive = Field(200_000_000, description="Bytes of the answers that are kept for one API key.")
    max_answers: Positive = Field(100_000, description="Answers that are kept, for all API keys together.")
    max_bytes: Positive = Field(1_000_000_000, description="Bytes of all answers that are kept on disk.")
