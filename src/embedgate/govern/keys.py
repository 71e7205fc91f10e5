"""Keys: credentials of callers, created, imported, rotated, revoked and deleted. Only their digests are stored.

A rotated key keeps its id, and with it its limits, its budgets and what it has spent. `storage.key_rows` says how its
old secrets are kept. A key is meant by its name, its id or the whole key; no message repeats what was given.
"""

import re
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
import sqlalchemy as sa
from msgspec import UNSET, Meta, Struct, UnsetType
from sqlalchemy.exc import IntegrityError

from embedgate.core.errors import Conflict, InvalidInput, UnknownEntity
from embedgate.core.keys import ZIRI_PREFIX, digest, is_well_formed, new_secret
from embedgate.govern.aliases import model_ids
from embedgate.govern.change import Change, Plain, Reading
from embedgate.govern.fields import MAX_NAME_CHARACTERS, MAX_TIME_MS, check_name, check_number, findable, new_id
from embedgate.govern.lists import Listed, Listing, ListQuery, read_page
from embedgate.govern.near_names import no_such_key
from embedgate.govern.operation import Facts, changes, reads
from embedgate.govern.orphans import drop_rules_of
from embedgate.govern.projects import find_project
from embedgate.govern.users import find_user
from embedgate.govern.values import Moment, milliseconds_or_none, moment, moment_or_none
from embedgate.storage import schema
from embedgate.storage.key_rows import KEYS, models_of
from embedgate.storage.key_uses import LAST_USED_AT_MS

MAX_OVERLAP_S = 30 * 24 * 3600
KeyState = Literal["active", "disabled", "expired", "revoked"]
KeyRef = Annotated[
    str, Meta(description="Name or id of the key, or the key itself.", examples=["key_0123456789abcdef"])
]
Expiry = Annotated[Moment | None, Meta(description="When it ends; null or absent: never.")]

_HINT_CHARACTERS = 4
_MAX_IDS_TOLD = 5
_MAX_MODELS_CHARACTERS = 1_000
_DIGEST_HEX = re.compile(r"[0-9a-fA-F]{64}")
_TABLE = schema.keys
_KEY = KEYS.selected_columns
_USED_KEYS = KEYS.add_columns(LAST_USED_AT_MS.label("last_used_at_ms"))
"""Every secret, and when it was last used: a look into an index of the ledger for each key of one secret."""
_LISTING = Listing(
    fields={
        "created_at": _KEY.created_at_ms,
        "name": sa.func.lower(_KEY.name),
        "user_name": sa.func.lower(_KEY.user_name),
        "project_name": sa.func.lower(_KEY.project_name),
        "expires_at": _KEY.expires_at_ms,
        "last_used_at": LAST_USED_AT_MS,
    },
    unique=_KEY.id,
    searched=(_KEY.name, _KEY.id, _KEY.hint, _KEY.user_name),
)


class Key(Struct, frozen=True):
    """A key, without its secret."""

    id: str
    name: str
    hint: Annotated[str, Meta(description="The last four characters of the secret.")]
    state: Annotated[KeyState, Meta(description="Disabled too if its user or its project is.")]
    is_disabled: Annotated[bool, Meta(description="Whether the key itself is.")]
    user_is_disabled: bool
    project_is_disabled: bool
    user_id: str
    user_name: str
    project_id: Annotated[str | None, Meta(description="What it is billed under, if not under its user.")]
    project_name: str | None
    created_at: Annotated[Moment, Meta(description="When the secret was made.")]
    expires_at: Moment | None
    revoked_at: Moment | None
    last_used_at: Annotated[Moment | None, Meta(description="When this secret was last accepted, to a few seconds.")]
    models: Annotated[
        tuple[str, ...] | None, Meta(description="The only models that it may use; null: all that policies permit.")
    ]
    replaced_by: Annotated[str | None, Meta(description="Of the old secret of a rotated key: the id of that key.")]


class KeyWithSecret(Struct, frozen=True):
    """A key with its new secret, which is shown this once."""

    key: Key
    secret: str

    def __repr__(self) -> str:
        return f"KeyWithSecret(key={self.key!r})"


class KeyToMake(Struct, forbid_unknown_fields=True):
    """A key to be made. user, project: name or id."""

    user: str
    name: str
    project: str | None = None
    expires_at: Expiry = None
    models: Annotated[
        tuple[str, ...] | None, Meta(description="The only models that it may use, by id; absent: all.")
    ] = None


class KeyToImport(Struct, forbid_unknown_fields=True):
    """An existing key to import. user, project: name or id."""

    user: str
    name: str
    key: Annotated[str, Meta(description="The whole key, or its SHA-256 as 64 hex digits.")]
    hint: Annotated[str, Meta(description="With a digest: the last characters of the key, up to four.")] = ""
    project: str | None = None
    expires_at: Expiry = None


class KeyChange(Struct, forbid_unknown_fields=True):
    """The fields to change; absent fields stay."""

    key: KeyRef
    name: Annotated[str | None, Meta(description="Another name, to tell it from others.")] = None
    is_disabled: bool | None = None
    expires_at: Annotated[Moment | UnsetType | None, Meta(description="When it ends; null: never.")] = UNSET


class Rotation(Struct, forbid_unknown_fields=True):
    """How a key gets a new secret."""

    key: KeyRef
    overlap_s: Annotated[
        int, Meta(ge=0, description="Seconds that the old secret still works, at most 30 days; with 0 it is revoked.")
    ] = 0


class WhichKey(Struct, forbid_unknown_fields=True):
    """A key."""

    key: KeyRef


class OwnKeyQuery(ListQuery):
    """Which keys."""

    state: Annotated[KeyState | None, Meta(description="Only keys in this state.")] = None
    sort: Annotated[str, _LISTING.sorts] = ""


class KeyQuery(OwnKeyQuery):
    """Which keys."""

    user: Annotated[str | None, Meta(description="Name or id of a user.")] = None
    project: Annotated[str | None, Meta(description="Name or id of a project.")] = None


@reads("keys.list", "GET", "/api/keys", Facts("listKeys", raises=(UnknownEntity,)))
def list_keys(reading: Reading, query: KeyQuery) -> Listed[Key]:
    """List the keys."""
    user_id = None if query.user is None else find_user(reading, query.user).id
    project_id = None if query.project is None else find_project(reading, query.project).id
    return page_of_keys(reading, query, user_id=user_id, project_id=project_id)


@changes(
    "keys.create",
    "POST",
    "/api/keys",
    Facts(
        "createKey",
        status=201,
        example={"user": "alice", "name": "laptop", "project": "search", "expires_at": "2027-01-01T00:00:00Z"},
        raises=(UnknownEntity,),
    ),
)
def create_key(change: Change, new: KeyToMake) -> KeyWithSecret:
    """Make a key.

    The answer has the secret; nobody can show it again.
    """
    project = find_project(change, new.project).id if new.project else None
    made = add_key(change, msgspec.structs.replace(new, models=new.models and model_ids(change, new.models, project)))
    note_made(change, made.key)
    return made


@changes(
    "keys.import",
    "POST",
    "/api/keys/import",
    Facts(
        "importKey",
        status=201,
        example={"user": "alice", "name": "from before", "key": "5e" * 32, "hint": "9a7c"},
        raises=(UnknownEntity,),
    ),
)
def import_key(change: Change, new: KeyToImport) -> Key:
    """Import an existing key.

    Of another gateway, by the key itself or by its digest.
    """
    prefixes, hint = (change.resources.key_prefix, *change.resources.accepted_prefixes), new.hint
    if _DIGEST_HEX.fullmatch(new.key):
        digest_of_key = bytes.fromhex(new.key)
        if hint:
            check_name(hint, "hint", param="hint", max_characters=_HINT_CHARACTERS)
    elif is_well_formed(new.key, *prefixes):
        digest_of_key, hint = digest(new.key), new.key[-_HINT_CHARACTERS:]
    else:
        known = dict.fromkeys((*prefixes, ZIRI_PREFIX))
        raise InvalidInput(
            f"The key is neither {' or '.join(f'`{prefix}_`' for prefix in known)} and 32 hexadecimal digits, nor "
            "`ziri-<user>-<hex>`, nor the SHA-256 of a key as 64 hexadecimal digits. Give one of these: the "
            "SHA-256 of a key of any other form, or set keys.accepted_prefixes.",
            param="key",
        )
    try:
        key = _add(change, new, digest_of_key, hint)
    except IntegrityError as error:
        raise Conflict("That key is known here already. List the keys to find it.", param="key") from error
    change.touched.keys.add(key.id)  # it may have been tried before, and is cached as unknown
    change.note("keys.import", key.id, **_facts(key))
    return key


@reads("keys.show", "GET", "/api/keys/{key}", Facts("showKey", raises=(Conflict,)))
def show_key(reading: Reading, which: WhichKey) -> Key:
    """Show a key."""
    return find_key(reading, which.key)


@changes("keys.update", "PATCH", "/api/keys/{key}", Facts("changeKey", example={"expires_at": "2027-01-01T00:00:00Z"}))
def change_key(change: Change, wanted: KeyChange) -> Key:
    """Change a key."""
    found = find_key(change, wanted.key)
    change.is_noted = True  # a change of nothing leaves no event
    if wanted.name is not None and wanted.name != found.name:
        rename(change, found, wanted.name)
    if wanted.expires_at is not UNSET:
        _check_not_revoked(found)
        expires_at_ms = milliseconds_or_none(wanted.expires_at)
        if expires_at_ms is not None:
            check_number(expires_at_ms, "expiry in ms", param="expires_at_ms", minimum=0, maximum=MAX_TIME_MS)
        _store(change, found, expires_at_ms=expires_at_ms)
        change.note("keys.expire", found.id, expires_at_ms=expires_at_ms)
    if wanted.is_disabled is not None:
        _check_not_revoked(found)
        _store(change, found, is_disabled=wanted.is_disabled)
        change.note("keys.disable" if wanted.is_disabled else "keys.enable", found.id)
    return find_key(change, found.id)


@changes("keys.delete", "DELETE", "/api/keys/{key}", Facts("deleteKey"))
def delete_key(change: Change, which: WhichKey) -> None:
    """Delete a key.

    Its limits and budgets go with it; the ledger keeps what it spent.
    """
    found = find_key(change, which.key)
    is_of_it = sa.or_(_TABLE.c.id == found.id, _TABLE.c.replaced_by == found.id)
    change.connection.execute(_TABLE.delete().where(is_of_it))
    drop_rules_of(change, "key", found.id)
    change.touched.keys.add(found.id)
    change.note("keys.delete", found.id, user=found.user_id, name=found.name)


@changes("keys.rotate", "POST", "/api/keys/{key}/rotate", Facts("rotateKey", example={"overlap_s": 3600}))
def rotate_key(change: Change, rotation: Rotation) -> KeyWithSecret:
    """Give a key a new secret.

    Its id, limits, budgets and all it has spent stay.
    """
    return rotate(change, find_key(change, rotation.key), rotation.overlap_s)


@changes("keys.revoke", "POST", "/api/keys/{key}/revoke", Facts("revokeKey"))
def revoke_key(change: Change, which: WhichKey) -> Key:
    """Revoke a key.

    From the moment of the answer on it is refused here, and so are its old secrets.
    """
    found = find_key(change, which.key)
    stop(change, found)
    change.note("keys.revoke", found.id)
    return find_key(change, found.id)


def page_of_keys(
    reading: Reading, query: OwnKeyQuery, *, user_id: str | None = None, project_id: str | None = None
) -> Listed[Key]:
    """A page of the keys, oldest first unless sorted otherwise; of a user, of a project if given."""
    rows = _USED_KEYS
    if user_id is not None:
        rows = rows.where(_TABLE.c.user_id == user_id)  # the same for a key and its old secrets, and indexed
    if project_id is not None:
        rows = rows.where(_KEY.project_id == project_id)
    if query.state is not None:
        rows = rows.where(_is_in_state(query.state, reading.now_ms))
    return read_page(reading, rows, _LISTING, query, lambda found: [_key(row, reading.now_ms) for row in found])


def find_key(reading: Reading, named: str, *, user_id: str | None = None) -> Key:
    """The key of an id, a whole key, or a name. user_id: whose it must be; None for anybody's.

    Of several keys with that name, the one that is not revoked is meant. Raises UnknownEntity, or Conflict, with the
    ids, if that is not one.
    """
    whose = sa.true() if user_id is None else _TABLE.c.user_id == user_id
    # A secret may be given where an id is expected, so what was given is hashed too, and no message repeats it.
    is_exact = sa.or_(_TABLE.c.digest == digest(named), _TABLE.c.id == findable(named))
    if found := _keys(reading, whose & is_exact):
        return found[0]
    if 1 <= len(named) <= MAX_NAME_CHARACTERS and named.isprintable():
        found = _keys(reading, whose & (_TABLE.c.name == findable(named)) & _TABLE.c.replaced_by.is_(None))
        found = [key for key in found if key.revoked_at is None] or found
    if not found:
        raise no_such_key(reading, named, whose)
    if len(found) > 1:
        ids = sorted(key.id for key in found)
        told = ", ".join(ids[:_MAX_IDS_TOLD]) + (", ..." if len(ids) > _MAX_IDS_TOLD else "")
        raise Conflict(f"{len(found)} keys have the name {named!r}: {told}. Give the id of one.", param="key")
    return found[0]


def state_at(key: Key, at: datetime) -> KeyState:
    """The state of a key at a time, as far as it is known now: revoked before expired, expired before disabled."""
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is not None and key.expires_at <= at:
        return "expired"
    is_stopped = key.is_disabled or key.user_is_disabled or key.project_is_disabled
    return "disabled" if is_stopped else "active"


def add_key(change: Change, new: KeyToMake) -> KeyWithSecret:
    """Store a new key; the event is the caller's. Raises InvalidInput, or UnknownEntity for its user or project."""
    secret = new_secret(change.resources.key_prefix)
    return KeyWithSecret(_add(change, new, digest(secret), secret[-_HINT_CHARACTERS:]), secret)


def note_made(change: Change, key: Key) -> None:
    """Write into the audit trail that a key was made."""
    change.note("keys.create", key.id, **_facts(key))


def stop(change: Change, key: Key) -> None:
    """Revoke a key; the event is the caller's. Revoking twice changes nothing."""
    if key.revoked_at is None:
        _store(change, key, revoked_at_ms=change.now_ms)


def rename(change: Change, key: Key, name: str) -> None:
    """Give a key another name, which its old secrets have too. Raises InvalidInput, or Conflict for an old secret."""
    if key.replaced_by is not None:
        raise Conflict(
            f"The key {key.id} is the old secret of {key.replaced_by}, and has its name. Rename that one.", param="key"
        )
    check_name(name, "key name")
    _store(change, key, name=name)
    change.note("keys.rename", key.id, name=name)


def rotate(change: Change, key: Key, overlap_s: int) -> KeyWithSecret:
    """Exchange the secret of a key; the old one works for `overlap_s` more, and with 0 it is revoked.

    The old secret gets a record of its own, which can be revoked or deleted before its time.
    Raises Conflict if the key is revoked or has expired, or is itself the old secret of another; InvalidInput.
    """
    check_number(overlap_s, "overlap in seconds", param="overlap_s", minimum=0, maximum=MAX_OVERLAP_S)
    if key.replaced_by is not None:
        raise Conflict(f"The key {key.id} is the old secret of {key.replaced_by}. Rotate that one.", param="key")
    _check_not_revoked(key)
    now_ms, secret = change.now_ms, new_secret(change.resources.key_prefix)
    if state_at(key, moment(now_ms)) == "expired":
        raise Conflict(f"The key {key.id} has expired. Give it a new end before rotating it.", param="key")
    old = change.connection.execute(_TABLE.select().where(_TABLE.c.id == key.id)).one()
    _store(
        change,
        key,
        digest=digest(secret),
        hint=secret[-_HINT_CHARACTERS:],
        created_at_ms=now_ms,
        rotated_at_ms=now_ms,
        last_used_at_ms=None,
    )
    change.connection.execute(
        _TABLE.insert().values(
            id=new_id("key"),
            user_id=old.user_id,
            name=old.name,
            digest=old.digest,
            hint=old.hint,
            created_at_ms=old.created_at_ms,
            revoked_at_ms=None if overlap_s else now_ms,
            expires_at_ms=now_ms + overlap_s * 1000,
            replaced_by=key.id,
            last_used_at_ms=milliseconds_or_none(key.last_used_at),
        )
    )
    change.note("keys.rotate", key.id, overlap_s=overlap_s)
    return KeyWithSecret(find_key(change, key.id), secret)


def _keys(reading: Reading, is_meant: sa.ColumnElement[bool]) -> list[Key]:
    return [_key(row, reading.now_ms) for row in reading.connection.execute(_USED_KEYS.where(is_meant))]


def _key(row: sa.Row[Any], now_ms: int) -> Key:
    key = Key(
        id=row.id,
        name=row.name,
        hint=row.hint,
        state="active",
        is_disabled=row.is_disabled,
        user_is_disabled=row.user_is_disabled,
        project_is_disabled=row.project_is_disabled,
        user_id=row.user_id,
        user_name=row.user_name,
        project_id=row.project_id,
        project_name=row.project_name,
        created_at=moment(row.created_at_ms),
        expires_at=moment_or_none(row.expires_at_ms),
        revoked_at=moment_or_none(row.revoked_at_ms),
        last_used_at=moment_or_none(row.last_used_at_ms),
        models=models_of(row),
        replaced_by=row.replaced_by,
    )
    return msgspec.structs.replace(key, state=state_at(key, moment(now_ms)))


def _is_in_state(state: KeyState, now_ms: int) -> sa.ColumnElement[bool]:
    """The keys that `state_at` would have in that state now."""
    is_revoked = _KEY.revoked_at_ms.is_not(None)
    has_expired = _KEY.expires_at_ms.is_not(None) & (_KEY.expires_at_ms <= now_ms)
    is_stopped = sa.or_(_KEY.is_disabled, _KEY.user_is_disabled, _KEY.project_is_disabled)
    conditions: dict[KeyState, sa.ColumnElement[bool]] = {
        "revoked": is_revoked,
        "expired": ~is_revoked & has_expired,
        "disabled": ~is_revoked & ~has_expired & is_stopped,
        "active": ~is_revoked & ~has_expired & ~is_stopped,
    }
    return conditions[state]


def _add(change: Change, new: KeyToMake | KeyToImport, digest_of_key: bytes, hint: str) -> Key:
    check_name(new.name, "key name")
    earliest_ms = change.now_ms + 1
    expires_at_ms = milliseconds_or_none(new.expires_at)
    if expires_at_ms is not None:
        check_number(expires_at_ms, "expiry in ms", param="expires_at_ms", minimum=earliest_ms, maximum=MAX_TIME_MS)
    key_id = new_id("key")
    models = msgspec.json.encode(new.models).decode() if isinstance(new, KeyToMake) and new.models is not None else None
    change.connection.execute(
        _TABLE.insert().values(
            id=key_id,
            user_id=find_user(change, new.user).id,
            name=new.name,
            digest=digest_of_key,
            hint=hint,
            created_at_ms=change.now_ms,
            project_id=None if new.project is None else find_project(change, new.project).id,
            expires_at_ms=expires_at_ms,
            models=models,
        )
    )
    return find_key(change, key_id)


def _facts(key: Key) -> dict[str, Plain]:
    """What the trail says of a new key."""
    expires_at_ms = milliseconds_or_none(key.expires_at)
    facts: dict[str, Plain] = {
        "user": key.user_id,
        "name": key.name,
        "project": key.project_id,
        "expires_at_ms": expires_at_ms,
    }
    return facts if key.models is None else facts | {"models": ", ".join(key.models)[:_MAX_MODELS_CHARACTERS]}


def _store(change: Change, key: Key, **values: str | bytes | int | None) -> None:
    change.connection.execute(_TABLE.update().where(_TABLE.c.id == key.id).values(values))
    change.touched.keys.add(key.id)


def _check_not_revoked(key: Key) -> None:
    if key.revoked_at is not None:
        raise Conflict(f"The key {key.id} is revoked for good. Create a new one.", param="key")


OPERATIONS = (
    list_keys,
    create_key,
    import_key,
    show_key,
    change_key,
    delete_key,
    rotate_key,
    revoke_key,
)
