"""Reindexing: the old vectors serve until the switch, nothing is paid twice, back and forth, kills at any time."""

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import collection_worker as worker
from counting_embedder import Counting, records
from embedgate.core.errors import Conflict, UpstreamFailed
from embedgate.core.ports import CallLimits
from embedgate.core.vectors import Vectors
from embedgate.toolkit import Collection, Collections, Reindexing, roll_back
from embedgate.toolkit.collections.reindexing import forget
from embedgate.toolkit.collections.store import Item
from forms import dice, scaled


class Other(Counting):
    """Another model."""

    @property
    def model(self) -> str:
        return "other/model"


@pytest.fixture
def notes(shelf: Collections) -> Iterator[Collection]:
    with shelf.create("notes", Counting()) as collection:
        collection.add(records(*(f"text {number}" for number in range(40)), "text 0"))
        yield collection


def test_the_old_vectors_serve_until_the_switch(shelf: Collections, notes: Collection) -> None:
    other = Other(24)
    work = Reindexing(notes, other)
    before = work.estimate(with_trial=False)
    assert (before.n_texts, before.seconds) == (40, None)
    assert before.n_tokens == pytest.approx(40 * 7 / 4, abs=3)
    trial = work.estimate()
    assert trial.n_texts == 25  # two of the sixteen are the same
    assert trial.seconds is not None
    progress: list[tuple[int, int]] = []
    assert work.embed(on_progress=lambda done, n: progress.append((done, n))) == 25
    assert progress[-1][0] == progress[-1][1]
    assert notes.search("text 3", k=1)[0].text == "text 3"
    work.switch()
    assert (notes.serving.model, notes.serving.dim) == ("other/model", 24)
    with pytest.raises(Conflict, match="other/model, dim 24"):
        notes.search("text 3")
    with shelf.open("notes", other) as moved:
        assert moved.search("text 3", k=1)[0].score == pytest.approx(1, abs=1e-6)
        assert len(moved) == 41
    paid = Counter(text for text in other.asked if text.startswith("text"))
    assert paid == Counter({f"text {number}": 1 for number in range(40)}) + Counter({"text 3": 1})  # the question


def test_what_was_embedded_before_a_failure_is_not_paid_again(notes: Collection) -> None:
    class Failing(Other):
        left = 3

        def embed(self, texts, input_type=None) -> Vectors:  # type: ignore[no-untyped-def]
            self.left -= 1
            if self.left < 0:
                raise UpstreamFailed("it failed")
            return super().embed(texts, input_type)

    failing = Failing(24, CallLimits(max_inputs=5))
    with pytest.raises(UpstreamFailed):
        Reindexing(notes, failing).embed()
    rest = Other(24)
    work = Reindexing(notes, rest)
    assert work.new.number == 2
    assert work.embed() == 40 - 15
    work.switch()
    assert {*failing.asked, *rest.asked} == {f"text {number}" for number in range(40)}
    assert len(failing.asked) + len(rest.asked) == 40


def test_changes_meanwhile_are_caught_up_with_before_the_switch(notes: Collection) -> None:
    other = Other(24)
    work = Reindexing(notes, other)
    work.embed()
    notes.add([Item("new", "added meanwhile"), Item("a.txt:2", "changed meanwhile")])
    notes.delete(["a.txt:3"])
    work.switch()
    found = Collection(notes.store, other)
    assert found.search("added meanwhile", k=1)[0].id == "new"
    assert found.search("changed meanwhile", k=1)[0].id == "a.txt:2"
    assert len(found) == 41


def test_one_rolls_back_and_forth_and_forgets(notes: Collection) -> None:
    with pytest.raises(Conflict, match="no vectors that served before"):
        roll_back(notes)
    other = Other(24)
    Reindexing(notes, other).switch()
    notes.delete(["a.txt:1"])
    assert roll_back(notes).model == "fake/deterministic"
    assert notes.search("text 7", k=1)[0].text == "text 7"
    assert len(notes) == 40
    n_paid = len(other.asked)
    work = Reindexing(notes, other)
    assert work.estimate().n_texts == 0
    work.switch()
    assert len(other.asked) == n_paid
    moved = Collection(notes.store, other)
    moved.add([Item("new", "added since")])
    with pytest.raises(Conflict, match="only these are embedded"):
        roll_back(moved)
    back = Counting()
    Reindexing(moved, back).switch()
    assert back.asked == ["added since"]
    assert forget(notes) == 1
    assert [each.model for each in notes.facts.generations] == ["fake/deterministic"]
    with pytest.raises(Conflict, match="already"):
        Reindexing(notes, Counting())


def test_changes_of_results_are_those_of_brute_force(notes: Collection) -> None:
    other = Other(24)
    work = Reindexing(notes, other)
    work.embed()
    questions = ["text 5", "something else"]
    old, new = Counting().embed(questions), other.embed(questions)
    items = [item for page, _ in notes.export() for item in page]

    def best(embedder: Counting, vector: Vectors) -> list[str]:
        scores = embedder.embed([item.text for item in items]) @ vector
        return [items[place].id for place in np.argsort(-scores, kind="stable")[:10]]

    for place, change in enumerate(work.changes(questions, old, new)):
        before, after = best(Counting(), old[place]), best(other, new[place])
        assert change.n_same == len({*before} & {*after})
        assert change.is_first_same == (before[0] == after[0])
    sampled = work.changes_of_samples(8)
    assert len(sampled) == 8
    assert all(0 <= change.n_same <= 10 for change in sampled)


N_KILLS = scaled(5, 50)
N_TEXTS = scaled(400, 4_000)
KILLED = scaled(["sqlite"], ["sqlite", "postgresql"])


@pytest.fixture(scope="module")
def program() -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, worker.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def run(process: "subprocess.Popen[str]", folder: Path, place: str, work: str, calls_left: int) -> tuple[bool, int]:
    """Whether a child died before it was done, and the last progress that it reported."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{folder}\t{place}\t{work}\t{N_TEXTS}\t{calls_left}\n")
    process.stdin.flush()
    status, reported = map(int, process.stdout.readline().split())
    assert status in (0, -9)
    return status == -9, reported


@pytest.mark.hostile
@pytest.mark.parametrize("kind", KILLED)
@pytest.mark.parametrize("work", ["add", "reindex"])
def test_kills_lose_nothing_that_was_reported_and_pay_nothing_twice(
    program: "subprocess.Popen[str]", request: pytest.FixtureRequest, tmp_path: Path, work: str, kind: str
) -> None:
    place = f"sqlite:{tmp_path}" if kind == "sqlite" else str(request.getfixturevalue("postgres"))
    shelf, rolls = Collections(place), dice(work)
    old = worker.Billing(tmp_path / "old bill")
    with shelf.open("c", old) if "c" in shelf.names() else shelf.create("c", old) as collection:
        if work == "reindex":
            collection.add(worker.items(N_TEXTS))
    kept: set[str] = set()
    n_kills = 0
    most = N_TEXTS // worker.IN_A_CALL * 9 // 10 // N_KILLS  # calls of all runs that die: some are left for the last
    while True:
        bill = (tmp_path / "bill").read_text().splitlines() if (tmp_path / "bill").exists() else []
        has_died, reported = run(program, tmp_path, place, work, rolls.randint(1, most) if n_kills < N_KILLS else 0)
        with shelf.open("c", old) as collection:
            number = 1 if work == "add" or len(collection.facts.generations) == 1 else 2
            there = {item.text for item in collection.store.get(number, [item.id for item in worker.items(N_TEXTS)])}
            new = (tmp_path / "bill").read_text().splitlines()[len(bill) :]
            assert not kept & {*new}, "what was there was embedded again"
            assert kept <= there
            assert len(there) - len(kept) >= reported
            assert len(new) - (len(there) - len(kept)) <= worker.AHEAD
            kept = there
            if work == "reindex" and has_died:
                assert collection.search("text 7", k=1)[0].score == pytest.approx(1, abs=1e-6)
        if not has_died:
            break
        n_kills += 1
    assert kept == {item.text for item in worker.items(N_TEXTS)}
    assert n_kills == N_KILLS
    if work == "reindex":
        with shelf.open("c", worker.Billing(tmp_path / "x", 24, "fake/other")) as collection:
            assert collection.search("text 7", k=1)[0].text == "text 7"
