"""Kept answers are bounded in age, number and bytes, for one owner and together."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from embedgate.settings import IdempotencySettings
from embedgate.storage.answers import AnswerStore, KeptAnswer
from governing import Clock

BOUNDS = IdempotencySettings(
    keep_s=60, max_answers_per_key=3, max_bytes_per_key=10_000, max_answers=5, max_bytes=14_000
)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[AnswerStore]:
    found = AnswerStore(tmp_path, BOUNDS, clock.ms)
    yield found
    found.close()


async def keep(store: AnswerStore, clock: Clock, owner: str, *keys: str, size_bytes: int = 10) -> None:
    for key in keys:
        clock.now_s += 1
        await store.keep(owner, key.encode(), KeptAnswer(b"d", 200, b"[]", b"x" * size_bytes))


async def kept(store: AnswerStore, owner: str, keys: str) -> str:
    return "".join([key for key in keys if await store.find(owner, key.encode()) is not None])


async def test_an_answer_is_found_by_its_owner_until_it_is_too_old(store: AnswerStore, clock: Clock) -> None:
    answer = KeptAnswer(b"digest", 502, b'[["a","b"]]', None)
    await store.keep("one", b"k", answer)
    clock.now_s += 59
    assert await store.find("one", b"k") == answer
    assert await store.find("two", b"k") is None
    clock.now_s += 1
    assert await store.find("one", b"k") is None


async def test_a_key_that_is_forgotten_is_free(store: AnswerStore, clock: Clock) -> None:
    await keep(store, clock, "one", "a", "b")
    await keep(store, clock, "two", "a")
    await store.forget("one", b"a")
    assert (await kept(store, "one", "ab"), await kept(store, "two", "a")) == ("b", "a")


async def test_the_oldest_answers_of_an_owner_go_first(store: AnswerStore, clock: Clock) -> None:
    await keep(store, clock, "one", *"abcd")
    assert await kept(store, "one", "abcd") == "bcd"
    await keep(store, clock, "one", "e", size_bytes=8_800)
    assert await kept(store, "one", "abcde") == "de"


async def test_all_answers_are_bounded_together(store: AnswerStore, clock: Clock) -> None:
    await keep(store, clock, "one", *"abc")
    await keep(store, clock, "two", *"abc")
    assert (await kept(store, "one", "abc"), await kept(store, "two", "abc")) == ("bc", "abc")
    await keep(store, clock, "three", "a", size_bytes=8_000)
    await keep(store, clock, "four", "a", size_bytes=5_000)
    assert "".join([await kept(store, owner, "abc") for owner in ("one", "two", "three", "four")]) == "a"


async def test_another_process_finds_them(tmp_path: Path, store: AnswerStore, clock: Clock) -> None:
    await keep(store, clock, "one", "a")
    other = AnswerStore(tmp_path, BOUNDS, clock.ms)
    assert await kept(other, "one", "a") == "a"
    assert (tmp_path / "answers.db").stat().st_mode & 0o077 == 0
    other.close()


@pytest.mark.parametrize("content", [b"\0" * 8192, b"no database " * 1000], ids=["zeros", "another file"])
async def test_a_damaged_file_is_set_aside_and_a_new_one_begun(
    tmp_path: Path, clock: Clock, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "answers.db").write_bytes(content)
    store = AnswerStore(tmp_path, BOUNDS, clock.ms)
    assert await store.find("one", b"a") is None
    await keep(store, clock, "one", "a")
    assert await kept(store, "one", "a") == "a"
    store.close()
    assert (tmp_path / "answers.damaged").read_bytes() == content
    assert [record.getMessage() for record in caplog.records] == ["answers_set_aside"]


async def test_a_page_that_is_damaged_sets_the_file_aside(tmp_path: Path, clock: Clock) -> None:
    store = AnswerStore(tmp_path, BOUNDS, clock.ms)
    await keep(store, clock, "one", "a", size_bytes=9_000)
    store.close()
    file = tmp_path / "answers.db"
    raw = bytearray(file.read_bytes())
    raw[100:] = b"\xff" * (len(raw) - 100)
    file.write_bytes(raw)
    store = AnswerStore(tmp_path, BOUNDS, clock.ms)
    await keep(store, clock, "one", "b")
    assert await kept(store, "one", "ab") == "b"
    store.close()
