"""Reader of JSON body fields, each with its type and a clear error. Knows no dialect.

A null optional field counts as absent. Duplicate names keep the last value, as the common JSON parsers do.
"""

import codecs
import functools
import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from embedgate.core.errors import InvalidInput, MalformedRequest, MissingFields, UnsupportedOption
from embedgate.core.models import Truncate
from embedgate.core.quantise import Quantisation
from embedgate.core.types import CacheUse, EmbedRequest, Input, InputType
from embedgate.server.large_json import (
    LARGE_BYTES,
    REFUSALS,
    copied,
    decode_id_lists,
    decode_ids,
    decode_text,
    decode_texts,
    raw_items,
)

T = TypeVar("T")
W = TypeVar("W", bound=str)

_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_fraction = msgspec.json.Decoder(float)

EncodingFormat = Literal["float", "base64", "int8", "uint8", "binary", "ubinary"]
ENCODING_FORMATS: tuple[EncodingFormat, ...] = ("float", "base64", "int8", "uint8", "binary", "ubinary")
CACHE_USES: tuple[CacheUse, ...] = ("store", "no-store")
INPUT_TYPES: tuple[InputType, ...] = ("query", "document")
TRUNCATES: tuple[Truncate, ...] = ("none", "start", "end")

_LARGEST_EXACT = 2**53
_MAX_SEARCHED_BYTES = 1_000_000
"""Of a body that cannot be parsed and is searched for the reason."""
MAX_USER_BYTES = 512
"""Of the field `user`, which is stored with every request, and named to some providers. OpenAI takes as much."""

_WHITE_SPACE = b" \t\n\r"
_NULL_TEXT = b"null"
_NULL = msgspec.Raw(_NULL_TEXT)


_INPUT_FORMS = "input must be a text, a list of texts, a list of token ids, or a list of such lists"


class Plain(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """An embeddings body with common fields only."""

    model: str
    input: str | tuple[str, ...]
    encoding_format: EncodingFormat | None = None
    dimensions: int | None = None
    input_type: InputType | None = None
    truncate: Truncate | None = None
    user: Annotated[str, msgspec.Meta(max_length=MAX_USER_BYTES // 4)] | None = None
    cache: CacheUse | None = None
    provider: str | None = None

    def inputs(self) -> tuple[str, ...]:
        """The texts."""
        return (self.input,) if isinstance(self.input, str) else self.input

    def request(self, model: str, provider: str | None) -> tuple[EmbedRequest, str]:
        """The request, and the requested encoding format. model, provider: as the dialect reads them."""
        encoding_format = self.encoding_format or "float"
        request = EmbedRequest(
            model=model,
            inputs=self.inputs(),
            dim=self.dimensions,
            input_type=self.input_type,
            truncate=self.truncate or "none",
            user=self.user,
            provider=provider,
            cache=self.cache or "store",
            quantisation=quantisation_of(encoding_format),
        )
        return request, encoding_format


def quantisation_of(encoding_format: EncodingFormat) -> Quantisation | None:
    """The quantisation of an encoding format; None for floats."""
    match encoding_format:
        case "float" | "base64":
            return None
        case quantisation:
            return quantisation


_plain = msgspec.json.Decoder(Plain)


def plain(body: bytes) -> Plain | None:
    """A plain body that is not large, decoded in one pass; None for any other, which `Fields` then reads or refuses."""
    if len(body) > LARGE_BYTES:
        return None
    try:
        found = _plain.decode(body)
    except REFUSALS:
        return None
    asked = found.input
    return found if asked and (isinstance(asked, str) or "" not in asked) else None


class Fields:
    """Fields of one JSON object, taken out one by one; the rest is unknown to the dialect."""

    def __init__(self, body: bytes) -> None:
        """Raises MalformedRequest if the body is not one JSON object in UTF-8."""
        self._left: dict[str, msgspec.Raw] = _decode(_object, body, "The body")

    def __contains__(self, name: object) -> bool:
        """Whether the field is there and not null."""
        raw = self._left.get(str(name))
        return raw is not None and not _is_null(raw)

    def take(self, name: str, kind: type[T], expected: str) -> T | None:
        """The field's value, or None if it is absent or null.

        kind: a type that msgspec decodes, strictly. expected: that type in words. Raises MalformedRequest.
        """
        value = self.peek(name, kind, expected)
        self._left.pop(name, None)
        return value

    def peek(self, name: str, kind: type[T], expected: str) -> T | None:
        """As `take`, but leaves the field in place."""
        raw = self._left.get(name)
        if raw is None:
            return None
        try:
            found: T | None = _decoder(kind).decode(raw)
            return found
        except REFUSALS as error:
            raise MalformedRequest(f"{name} must be {expected}; {_reason(error)}.", param=name) from error

    def text(self, name: str) -> str | None:
        """A text, or None."""
        return self.take(name, str, "a text")

    def whole(self, name: str, *, stays: bool = False) -> int | None:
        """A whole number, or None; 50.0 is one too, as some clients write it. stays: it is left in place."""
        try:
            value = self.peek(name, int, "a whole number")
        except MalformedRequest:
            if (value := _integral(self._left[name])) is None:
                raise
        if not stays:
            self._left.pop(name, None)
        return value

    def flag(self, name: str) -> bool | None:
        """true or false, or None."""
        return self.take(name, bool, "true or false")

    def user(self, *, stays: bool = False) -> str | None:
        """The field `user`, or None. stays: it is left in place. Raises InvalidInput if it is too long to be stored."""
        user = self.peek("user", str, "a text") if stays else self.text("user")
        if user is not None and (size_bytes := len(user.encode("utf-8", "replace"))) > MAX_USER_BYTES:
            reason = f"user has {size_bytes} bytes; at most {MAX_USER_BYTES} are allowed. Send an id of your end user."
            raise InvalidInput(reason, param="user")
        return user

    def choice(self, name: str, options: tuple[W, ...]) -> W | None:
        """One of a few words, or None. Raises UnsupportedOption for another word."""
        value = self.text(name)
        if value is None:
            return None
        for option in options:
            if value == option:
                return option
        raise UnsupportedOption(f"{name} is {value[:100]!r}; it can be {' or '.join(options)}.", param=name)

    def choices(self, name: str, options: tuple[W, ...]) -> tuple[W, ...] | None:
        """A list of a few words, each once, or None. Raises UnsupportedOption for another word."""
        values = self.take(name, tuple[str, ...], "a list of texts")
        if values is None:
            return None
        known: dict[str, W] = {option: option for option in options}
        for value in values:
            if value not in known:
                raise UnsupportedOption(f"{name} has {value[:100]!r}; it can have {', '.join(options)}.", param=name)
        return tuple(known[value] for value in dict.fromkeys(values))

    def required(self, names: tuple[str, ...], message: str) -> None:
        """Raises MissingFields with `message` if one of the fields is absent or null."""
        for name in names:
            if name not in self:
                raise MissingFields(message, param=name)

    def inputs(self, name: str = "input") -> tuple[Input, ...]:
        """The texts or token id lists of a field; one text or list counts as one input.

        Raises InvalidInput if the field is of another type, empty, or has an empty item.
        """
        items = _inputs(memoryview(self._left.pop(name, _NULL)))
        if not items:
            raise InvalidInput("input is empty; send at least one text.")
        for index, item in enumerate(items):
            if not item:
                raise InvalidInput("is empty; every input needs at least one character or token.", index=index)
        return items

    def rest(self) -> Mapping[str, bytes]:
        """The remaining fields that are not null: raw JSON by name."""
        return {name: copied(memoryview(raw)) for name, raw in self._left.items() if not _is_null(raw)}


_decoder: Callable[[Any], "msgspec.json.Decoder[Any]"] = functools.cache(lambda kind: msgspec.json.Decoder(kind | None))
"""The decoder of an optional field. Kept: to make one takes forty times as long as to use it."""


def _integral(raw: msgspec.Raw) -> int | None:
    """The whole number that is written as a fraction, such as 50.0 or 5e1; None for any other value."""
    try:
        value = _fraction.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return int(value) if value.is_integer() and abs(value) <= _LARGEST_EXACT else None


def _is_null(raw: msgspec.Raw) -> bool:
    return len(memoryview(raw)) == len(_NULL_TEXT) and bytes(raw) == _NULL_TEXT


def _inputs(raw: memoryview) -> tuple[Input, ...]:
    start = raw[0]
    if start == ord('"'):
        return (_decode_input(decode_text, raw),)
    inner = _begins_with(raw[1:]) if start == ord("[") else b""
    if inner == b"]":
        return ()
    if inner == b'"':
        return _decode_items(decode_texts, decode_text, raw)
    if inner == b"[":
        return _decode_items(decode_id_lists, decode_ids, raw)
    if inner.isdigit() or inner == b"-":
        return (_decode_input(decode_ids, raw),)
    raise InvalidInput(f"{_INPUT_FORMS}.")


def _begins_with(raw: memoryview) -> bytes:
    """The first byte that is not white space."""
    for start in range(0, len(raw), LARGE_BYTES):
        if found := bytes(raw[start : start + LARGE_BYTES]).lstrip(_WHITE_SPACE):
            return found[:1]
    return b""


def _decode_input(decode: Callable[[memoryview], T], raw: memoryview) -> T:
    try:
        return decode(raw)
    except REFUSALS as error:
        raise InvalidInput(f"{_INPUT_FORMS}; {_reason(error)}.") from error


def _decode_items(
    decode: Callable[[memoryview], tuple[T, ...]], decode_item: Callable[[memoryview], T], raw: memoryview
) -> tuple[T, ...]:
    """The items of a list. Raises InvalidInput naming the first that is wrong."""
    try:
        return decode(raw)
    except REFUSALS as error:
        for index, each in enumerate(raw_items(raw)):
            try:
                decode_item(memoryview(each))
            except REFUSALS as cause:
                raise InvalidInput(f"is wrong: {_reason(cause)}. {_INPUT_FORMS}.", index=index) from cause
        raise InvalidInput(f"{_INPUT_FORMS}; {_reason(error)}.") from error


def _decode(decoder: "msgspec.json.Decoder[T]", raw: bytes, what: str) -> T:
    try:
        return decoder.decode(raw.removeprefix(codecs.BOM_UTF8))
    except REFUSALS as error:
        if b"\\u" in raw and len(raw) <= _MAX_SEARCHED_BYTES:
            _find_half_character(raw)
        raise MalformedRequest(f"{what} is not a JSON object: {_reason(error)}.") from error


def _find_half_character(raw: bytes) -> None:
    """Raise for the first text with one half of a surrogate pair, such as half an emoji, which our parser refuses.

    Clients that cut texts by UTF-16 units send such halves.
    """
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return
    for name, value in found.items() if isinstance(found, dict) else ():
        items = value if isinstance(value, list) else [value]
        for index, item in enumerate(items):
            if not _is_whole(item):
                is_listed = isinstance(value, list)
                reason = "holds half of a character, one \\ud800 to \\udfff alone. Cut texts between characters"
                if name == "input":
                    raise InvalidInput(f"{reason}.", index=index) if is_listed else InvalidInput(f"{name} {reason}.")
                raise MalformedRequest(f"{name} {reason}.", param=name)


def _is_whole(value: object) -> bool:
    """Whether every text in a JSON value can be written as UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _reason(error: Exception) -> str:
    """The parser's message, without the input: it names types and positions only."""
    if isinstance(error, UnicodeDecodeError):
        return f"it is not valid UTF-8 at byte {error.start}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error)
