"""Routes for keys: made, imported, rotated, stopped, deleted."""

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from embedgate.administration import NewKey, state_of
from embedgate.core.access import KeyRecord
from embedgate.core.clock import utc_ms
from embedgate.core.errors import UnknownEntity
from embedgate.server.admin.route import Asked, Route
from embedgate.server.admin.wire import (
    Listed,
    ListQuery,
    Moment,
    listed,
    milliseconds,
    moment,
    moment_or_none,
    sorts,
)
from embedgate.storage.key_rows import KeyState

Expiry = Annotated[Moment | None, Meta(description="When it ends; null or absent: never.")]


class Key(Struct, frozen=True):
    """A key, without its secret."""

    id: str
    name: str
    hint: Annotated[str, Meta(description="The last four characters of the secret.")]
    state: Annotated[KeyState, Meta(description="Disabled too if its user or its project is.")]
    is_disabled: Annotated[bool, Meta(description="Whether the key itself is.")]
    user_id: str
    user_name: str
    project_id: Annotated[str | None, Meta(description="What it is billed under, if not under its user.")]
    project_name: str | None
    created_at: Moment
    expires_at: Moment | None
    revoked_at: Moment | None
    last_used_at: Moment | None
    replaced_by: Annotated[str | None, Meta(description="Of the old secret of a rotated key: the id of that key.")]


class KeyWithSecret(Struct, frozen=True):
    """A key with its new secret, which is shown this once."""

    key: Key
    secret: str


class KeyToMake(Struct, forbid_unknown_fields=True):
    """A key to be made. user, project: name or id."""

    user: str
    name: str
    project: str | None = None
    expires_at: Expiry = None


class KeyToImport(Struct, forbid_unknown_fields=True):
    """A key that exists already. user, project: name or id."""

    user: str
    name: str
    key: Annotated[str, Meta(description="The whole key, or its SHA-256 as 64 hex digits.")]
    hint: Annotated[str, Meta(description="With a digest: the last characters of the key, up to four.")] = ""
    project: str | None = None
    expires_at: Expiry = None


class KeyChange(Struct, forbid_unknown_fields=True):
    """What is to be different; what is absent stays."""

    is_disabled: bool | None = None
    expires_at: Annotated[Moment | UnsetType | None, Meta(description="When it ends; null: never.")] = UNSET


class Rotation(Struct, forbid_unknown_fields=True):
    """How a key gets a new secret."""

    overlap_s: Annotated[
        int, Meta(ge=0, description="Seconds that the old secret still works, at most 30 days; with 0 it is revoked.")
    ] = 0


class OwnKeyQuery(ListQuery):
    """Which keys."""

    state: KeyState | None = None
    sort: Annotated[str, sorts("created_at", "name", "user_name", "project_name", "expires_at", "last_used_at")] = ""


class KeyQuery(OwnKeyQuery):
    """Which keys."""

    user: Annotated[str | None, Meta(description="Name or id of a user.")] = None
    project: Annotated[str | None, Meta(description="Name or id of a project.")] = None


def key_of(record: KeyRecord) -> Key:
    """A key as it is answered."""
    return Key(
        id=record.id,
        name=record.name,
        hint=record.hint,
        state=state_of(record, utc_ms()),
        is_disabled=record.is_disabled,
        user_id=record.user_id,
        user_name=record.user_name,
        project_id=record.project_id,
        project_name=record.project_name,
        created_at=moment(record.created_at_ms),
        expires_at=moment_or_none(record.expires_at_ms),
        revoked_at=moment_or_none(record.revoked_at_ms),
        last_used_at=moment_or_none(record.last_used_at_ms),
        replaced_by=record.replaced_by,
    )


def with_secret(new: NewKey) -> KeyWithSecret:
    """A key that was just made, as it is answered."""
    return KeyWithSecret(key_of(new.record), new.secret)


def _list(asked: Asked) -> Listed:
    query: KeyQuery = asked.query
    page = asked.administration.keys.list(query.page, user=query.user, project=query.project, state=query.state)
    return listed(page, query, key_of)


def _show(asked: Asked) -> Key:
    return key_of(asked.administration.keys.get(asked.path["key"]))


def _create(asked: Asked) -> KeyWithSecret:
    new: KeyToMake = asked.body
    return with_secret(
        asked.administration.keys.create(
            new.user, new.name, project=new.project, expires_at_ms=milliseconds(new.expires_at)
        )
    )


def _import(asked: Asked) -> Key:
    new: KeyToImport = asked.body
    return key_of(
        asked.administration.keys.take_over(
            new.user,
            new.name,
            new.key,
            hint=new.hint,
            project=new.project,
            expires_at_ms=milliseconds(new.expires_at),
        )
    )


def _change(asked: Asked) -> Key:
    keys, key, change = asked.administration.keys, asked.path["key"], asked.body
    # The end comes first: it is refused wherever the other change would be, so that there are never half of both.
    if change.expires_at is not UNSET:
        keys.expire(key, milliseconds(change.expires_at))
    if change.is_disabled is not None:
        _ = keys.disable(key) if change.is_disabled else keys.enable(key)
    return key_of(keys.get(key))


def _rotate(asked: Asked) -> KeyWithSecret:
    return with_secret(asked.administration.keys.rotate(asked.path["key"], overlap_s=asked.body.overlap_s))


def _revoke(asked: Asked) -> Key:
    return key_of(asked.administration.keys.revoke(asked.path["key"]))


def _delete(asked: Asked) -> None:
    asked.administration.keys.delete(asked.path["key"])


_KEY = "/api/keys/{key}"

ROUTES = (
    Route(
        "GET",
        "/api/keys",
        "listKeys",
        "List the keys",
        _list,
        Key,
        query=KeyQuery,
        is_list=True,
        raises=(UnknownEntity,),
    ),
    Route(
        "POST",
        "/api/keys",
        "createKey",
        "Make a key",
        _create,
        KeyWithSecret,
        "The answer has the secret; nobody can show it again.",
        body=KeyToMake,
        example={"user": "alice", "name": "laptop", "project": "search", "expires_at": "2027-01-01T00:00:00Z"},
        status=201,
        is_change=True,
        raises=(UnknownEntity,),
    ),
    Route(
        "POST",
        "/api/keys/import",
        "importKey",
        "Take over a key that exists already",
        _import,
        Key,
        "Of another gateway, by the key itself or by its digest.",
        body=KeyToImport,
        example={"user": "alice", "name": "from before", "key": "5e" * 32, "hint": "9a7c"},
        status=201,
        is_change=True,
        raises=(UnknownEntity,),
    ),
    Route("GET", _KEY, "showKey", "Show a key", _show, Key),
    Route(
        "PATCH",
        _KEY,
        "changeKey",
        "Change a key",
        _change,
        Key,
        body=KeyChange,
        example={"expires_at": "2027-01-01T00:00:00Z"},
        is_change=True,
    ),
    Route(
        "DELETE",
        _KEY,
        "deleteKey",
        "Delete a key",
        _delete,
        None,
        "Its limits and budgets go with it; the ledger keeps what it spent.",
        is_change=True,
    ),
    Route(
        "POST",
        f"{_KEY}/rotate",
        "rotateKey",
        "Give a key a new secret",
        _rotate,
        KeyWithSecret,
        "Its id, limits, budgets and all it has spent stay.",
        body=Rotation,
        example={"overlap_s": 3600},
        is_change=True,
    ),
    Route(
        "POST",
        f"{_KEY}/revoke",
        "revokeKey",
        "Stop a key for good",
        _revoke,
        Key,
        "From the moment of the answer on it is refused here, and so are its old secrets.",
        is_change=True,
    ),
)
