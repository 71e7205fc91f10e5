"""Settings of the credentials of callers, and of those that users make for themselves. Reads nothing."""

from typing import Annotated

from pydantic import Field

from embedgate.settings.base import Listed, Positive, Section

KeyPrefix = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]{0,15}$")]


class OwnKeySettings(Section):
    """What users who log in may make for themselves. They may always list, rotate and revoke their keys."""

    max_active: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Keys in use that a user may have before they can make no more, those of administrators included. "
        "0: users make no keys.",
    )
    max_per_day: Positive = Field(
        20, description="Keys that a user may make within 24 hours, revoked ones included. More get 409."
    )
    max_days: Positive = Field(
        90, description="Longest life of a key that a user makes, in days. One made without an end gets this one."
    )
    projects: Listed[str] = Field(
        (), description="Projects that such a key may be billed under, by name or id; * for every one. If absent: none."
    )
    models: Listed[str] | None = Field(
        None, description="Models that such a key may use at most, by id. If absent: all that policies permit."
    )
    requests_per_minute: Positive | None = Field(
        None, description="Most requests per minute of one such key. If absent: as its user and its project may."
    )
    tokens_per_minute: Positive | None = Field(
        None, description="Most tokens per minute of one such key. If absent: as its user and its project may."
    )


class KeySettings(Section):
    """Credentials of callers."""

    prefix: KeyPrefix = Field(
        "eg",
        description="Start of every new key: `<prefix>_` and 32 hex digits. `ziri` suits clients of that API. Keys "
        "that were made under another prefix go on working.",
    )
    accepted_prefixes: tuple[KeyPrefix, ...] = Field(
        (),
        description="Prefixes of keys of other gateways that can be imported whole. By digest, keys of any form can "
        "be imported; every imported key works.",
    )
    max_cached: Positive = Field(
        10_000,
        description="Keys that are cached for a second, and as many unknown ones. Fewer than are in use at once means "
        "more database look-ups.",
    )
    own: OwnKeySettings = Field(default_factory=OwnKeySettings)
