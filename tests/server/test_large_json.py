"""Large JSON in pieces: exactly what the parser makes of the whole, in values and in refusals."""

import json
import random

import msgspec
import pytest

from embedgate.core.errors import RequestError
from embedgate.server import large_json
from embedgate.server.chat_body import open_chat
from embedgate.server.fields import Fields
from embedgate.server.large_json import check_utf8, copied, decode_id_lists, decode_ids, decode_text, decode_texts

LARGE_BYTES = 64
ALPHABET = [
    "a",
    " ",
    '"',
    "\\",
    ",",
    "]",
    "[",
    '",',
    '","',
    "\\\\",
    "\n",
    "é",
    "漢",
    "\U0001f600",
    "\x00",
    "word word ",
]
BAD = [b'"', b"\\", b"\\u12", b"\xff", b"\xe6\xbc", b",,", b"]", b"\\ud83d", b"1", b"\x01"]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("embedgate.server.large_json", "embedgate.server.fields"):
        monkeypatch.setattr(f"{name}.LARGE_BYTES", LARGE_BYTES)


def text_of(dice: random.Random, longest: int) -> str:
    return "".join(dice.choices(ALPHABET, k=dice.randrange(1, longest)))


def value_of(dice: random.Random) -> object:
    match dice.randrange(4):
        case 0:
            return text_of(dice, 200)
        case 1:
            return [text_of(dice, dice.choice([3, 8, 150])) for _ in range(dice.randrange(1, 40))]
        case 2:
            return [dice.randrange(2**31) for _ in range(dice.randrange(1, 60))]
        case _:
            return [[dice.randrange(300) for _ in range(dice.randrange(1, 30))] for _ in range(dice.randrange(1, 20))]


def outcome_of(body: bytes) -> object:
    try:
        return Fields(body).inputs()
    except RequestError as error:
        return type(error), error.message, error.param, getattr(error, "index", None)


def test_any_input_is_what_it_is_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    dice = random.Random("pieces")
    bodies = []
    for _ in range(1_500):
        separators = dice.choice([(",", ":"), (", ", ": "), (" ,", " :")])
        body = json.dumps(
            {"model": "m", "input": value_of(dice), "user": "u"},
            ensure_ascii=dice.random() < 0.5,
            separators=separators,
        ).encode()
        if dice.random() < 0.5:
            at = dice.randrange(len(body))
            body = body[:at] + dice.choice(BAD) + body[at + dice.randrange(2) :]
        bodies.append(body)
    in_pieces = [outcome_of(body) for body in bodies]
    for name in ("embedgate.server.large_json", "embedgate.server.fields"):
        monkeypatch.setattr(f"{name}.LARGE_BYTES", 10**9)
    whole = [outcome_of(body) for body in bodies]
    for body, found, expected in zip(bodies, in_pieces, whole, strict=True):
        assert found == expected, body
    assert 300 < sum(isinstance(each[0], type) for each in whole if isinstance(each, tuple) and each) < 1_200


def test_usual_lists_are_decoded_in_pieces() -> None:
    texts = [f"text {number}" for number in range(100)]
    ids, lists = list(range(100)), [[number, 7] for number in range(100)]
    for decode, items in ((decode_texts, texts), (decode_ids, ids), (decode_id_lists, lists)):
        raw = memoryview(msgspec.json.encode(items))
        assert len(raw) > 4 * LARGE_BYTES
        assert decode(raw) == msgspec.convert(items, tuple if items is not lists else tuple[tuple[int, ...], ...])


def test_a_text_is_decoded_in_pieces_and_never_within_a_character() -> None:
    for text in ("\U0001f600" * 200, "é漢" * 100, "word " * 100, "\\\n\t" * 100, "a" * 500, "x" * 63 + " " + "y" * 300):
        for ascii_only in (True, False):
            raw = json.dumps(text, ensure_ascii=ascii_only).encode()
            assert decode_text(memoryview(raw)) == text


def test_a_text_that_cannot_be_is_refused_as_in_one_piece() -> None:
    for bad in (b"\xff", b"\\ud83d", b"\\x", b"\xe6\xbc"):
        raw = b'"%b%b%b"' % (b"word " * 40, bad, b"word " * 40)
        with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)) as whole:
            msgspec.json.decode(raw, type=str)
        with pytest.raises(type(whole.value)) as in_pieces:
            decode_text(memoryview(raw))
        assert str(in_pieces.value) == str(whole.value)


def test_utf8_is_checked_in_pieces_and_a_fault_has_its_place_in_the_whole() -> None:
    dice = random.Random("utf8")
    for _ in range(500):
        body = text_of(dice, 300).encode()
        if dice.random() < 0.5:
            at = dice.randrange(len(body))
            body = body[:at] + bytes([dice.randrange(256)]) + body[at + 1 :]
        try:
            body.decode()
        except UnicodeDecodeError as error:
            with pytest.raises(UnicodeDecodeError) as found:
                check_utf8(body)
            assert found.value.start == error.start
        else:
            check_utf8(body)


def test_what_is_passed_through_is_copied_whole() -> None:
    messages = [{"role": "user", "content": "word " * 100}]
    fields = open_chat(json.dumps({"model": "m", "messages": messages, "seed": None}).encode())
    rest = fields.rest()
    assert json.loads(rest["messages"]) == messages
    assert "seed" not in rest
    assert copied(memoryview(b"x" * 1_000)) == b"x" * 1_000
    assert large_json.LARGE_BYTES == LARGE_BYTES
