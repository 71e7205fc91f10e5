"""The tools of the benchmark: what they measure is what happened."""

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import orjson
import pytest

if sys.platform != "linux":
    pytest.skip("the benchmark reads /proc", allow_module_level=True)

from bench.chat import run as run_chat
from bench.load import Body, Job, Stream, upstream_calls
from bench.machine import describe
from bench.processes import Cores, Program
from bench.report import Report, markdown
from bench.runner import Effort, NotMeasured, Row, Sample, median, perform, run, sample_of
from bench.scenarios import Load, Scenario
from bench.targets import PATH, Target, WrongAnswer, direct, running_upstream, verify
from bench.texts import MARK, Encoding, Texts, bodies
from bench.upstream import MODEL

CORES = Cores.all_for_everyone()


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with running_upstream(CORES, tmp_path_factory.mktemp("upstream")) as running:
        yield running


def stream(texts: Texts, connections: int = 2, min_body_bytes: int = 1) -> Stream:
    return Stream("", MODEL, texts, "base64", connections, min_body_bytes)


def job(upstream: Program, sent: Stream) -> Job:
    return Job(upstream.port, PATH, {}, (sent,), seconds=0.1, warmup_s=0.05, count_port=upstream.port)


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_the_upstream_gives_every_input_its_vector(upstream: Program, encoding: Encoding) -> None:
    before = upstream_calls(upstream.port)
    verify(direct(upstream), 70, encoding, first_number=1)
    assert upstream_calls(upstream.port) == before + 1


def test_a_target_that_answers_something_else_is_found_out(upstream: Program) -> None:
    # The upstream takes every mark for a text, so this one makes it send a vector too many.
    odd = Target("odd", "", upstream.port, f"{MODEL}{MARK}")
    with pytest.raises(WrongAnswer, match="2 vectors"):
        verify(odd, 1, "float", first_number=1)


def test_load_counts_what_the_upstream_has_answered(upstream: Program) -> None:
    result = perform(job(upstream, stream(Texts(inputs=3), min_body_bytes=3 * 8192)), CORES)
    (seen,) = result.streams
    assert seen.n_errors == 0
    assert seen.requests == result.upstream_calls > 0
    assert 0 < seen.p50_ms <= seen.p99_ms <= seen.max_ms
    assert sample_of(result, has_gateway=False).upstream_calls_per_request == 1


def test_an_answer_that_is_too_short_is_no_success(upstream: Program) -> None:
    result = perform(job(upstream, stream(Texts(), min_body_bytes=9000)), CORES)
    with pytest.raises(NotMeasured, match="expected 9000 or more"):
        sample_of(result, has_gateway=False)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n10;x=y\r\n0123456789abcdef\r\n0\r\n\r\n"
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\nhello0123456789abcdef"


@pytest.mark.parametrize("answer", [CHUNKED, PLAIN])
def test_the_end_of_an_answer_is_found_however_it_arrives(answer: bytes) -> None:
    for cut in range(1, len(answer)):
        body = Body()
        assert not body.feed(answer[:cut])
        assert body.feed(answer[cut:])
        assert (body.status, body.size_bytes) == (200, 21)


def inputs(texts: Texts, n: int) -> list[list[str]]:
    asked = [orjson.loads(body)["input"] for body in islice(bodies(texts, MODEL, "float"), n)]
    return [[item] if isinstance(item, str) else item for item in asked]


def test_fresh_texts_never_come_again_and_repeated_ones_do() -> None:
    fresh = [text for request in inputs(Texts(inputs=3), 50) for text in request]
    assert len(set(fresh)) == 150
    assert {len(text) for text in fresh} == {100}
    assert len({text for request in inputs(Texts(kind="repeated", distinct=7), 50) for text in request}) == 7
    first, second = inputs(Texts(inputs=4, kind="half", distinct=1), 2)
    assert [text for text in first if text in second] == first[:2]
    words = inputs(Texts(inputs=2, kind="words", tokens=14), 2)
    assert {len(text.split()) for request in words for text in request} == {12}


def sample(requests_per_s: float) -> Sample:
    return Sample(requests_per_s, 1.0, 2.0, None, None, 1.0, 0.5)


def test_a_report_says_how_targets_compare_and_what_is_missing() -> None:
    rates = {"direct": 1000.0, "embedgate": 200.0, "litellm": 50.0}
    rows = [Row("S1", "c1", name, "1.0", median=sample(rate)) for name, rate in rates.items()]
    rows.append(Row("S1", "c1", "portkey", "", note="did not start"))
    page = markdown(Report("2026-01-01", "bench", describe(CORES), Effort(1, 1, 1), {"S1": "One"}, tuple(rows)))
    lines = {name: line for line in page.splitlines() for name in rates if f"| {name} |" in line}
    assert "20.0%" in lines["embedgate"]
    assert "4.00x" in lines["litellm"]
    assert "† portkey: did not start" in page


def test_medians_leave_out_what_has_no_meaning() -> None:
    found = median([sample(1), sample(5), sample(3)])
    assert found.requests_per_s == 3
    assert found.cpu_us_per_request is None


def test_a_scenario_measures_the_gateway_beside_its_upstream_and_another_version(tmp_path: Path) -> None:
    older = tmp_path / "older"
    older.mkdir()
    (older / ".venv").symlink_to(sys.prefix)
    scenario = Scenario("T", "", (Load("c2", (stream(Texts()),)),))
    rows = run(scenario, (), Cores.shared_out(), Effort(0.2, 0.1, 1), lambda _: None, older)
    assert [(row.target, row.note) for row in rows] == [("direct", ""), ("embedgate", ""), ("embedgate of older", "")]
    for row in rows[1:]:
        assert row.median is not None
        assert row.median.upstream_calls_per_request == 1
        # Counted in ticks of 10 ms: 0 where a busy machine leaves time for a request or two.
        assert row.median.cpu_us_per_request is not None
        assert row.median.cpu_us_per_request >= 0
        assert (row.idle_bytes or 0) > 1_000_000


def test_the_chat_scenario_measures_the_first_token_and_the_memory_of_a_stream() -> None:
    found = run_chat(Cores.shared_out(), Effort(0.1, 0.05, 1), lambda _: None)
    assert found.note == ""
    assert found.calls >= 1
    assert found.direct_p50_ms > 0
    assert found.gateway_p50_ms > 0  # which is longer is for the benchmark to say: this machine may be busy
    assert found.long_bytes > 1_000_000
    assert found.before_bytes > 1_000_000
    page = markdown(Report("2026-01-01", "bench", describe(CORES), Effort(1, 1, 1), {}, (), chat=found))
    assert "| C | c1 | embedgate |" in page
