"""The weight of a body before it is parsed: values and fields are told from texts, and too many are refused."""

import json
import random

import pytest

from embedgate.core.errors import BodyTooLarge, MalformedRequest
from embedgate.server.weight import MAX_FIELDS, count, weight_of

MANY = 10**9


def counted(value: object) -> int:
    """Commas, colons and openings of a value outside of its texts."""
    if isinstance(value, list):
        return 1 + max(0, len(value) - 1) + sum(map(counted, value))
    if isinstance(value, dict):
        return 1 + max(0, len(value) - 1) + len(value) + sum(map(counted, value.values()))
    return 0


def made_up(dice: random.Random, depth: int = 0) -> object:
    kind = dice.random()
    if depth > 3 or kind < 0.4:
        return dice.choice(["", "a,b", "\\", '"', '\\"', "[{:", 'é\\\\"', "\\\\", 1, None])
    if kind < 0.7:
        return [made_up(dice, depth + 1) for _ in range(dice.randint(0, 4))]
    return {dice.choice('ab"\\:') + str(number): made_up(dice, depth + 1) for number in range(dice.randint(0, 4))}


@pytest.mark.parametrize("piece_bytes", [1, 2, 7, 1 << 17])
async def test_texts_are_told_from_values_wherever_the_pieces_are_cut(piece_bytes: int) -> None:
    dice = random.Random(piece_bytes)
    for _ in range(200):
        body = {str(number): made_up(dice) for number in range(dice.randint(0, 5))}
        found = await count(json.dumps(body, ensure_ascii=False).encode(), MANY, piece_bytes)
        assert (found.values, found.fields) == (counted(body), len(body))


@pytest.mark.parametrize("rubbish", [b"", b'"', b"\\", b'"' * 100, b"]]]]}", b"\xff\xfe", b'{"a' + b"\\" * 7])
async def test_any_bytes_can_be_counted(rubbish: bytes) -> None:
    await count(rubbish, MANY)
    assert await weight_of(rubbish, MANY) >= len(rubbish)


@pytest.mark.parametrize("item", [b'"ab"', b"1", b"[1]", b'{"a":1}', b"[" * 10])
async def test_a_body_of_too_many_values_is_refused(item: bytes) -> None:
    body = b'{"model":"m","input":[' + b",".join([item] * 2_000) + b"]}"
    with pytest.raises(BodyTooLarge, match=r"server\.max_body_values"):
        await weight_of(body, 1_000)


async def test_texts_may_have_as_many_commas_and_colons_as_they_like() -> None:
    body = json.dumps({"model": "m", "input": ['a, b: [c] {d} \\" '] * 100}).encode()
    assert await weight_of(body * 1, 200) < len(body) * 6 + 200 * 200


async def test_too_many_fields_are_refused() -> None:
    within = json.dumps({f"field {number}": 1 for number in range(MAX_FIELDS)}).encode()
    beyond = json.dumps({f"field {number}": 1 for number in range(MAX_FIELDS + 1)}).encode()
    assert await weight_of(within, MANY) > len(within)
    with pytest.raises(MalformedRequest, match=str(MAX_FIELDS)):
        await weight_of(beyond, MANY)


async def test_wide_characters_weigh_more() -> None:
    narrow = await weight_of(b"a" * 100_000, MANY)
    wide = await weight_of(("a" * 99_996 + "\U0001f600").encode(), MANY)
    escaped = await weight_of(b"a" * 1_000 + b"\\ud83d\\ude00", MANY)
    assert wide > 1.9 * narrow
    assert escaped > 5_000
