"""Every command of the toolkit and what may go wrong: one sentence, the documented exit code, and nothing lost."""

import json
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from embedgate import Client
from embedgate.providers import fake
from embedgate.toolkit import ClientEmbedder, Collections, FakeEmbedder, read_file
from program import Ended, Program
from upstream import Answer, Seen, Upstream, error

pytestmark = pytest.mark.usefixtures("fake_only")

DIM = ("--dimensions", "16")
LABELS = ("--label", "odd", "--label", "even=a number")
FAST = {"x-should-retry": "false"}

ON_TEXTS: dict[str, tuple[str, ...]] = {
    "index add": ("index", "add", "c", "FILE"),
    "index update": ("index", "update", "c", "FILE"),
    "classify": ("classify", "FILE", *LABELS),
    "cluster": ("cluster", "FILE", "-k", "2"),
    "outliers": ("outliers", "FILE", "-k", "2"),
    "dedupe": ("dedupe", "FILE"),
    "evaluate": ("evaluate", "FILE"),
    "map": ("map", "FILE", "-k", "2", "--layout", "pca"),
    "clean": ("clean", "FILE"),
    "split": ("split", "FILE"),
    "embed": ("embed", "--file", "FILE"),
}
"""Commands that read texts."""
WITH_A_COLLECTION: dict[str, tuple[str, ...]] = {
    "index add": ("index", "add", "c", "texts.csv"),
    "index update": ("index", "update", "c", "texts.csv"),
    "index delete": ("index", "delete", "c", "m1"),
    "index show": ("index", "show", "c"),
    "index export": ("index", "export", "c"),
    "index optimize": ("index", "optimize", "c"),
    "index drop": ("index", "drop", "c", "--yes"),
    "search": ("search", "c", "number"),
    "similar": ("similar", "c", "m1"),
    "ask": ("ask", "c", "number"),
    "reindex": ("reindex", "c", "--to", "fake/deterministic", "--dimensions", "8", "--yes"),
}
THAT_EMBED = {
    **{name: each for name, each in ON_TEXTS.items() if name not in ("clean", "split")},
    "index create": ("index", "create", "new"),
    "search": WITH_A_COLLECTION["search"],
    "ask": WITH_A_COLLECTION["ask"],
    "reindex": ("reindex", "local", "--to", "m", "--yes"),
}
NAMING_NO_MODEL = ("index add", "index update", "search", "ask", "reindex")
"""Commands that take the model of their collection, or another option for it."""


def on(file: str, command: Sequence[str]) -> list[str]:
    return [file if word == "FILE" else word for word in command]


def assert_refused(ended: Ended, code: int, said: str, command: Sequence[str]) -> None:
    assert (ended.code, ended.output) == (code, b""), (command, ended)
    assert said in ended.errors, (command, ended.errors)
    assert ended.errors.startswith("error: "), (command, ended.errors)
    assert ended.errors.count("\n") == 1, (command, ended.errors)


@pytest.fixture
def texts(folder: Path) -> Path:
    path = folder / "texts.csv"
    rows = [f"m{number},text number {number},{'odd' if number % 2 else 'even'}" for number in range(12)]
    path.write_text("\n".join(["id,text,topic", *rows, ""]), encoding="utf-8")
    return path


@pytest.fixture
def collection(texts: Path, fake_only: None) -> Path:
    """The file of a collection with the twelve texts."""
    with Collections(texts.parent / "data" / "collections").create("c", FakeEmbedder(16), wanted_dim=16) as made:
        made.add(read_file(texts))
    return texts.parent / "data" / "collections" / "c.collection"


@pytest.fixture
def far(texts: Path, fake_only: None, server: Upstream) -> Callable[..., list[str]]:
    """Commands that embed through a gateway elsewhere: a collection of its model, and one of the local model."""
    there = ("--url", server.base_url)
    place = texts.parent / "data" / "collections"
    if not _FILLED:
        _fill(place, texts, server)
        _FILLED.update({file.name: file.read_bytes() for file in place.glob("*.collection")})
    place.mkdir(parents=True, exist_ok=True)
    for name, filled in _FILLED.items():
        (place / name).write_bytes(filled)

    def words(name: str, file: str = "new.csv") -> list[str]:
        model = () if name in NAMING_NO_MODEL else ("--model", "m")
        return [*on(file, THAT_EMBED[name]), *there, *model]

    content = texts.read_text().replace("text number", "new text")
    (texts.parent / "new.csv").write_text(content, encoding="utf-8")
    return words


_FILLED: dict[str, bytes] = {}
"""The files of both collections, which are the same for every test."""


def _fill(place: Path, texts: Path, server: Upstream) -> None:
    shelf = Collections(place)
    with Client(None, server.base_url, model="m") as client:
        for name, embedder in (("c", ClientEmbedder(client)), ("local", FakeEmbedder(16))):
            with shelf.create(name, embedder, wanted_dim=16 if name == "local" else None) as made:
                made.add(read_file(texts))
    server.requests.clear()


BAD_FILES = [
    ("empty.csv", b"", "There are no texts in empty.csv"),
    ("head.csv", b"id,text\n", "There are no texts in head.csv"),
    ("blank.md", b"\n \n", "blank.md is empty"),
    ("latin.txt", b"caf\xe9\none\n", "line 1 of latin.txt is not UTF-8"),
    ("utf16.txt", "one\ntwo\n".encode("utf-16"), "utf16.txt is not UTF-8 but UTF-16. Name that with --encoding utf-16"),
    ("binary.txt", bytes(range(256)), "binary.txt is not a text file: it has NUL bytes"),
    ("columns.csv", b"id,body,n\na,b,1\n", "columns.csv has no column `text`. Name the one that has the texts"),
    ("double.csv", b"id,text\na,x\na,y\n", "line 3 of double.csv has the id 'a', and so has line 2 of double.csv"),
    ("row.csv", b"id,text\na,x,3\n", "line 2 of row.csv has 3 columns; its header has 2"),
    ("quote.csv", b'id,text\na,"x\nb,y\n', "line 3 of quote.csv is not valid CSV"),
    ("bad.jsonl", b'{"text":"a"}\n{nope\n', "line 2 of bad.jsonl is not JSON"),
    ("half.jsonl", b'{"text":"a\\ud800b"}\n', "line 1 of half.jsonl is not JSON"),
    ("number.jsonl", b'{"text":3}\n', "line 1 of number.jsonl has no text in 'text'"),
    ("bad.parquet", b"PAR1 not", "bad.parquet cannot be read as Parquet"),
    ("odd.xyz", b"one\n", "texts are not read from .xyz files"),
    ("absent.csv", None, "absent.csv: No such file"),
    ("papers", {"a.pdf": b"%PDF"}, "There are no texts in papers. Of a folder, files are read that end with .txt"),
    ("notes", {"a.md": b"# A", "b.md": b"caf\xe9"}, "line 1 of notes/b.md is not UTF-8"),
]


@pytest.mark.parametrize(("name", "content", "said"), BAD_FILES, ids=[name for name, _, _ in BAD_FILES])
def test_a_file_that_cannot_be_read_is_refused_by_every_command(
    name: str, content: bytes | dict[str, bytes] | None, said: str, program: Program, folder: Path
) -> None:
    if isinstance(content, bytes):
        (folder / name).write_bytes(content)
    elif content is not None:
        (folder / name).mkdir()
        for inner, raw in content.items():
            (folder / name / inner).write_bytes(raw)
    for command in ON_TEXTS.values():
        assert_refused(program(*on(name, command)), 1, said, command)


def test_a_file_that_fails_while_it_is_read_is_named(program: Program) -> None:
    memory = "/proc/self/mem"  # can be opened, and not read from its beginning
    if not Path(memory).exists():
        pytest.skip("there is no such file on this system")
    for command in ON_TEXTS.values():
        assert_refused(program(*on(memory, command), "--read-as", "lines"), 1, f"{memory}: ", command)


WRITING = {
    **{name: ON_TEXTS[name] for name in ("classify", "cluster", "outliers", "dedupe", "evaluate", "map", "embed")},
    "split": ("split", "FILE"),
    "clean": ("clean", "FILE"),
    "index export": ("index", "export", "c"),
    "search": WITH_A_COLLECTION["search"],
    "similar": WITH_A_COLLECTION["similar"],
}


def test_a_place_that_takes_no_result_is_refused_before_anything_is_embedded(
    program: Program, far: Callable[..., list[str]], folder: Path, server: Upstream
) -> None:
    for name, command in WRITING.items():
        words = far(name) if name in THAT_EMBED else on("new.csv", command)
        ending = "html" if name == "map" else "jsonl"
        (folder / f"there.{ending}").mkdir(exist_ok=True)
        for place, said in (
            (f"absent/out.{ending}", f"absent/out.{ending}: No such file or directory"),
            (f"there.{ending}", f"there.{ending}: Is a directory"),
            ("out.xyz", "out.xyz: "),
        ):
            assert_refused(program(*words, "--output", place), 1, said, (name, place))
    assert_refused(program(*far("evaluate"), "--chart", "absent/c.png"), 1, "absent/c.png: No such file", ("chart",))
    assert not [seen for seen in server.requests if seen.method == "POST"]


def test_a_disk_that_is_full_leaves_the_old_result_and_no_other_file(
    program: Program, far: Callable[..., list[str]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # else imports would leave cut files behind
    rows = [f"m{number},{number} {'of words ' * 120},{number % 2}" for number in range(100)]
    (folder / "large.csv").write_text("\n".join(["id,text,topic", *rows, ""]), encoding="utf-8")
    program("index", "create", "large", *DIM)
    program("index", "add", "large", "large.csv")
    collection = {"index export": ("index", "export", "large"), "similar": ("similar", "large", "m1", "-k", "99")}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for name in ("classify", "map", "embed", "clean", "split", *collection):
        words = (
            far(name, "large.csv") if name in THAT_EMBED else collection.get(name) or on("large.csv", ON_TEXTS[name])
        )
        if name == "map":
            words = [*words, "--colour", "topic"]  # in place of clusters, whose library takes seconds to import
        output = folder / ("out.html" if name == "map" else "out.jsonl")
        output.write_text("old", encoding="utf-8")
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))  # of any file, so that larger ones fail
        try:
            ended = program(*words, "--output", output.name)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert_refused(ended, 1, f"{output.name}: File too large", words)
        assert output.read_text(encoding="utf-8") == "old", name
    assert not list(folder.glob(".out*"))


FAULTS = [
    (error(401, "no such key", code="invalid_api_key"), 1, "no such key (401 invalid_api_key)"),
    (error(429, "slow down", code="rate_limit_exceeded", headers=FAST), 1, "slow down (429 rate_limit_exceeded)"),
    (error(500, "broken", headers=FAST), 4, "broken (500 http_500)"),
    (error(502, "no route", headers=FAST), 4, "no route (502 http_502)"),
    (error(503, "overloaded", headers=FAST), 4, "overloaded (503 http_503)"),
    (Answer(body=b"<html>"), 4, "the gateway's answer is not a list of embeddings"),
    (Answer(twist="one_extra"), 4, "the gateway sent "),
    (Answer(twist="zeros"), 4, "the gateway sent a vector of zeros"),
    (Answer(twist="nan"), 4, "something that is not a number"),
]


@pytest.mark.parametrize(("answer", "code", "said"), FAULTS, ids=[said for _, _, said in FAULTS])
def test_a_fault_of_the_far_side_ends_every_command_with_its_code(
    answer: Answer, code: int, said: str, program: Program, far: Callable[..., list[str]], server: Upstream
) -> None:
    server.usually(lambda seen: answer if seen.method == "POST" else error(404, "no such route"))
    for name in THAT_EMBED if code == 4 and "500" in said else ("index create", "index add", "search", "embed"):
        ended = program(*far(name))
        assert_refused(ended, code, said, (name,))
    assert len(json.loads(program("index", "list", "--json").output)) == 2  # nothing was made, and nothing lost


def test_a_gateway_that_does_not_listen_ends_with_4(program: Program, far: Callable[..., list[str]]) -> None:
    words = [*far("search")[:-1], "http://127.0.0.1:9"]
    assert_refused(program(*words), 4, "http://127.0.0.1:9 cannot be reached", words)


def test_what_was_added_before_a_provider_failed_is_kept_and_not_embedded_again(
    program: Program, far: Callable[..., list[str]], folder: Path, server: Upstream
) -> None:
    (folder / "many.txt").write_text("".join(f"line {number}\n" for number in range(600)), encoding="utf-8")

    def half(seen: Seen) -> Answer:
        return error(500, "broken", headers=FAST) if b'"line 590"' in seen.body else Answer()

    server.usually(half)
    ended = program(*far("index add", "many.txt"))
    assert (ended.code, ended.output) == (4, b"")
    assert ended.errors == (
        "failed after 512 of 600 texts, which are kept; the same command goes on\nerror: broken (500 http_500)\n"
    )
    for name in ("cluster", "embed"):
        ended = program(*far(name, "many.txt"), "--output", "out.jsonl")
        assert (ended.code, ended.output) == (4, b"")
        assert ended.errors.startswith("failed after 512 "), name
        assert not (folder / "out.jsonl").exists()
    server.usually(Answer())
    server.requests.clear()
    assert ", 512 unchanged, 0 removed; 88 texts embedded" in program(*far("index add", "many.txt")).text
    asked = {text for seen in server.requests if seen.method == "POST" for text in seen.json["input"]}
    assert asked & {f"line {number}" for number in range(512)} == {"line 0"}  # one is compared with what it was


@pytest.mark.parametrize("name", THAT_EMBED)
def test_an_interrupt_ends_every_command_with_130_and_leaves_nothing(
    name: str, program: Program, far: Callable[..., list[str]], folder: Path, server: Upstream
) -> None:
    gate = threading.Event()

    def interrupt(seen: Seen) -> Answer:
        if seen.method == "POST":
            os.kill(os.getpid(), signal.SIGINT)  # the command waits for an answer that does not come
        return Answer(gate=gate) if seen.method == "POST" else error(404, "no such route")

    server.usually(interrupt)
    output = () if name not in WRITING else ("--output", f"out.{'html' if name == 'map' else 'csv'}")
    try:
        ended = program(*far(name), *output)
    finally:
        gate.set()
    assert (ended.code, ended.output, ended.errors) == (130, b"", "")
    assert not list(folder.glob("*out.*"))
    listed = json.loads(program("index", "list", "--json").output)
    assert [(each["name"], each["texts"]) for each in listed] == [("c", 12), ("local", 12)]


TOO_LONG = 'has 300 tokens; the limit is 256. Shorten it, split it, or send "truncate": "end".'


def test_a_text_that_is_too_long_is_named_by_its_line_with_what_to_do(
    program: Program, far: Callable[..., list[str]], folder: Path, server: Upstream
) -> None:
    (folder / "long.txt").write_text("one\ntwo\nlong\nfour\nfive\n", encoding="utf-8")
    (folder / "longer.txt").write_text(f"one\ntwo\n{'word ' * 9_000}\nfour\nfive\n", encoding="utf-8")

    def refuse(seen: Seen) -> Answer:
        texts = seen.json["input"] if seen.method == "POST" else []
        if "long" not in texts:
            return Answer()
        return error(400, f"input[{texts.index('long')}] {TOO_LONG}", code="context_length_exceeded")

    server.usually(refuse)
    advice = "Shorten it, split it, or cut it with --truncate end."
    for name, command in ON_TEXTS.items():
        if name in ("clean", "split"):
            continue
        told = f"line 3 of long.txt has 300 tokens; the limit is 256. {advice} (400 context_length_exceeded)"
        assert_refused(program(*far(name, "long.txt")), 1, told, (name,))
        words = ["local" if word == "c" else word for word in on("longer.txt", command)]
        if name in ("index add", "embed", "cluster"):
            told = "this model's maximum context length is 8192 tokens. Shorten it or split it."  # it cannot cut
            assert told in program(*words).errors, name
    for name in ("search", "ask"):
        words = [*far(name)]
        words[2] = "long"
        assert_refused(program(*words), 1, "the question has 300 tokens; the limit is 256. Shorten it", words)


@pytest.mark.usefixtures("collection")
@pytest.mark.parametrize("name", ["search", "ask"])
def test_vectors_of_another_space_are_refused_with_both_named(name: str, program: Program) -> None:
    ended = program(*WITH_A_COLLECTION[name], "--model", "fake/deterministic", "--dimensions", "8")
    assert_refused(ended, 1, "fake/deterministic, dim 16. Those of fake/deterministic, dim 8, cannot", (name,))


def test_a_damaged_collection_is_named_by_every_command(program: Program, collection: Path) -> None:
    other = collection.with_name("d.collection")
    other.mkdir()  # no collection, whatever its name
    assert program("index", "list").text.count("\n") == 2
    collection.write_bytes(b"not a database" * 100)
    for command in WITH_A_COLLECTION.values():
        assert_refused(program(*command), 1, "c.collection is not a collection, or is damaged", command)
    for command in WITH_A_COLLECTION.values():
        words = ["none" if word == "c" else word for word in command]
        assert_refused(program(*words), 1, "There is no collection 'none'. There are: c.", words)


def test_ids_of_any_letters_are_kept(program: Program, folder: Path) -> None:
    names = ["ä✓", "日本", "🙂", "a b", "'; drop table items_1; --", '"x"']
    lines = [json.dumps({"id": name, "text": f"text {number}"}) for number, name in enumerate(names)]
    (folder / "odd.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert program("index", "create", "odd", *DIM).code == 0
    assert "6 new" in program("index", "add", "odd", "odd.jsonl").text
    for number, name in enumerate(names):
        (found,) = json.loads(program("search", "odd", f"text {number}", "-k", "1", "--json").output)
        assert found["id"] == name
        assert name not in {row["id"] for row in json.loads(program("similar", "odd", name, "--json").output)}
    assert program("index", "delete", "odd", *names[:3]).text == "deleted 3 texts\n"
    for name in ("classify", "cluster", "outliers", "dedupe", "embed"):
        assert program(*on("odd.jsonl", ON_TEXTS[name]), "--format", "csv", *DIM).code == 0, name


def test_new_weights_behind_a_name_are_refused_by_every_command_that_embeds(
    program: Program, far: Callable[..., list[str]], server: Upstream
) -> None:
    server.vector_of = lambda text, dim: fake.vector(str(text)[::-1], dim)
    for name in ("index add", "index update", "search", "ask"):
        assert_refused(program(*far(name)), 1, "The model m does not give the vectors any more", (name,))
    assert json.loads(program("index", "show", "c", "--json").output)["texts"] == 12
