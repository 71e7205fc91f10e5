"""Events of a stream, however they are cut into chunks: compared with a reader that has all of them at once."""

import json
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedgate.core.types import ChatUsage
from embedgate.transport.chat_events import MAX_EVENT_BYTES, EventReader

USAGE = {"prompt_tokens": 9, "completion_tokens": 2}
COUNT = {"choices": [], "usage": USAGE}


def said(text: str) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": {"content": text}}], "usage": None}


@dataclass
class Read:
    """What a reader makes of a stream."""

    passed: bytes = b""
    usage: ChatUsage | None = None
    written_bytes: int = 0
    first: bytes | None = None
    pieces: list[bytes] = field(default_factory=list)


def read(chunks: Sequence[bytes], *, hides_usage: bool) -> Read:
    """What the reader under test makes of it."""
    reader = EventReader(hides_usage=hides_usage)
    pieces = [reader.feed(chunk) for chunk in chunks]
    pieces.append(reader.finish())
    return Read(b"".join(pieces), reader.usage, reader.written_bytes, reader.first, pieces)


def blocks(stream: bytes) -> Iterator[list[bytes]]:
    """The lines of each event, with their ends. Slow and obvious."""
    block: list[bytes] = []
    for line in stream.splitlines(keepends=True):
        block.append(line)
        if not line.strip(b"\r\n"):
            yield block
            block = []
    yield block


def is_comment(line: bytes) -> bool:
    return line.startswith(b":")


def expected(stream: bytes, *, hides_usage: bool) -> Read:
    """What it must make of it."""
    result = Read()
    for block in blocks(stream):
        lines = [line.rstrip(b"\r\n")[5:].removeprefix(b" ") for line in block if line.startswith(b"data:")]
        data = b"\n".join(lines)
        is_count = False
        if data and result.first is None:
            result.first = data
        if data and data != b"[DONE]":
            event = json.loads(data)
            is_count = not event["choices"] and bool(event["usage"])
            if event["usage"]:
                usage = event["usage"]
                result.usage = ChatUsage(usage["prompt_tokens"], usage["completion_tokens"])
            for choice in event["choices"]:
                result.written_bytes += len(choice["delta"]["content"].encode())
        kept = list(takewhile(is_comment, block)) if is_count and hides_usage else block
        result.passed += b"".join(kept)
    return result


ends = st.sampled_from([b"\n", b"\r\n"])
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
counts = st.builds(
    lambda read, written: {"choices": [], "usage": {"prompt_tokens": read, "completion_tokens": written}},
    st.integers(0, 10**6),
    st.integers(1, 10**6),
)


@st.composite
def block_of_lines(draw: st.DrawFn) -> bytes:
    """One event, or what stands between events."""
    end = draw(ends)
    kind = draw(st.sampled_from(["said", "count", "both", "comment", "kept alive", "named", "split", "done", "empty"]))
    both = said("x") | {"usage": USAGE}
    event = {"count": draw(counts), "kept alive": draw(counts), "both": both}.get(kind) or said(draw(texts))
    data = json.dumps(event, ensure_ascii=draw(st.booleans())).encode()
    lines = [draw(st.sampled_from([b"data: ", b"data:"])) + data]
    match kind:
        case "comment":
            lines = [b": ping"]
        case "kept alive":
            lines = [b": ping", *lines]
        case "named":
            lines = [b"event: message", b"id: 7", *lines, b": ping"]
        case "split":
            before, comma, after = data.partition(b", ")
            lines = [b"data: " + before + comma, b"data: " + after]
        case "done":
            lines = [b"data: [DONE]"]
        case "empty":
            lines = []
    return end.join([*lines, b"", b""])


@st.composite
def cut_streams(draw: st.DrawFn) -> tuple[list[bytes], bytes]:
    """A stream in chunks and in one piece; its last event may lack its end."""
    stream = b"".join(draw(st.lists(block_of_lines(), max_size=8)))
    if draw(st.booleans()):
        stream = stream.rstrip(b"\r\n")
    places = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    bounds = [0, *places, len(stream)]
    return [stream[start:end] for start, end in pairwise(bounds)], stream


@given(cut_streams(), st.booleans())
def test_chunks_make_no_difference(cut: tuple[list[bytes], bytes], hides_usage: bool) -> None:
    chunks, stream = cut
    result, right = read(chunks, hides_usage=hides_usage), expected(stream, hides_usage=hides_usage)
    assert result.passed == right.passed
    assert (result.usage, result.written_bytes) == (right.usage, right.written_bytes)
    assert result.first == right.first
    if not hides_usage:
        assert result.pieces == [*chunks, b""]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_count_is_taken_out_wherever_it_is_cut(end: bytes) -> None:
    before = b"data: " + json.dumps(said("\u00e4\U0001f980"), ensure_ascii=False).encode() + end * 2
    count = b"data: " + json.dumps(COUNT).encode() + end * 2
    after = b"data: [DONE]" + end * 2
    stream = before + count + after
    for place in range(len(stream) + 1):
        result = read([stream[:place], stream[place:]], hides_usage=True)
        assert result.passed == before + after
        assert (result.usage, result.written_bytes) == (ChatUsage(9, 2), 6)
    single = read([bytes([byte]) for byte in stream], hides_usage=True)
    assert single.passed == before + after


def test_whole_events_are_passed_on_in_their_chunks() -> None:
    event = b"data: " + json.dumps(said("x")).encode() + b"\n\n"
    chunks = [event, event * 3, b": ping\n\n", b": ping\n", b"\n", event]
    assert read(chunks, hides_usage=True).pieces == [*chunks, b""]


def test_comments_are_not_held_back() -> None:
    reader = EventReader(hides_usage=True)
    assert reader.feed(b": OPENROUTER PROCESSING\n") == b": OPENROUTER PROCESSING\n"
    assert reader.feed(b"\n: pi") == b"\n"
    assert reader.first is None
    assert reader.feed(b"ng\n\n") == b": ping\n\n"


@pytest.mark.parametrize("hides_usage", [True, False])
@pytest.mark.parametrize("chunk_bytes", [1_000, MAX_EVENT_BYTES, 10**6])
def test_a_huge_event_is_passed_on_and_counts_as_written(hides_usage: bool, chunk_bytes: int) -> None:
    small, count = json.dumps(said("abc")).encode(), json.dumps(COUNT).encode()
    huge = b"data: " + b"x" * 300_000 + b"\r\n\r\n"
    stream = b"data: %s\n\n%sdata: %s\n\ndata: %s\n\n" % (small, huge, small, count)
    chunks = [stream[start : start + chunk_bytes] for start in range(0, len(stream), chunk_bytes)]
    result = read(chunks, hides_usage=hides_usage)
    assert result.usage == ChatUsage(9, 2)
    assert result.passed == (stream.removesuffix(b"data: %s\n\n" % count) if hides_usage else stream)
    is_read = len(huge) < chunk_bytes
    assert result.written_bytes == 6 + (0 if is_read else len(huge))


def test_a_huge_first_event_begins_a_stream() -> None:
    reader = EventReader(hides_usage=True)
    assert reader.feed(b"data: " + b"x" * MAX_EVENT_BYTES) != b""
    assert reader.first == b""
    assert reader.feed(b'\n\ndata: {"error":"x"}\n\n').endswith(b"\n\n")
    assert reader.first == b""


@pytest.mark.parametrize("event", [b"x" * 1_000, b"data: " + json.dumps(said("x" * 500)).encode() + b"\n\n"])
def test_memory_does_not_grow_with_the_stream(event: bytes) -> None:
    reader = EventReader(hides_usage=True)
    tracemalloc.start()
    try:
        for _ in range(5_000):
            reader.feed(event)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 10 * MAX_EVENT_BYTES


def test_what_is_not_json_is_passed_on() -> None:
    stream = [b"data: oops\n\n", b"data: [1, 2]\n\n", b"\xff\xfe\n\n", b'data: {"a":' + b"[" * 5_000 + b"\n\n"]
    result = read(stream, hides_usage=True)
    assert result.passed == b"".join(stream)
    assert result.written_bytes == 0
