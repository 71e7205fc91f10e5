"""Raw sockets that send requests with mutated bytes, cut into packets anywhere: every answer is HTTP and none is a 5xx.

What follows a mutated request on its connection may be read as another request only if the first one ended before it;
so each request asks for a path of its own, and no answer may be a success for a path that was sent within a body.
"""

import asyncio
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest

from crowd import LOCAL_OFF
from embedgate.providers import fake
from forms import dice, scaled
from running import RunningGateway, gateway
from waiting import PATIENCE_S
from wire import call

N_REQUESTS = scaled(600, 40_000)
N_CONNECTIONS = 24
SILENCE_S = 0.3
"""After which a mutated request is given up: most of those wait for the rest of a body that never comes."""
MODEL = fake.models()[0].id
SETTINGS = f"""
    {LOCAL_OFF}
    [providers.fake]
    enabled = true
    [server]
    body_timeout_s = 60
    head_timeout_s = 60
    [local]
    default_model = "{MODEL}"
"""
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with gateway(tmp_path_factory.mktemp("mutated"), SETTINGS) as started:
        yield started


def whole_requests(key: str) -> list[tuple[bytes, int]]:
    """Requests that are well-formed, in every form that clients send, and the status of their answers."""
    openai = b'{"model": "%s", "input": ["one", "two"], "encoding_format": "base64"}' % MODEL.encode()
    ziri = b'{"provider": "fake", "model": "%s", "input": "one"}' % MODEL.partition("/")[2].encode()
    smuggled = b"GET /healthz HTTP/1.1\r\nhost: b\r\n\r\n"
    bearer, api_key = b"authorization: Bearer " + key.encode() + b"\r\n", b"x-api-key: " + key.encode() + b"\r\n"
    upgrade = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMA\r\n"

    def get(path: bytes, extra: bytes = b"") -> bytes:
        return b"GET %s HTTP/1.1\r\nhost: a\r\nconnection: close\r\n%s\r\n" % (path, extra)

    def post(path: bytes, body: bytes, extra: bytes = b"") -> bytes:
        length = b"content-length: %d\r\n" % len(body)
        return b"POST %s HTTP/1.1\r\nhost: a\r\nconnection: close\r\n%s%s\r\n%s" % (path, extra, length, body)

    def chunked(path: bytes, body: bytes, extra: bytes) -> bytes:
        pieces = [body[:7], body[7:20], body[20:]]
        chunks = b"".join(b"%x;name=value\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
        head = b"POST %s HTTP/1.1\r\nhost: a\r\nconnection: close\r\n%stransfer-encoding: chunked\r\n\r\n"
        return head % (path, extra) + chunks + b"0\r\ntrailer: x\r\n\r\n"

    return [
        (get(b"/healthz"), 200),
        (get(b"/v1/models", bearer), 200),
        (post(b"/v1/embeddings", openai, bearer), 200),
        (post(b"/v1/embeddings", openai, bearer + b"expect: 100-continue\r\n"), 200),
        (post(b"/v1/embeddings", openai, bearer + upgrade), 200),
        (post(b"/v1/embeddings", openai, bearer + b"x-forwarded-for: 198.51.100.9:51234\r\n"), 200),
        (chunked(b"/v1/embeddings", openai, bearer), 200),
        (chunked(b"/v1/embeddings", openai, bearer + upgrade), 200),
        (chunked(b"/api/embeddings", ziri, api_key), 200),
        (post(b"/api/embeddings", ziri, api_key), 200),
        (post(b"/v1/embeddings", smuggled, bearer), 400),
        (post(b"/v1/embeddings", smuggled), 401),
        (chunked(b"/v1/embeddings", smuggled, b""), 401),
        (post(b"/nowhere", smuggled), 404),
        (post(b"/healthz", smuggled, b"connection: upgrade\r\nupgrade: websocket\r\n"), 405),
    ]


def _flip(data: bytearray, draw: random.Random) -> None:
    data[draw.randrange(len(data))] = draw.randrange(256)


def _delete(data: bytearray, draw: random.Random) -> None:
    start = draw.randrange(len(data))
    del data[start : start + draw.randint(1, 8)]


def _repeat(data: bytearray, draw: random.Random) -> None:
    start = draw.randrange(len(data))
    piece = data[start : start + draw.randint(1, 40)]
    data[start:start] = piece * draw.choice((1, 2, 50))


def _insert(data: bytearray, draw: random.Random) -> None:
    odd = (b"\r\n", b"\n", b"\r", b"\0", b"\r\n\r\n", b" ", b"\t", b":", b"\xff\xfe", b"0\r\n\r\n", b"-1", b"9" * 30)
    start = draw.randrange(len(data))
    data[start:start] = draw.choice(odd)


def _length(data: bytearray, draw: random.Random) -> None:
    lengths = (b"0", b"1", b"00012", b"+5", b"-1", b"1e3", b"18446744073709551616", b"0x10", b"5, 5", b"5, 6", b" ")
    data[:] = re.sub(rb"content-length: \d+", lambda _: b"content-length: " + draw.choice(lengths), bytes(data))


def _two_lengths(data: bytearray, draw: random.Random) -> None:
    extra = draw.choice(
        (b"content-length: 3\r\n", b"transfer-encoding: chunked\r\n", b"transfer-encoding: xchunked\r\n")
    )
    data[:] = data.replace(b"host: a\r\n", b"host: a\r\n" + extra, 1)


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _flip, _delete, _repeat, _insert, _length, _two_lengths,
)  # fmt: skip


async def statuses_of(url: str, data: bytes, draw: random.Random, patience_s: float) -> list[int]:
    """What the gateway answers to bytes that come in packets of any size, until the connection ends or is silent.

    patience_s: how long it may be silent; what is cut short is still waiting for more bytes.
    """
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    text = bytearray()
    try:
        places = sorted(draw.randrange(len(data) + 1) for _ in range(draw.choice((0, 0, 1, 3, 8))))
        for start, end in zip([0, *places], [*places, len(data)], strict=True):
            writer.write(data[start:end])
            await writer.drain()
            await asyncio.sleep(0)
        async with asyncio.timeout(patience_s):
            while piece := await reader.read(65_536):
                text += piece
    except (ConnectionError, TimeoutError):
        pass
    finally:
        writer.transport.abort()
    assert not text or _STATUS.match(text), text[:200]
    return [int(status) for status in _STATUS.findall(text)]


@pytest.mark.hostile
@pytest.mark.timeout(900)
def test_no_mutated_request_makes_the_gateway_fail(running: RunningGateway) -> None:
    draw = dice("mutations")
    whole = whole_requests(running.key)
    seen: Counter[int] = Counter()

    async def send(number: int) -> None:
        own = random.Random(f"{number} {draw.random()}")
        data = bytearray(own.choice(whole)[0])
        for _ in range(own.choice((0, 1, 1, 2, 4))):
            if data:
                own.choice(MUTATIONS)(data, own)
        seen.update(await statuses_of(running.url, bytes(data), own, SILENCE_S))

    async def send_all() -> None:
        numbers = iter(range(N_REQUESTS))

        async def keep_sending() -> None:
            for number in numbers:
                await send(number)

        await asyncio.gather(*(keep_sending() for _ in range(N_CONNECTIONS)))

    asyncio.run(send_all())
    assert not [status for status in seen if status >= 500], seen
    assert seen[200] > 0
    assert seen[400] > 0
    assert call(running.url, "/healthz").status == 200
    log = running.log.read_text(encoding="utf-8")
    assert "internal_fault" not in log
    assert "Traceback" not in log


@pytest.mark.hostile
@pytest.mark.parametrize("number", range(len(whole_requests("key"))))
def test_a_request_has_one_answer_however_it_is_cut(running: RunningGateway, number: int) -> None:
    """A second answer would be one to bytes of the body."""
    request, status = whole_requests(running.key)[number]
    draw = dice(f"cuts of {number}")

    async def answers() -> list[list[int]]:
        return [await statuses_of(running.url, request, draw, PATIENCE_S) for _ in range(scaled(6, 100))]

    for statuses in asyncio.run(answers()):
        assert [each for each in statuses if each != 100] == [status]


def test_a_broken_body_behind_an_expectation_is_refused_and_no_fault(running: RunningGateway) -> None:
    """The refusal closes the connection while the request still waits to say that its body may come."""
    lines = ("host: a", f"authorization: Bearer {running.key}", "expect: 100-continue", "transfer-encoding: chunked")
    request = "\r\n".join(("POST /v1/embeddings HTTP/1.1", *lines, "", "no length", "")).encode()
    draw = dice("expectations")

    async def answers() -> list[list[int]]:
        return [await statuses_of(running.url, request, draw, PATIENCE_S) for _ in range(10)]

    for statuses in asyncio.run(answers()):
        assert [each for each in statuses if each != 100] == [400]
    assert "internal_fault" not in running.log.read_text(encoding="utf-8")
