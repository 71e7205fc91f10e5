"""The scan of large answers against the JSON parser on the whole body: the same reply, or the same refusal."""

import random
import time
from collections.abc import AsyncIterator, Callable
from functools import partial

import numpy as np
import orjson
import pytest

from embedgate.core.errors import UpstreamError, UpstreamGarbled, UpstreamLost, UpstreamMismatch
from embedgate.core.models import DimRange, Route
from embedgate.core.types import Batch, ProviderReply
from embedgate.core.vectors import to_base64, to_json
from embedgate.providers import openai
from embedgate.settings import TransportSettings
from embedgate.transport import Endpoint, HttpDriver, HttpReply
from embedgate.transport.connection_pool import LARGE_REPLY_BYTES
from embedgate.transport.records import HttpProvider
from embedgate.transport.vector_scan import VectorScan
from forms import dice, scaled
from upstream import Answer, Twist, Upstream, running_upstream

DIM = 4
ROUTE = Route("acme", "m", DimRange(DIM, DIM, DIM), 8192, "unknown")
WIDE = Route("acme", "m", DimRange(256, 256, 256), 8192, "unknown", accepts_base64=True)
N_BODIES = scaled(2_500, 400_000)
MANY = tuple(f"text {n}" for n in range(600))

Found = tuple[bytes, int | None, str | None] | tuple[type[UpstreamError], str, int]


def told(read: Callable[[], ProviderReply]) -> Found:
    """What a reply says in full, bits of the vectors included, or what it was refused with."""
    try:
        reply = read()
    except UpstreamGarbled as error:
        return type(error), error.message, error.billed_tokens
    assert reply.vectors.dtype == np.float32
    assert reply.vectors.flags.c_contiguous
    return repr(reply.vectors.shape).encode() + reply.vectors.tobytes(), reply.tokens, reply.model


def parsed_whole(body: bytes, n: int) -> ProviderReply:
    return openai.parse(HttpReply("acme", 200, {}, body), batch_of(n), ROUTE)


def scanned_in(pieces: list[bytes], n: int) -> tuple[HttpReply, int]:
    """The reply of a scan, and how many vectors it read."""
    scan = VectorScan("embedding", n, DIM)
    for piece in pieces:
        scan.write(memoryview(piece))
    found = scan.end()
    return HttpReply("acme", 200, {}, found.body, scanned=found), len(found.vectors)


def batch_of(n: int) -> Batch:
    return Batch(tuple(map(str, range(n))), expected_dim=DIM)


def cut(body: bytes, random_: random.Random) -> list[bytes]:
    """A body in pieces of any size, from single bytes to all of it."""
    longest = random_.choice([1, 2, 7, 40, 300, len(body) + 1])
    pieces = []
    while body:
        size = random_.randint(1, longest)
        pieces.append(body[:size])
        body = body[size:]
    return pieces


ODD_VECTORS = [
    b"[]",
    b"[1,2,3]",
    b"[1, -2 ,\n3.5e-3,\t4E+2]",
    b"[1,2,3,4,5]",
    b"[1,2,3,1e400]",
    b"[1,2,3,1e39]",
    b"[1,2,3,-1e39]",
    b"[1,2,3,18446744073709551616]",
    b"[1,2,3,%s]" % (b"9" * 400),
    b"[1,2,3,NaN]",
    b"[1,2,3,Infinity]",
    b"[1,2,3,null]",
    b"[1,2,3,true]",
    b'[1,2,3,"4"]',
    b'["a]",2,3,4]',
    b"[[1,2,3,4]]",
    b"[1,2,[3,4]]",
    b"[01,2,3,4]",
    b"[1.,2,3,4]",
    b"[+1,2,3,4]",
    b"[1,2,3,4,]",
    b"[1 2,3,4]",
    b"[1,2,3,-0.0]",
    b"[1,2,3,1e-50]",
    b'""',
    b'"AAAA"',
    b'"AACAPwAAgD8AAIA/AACAPw=="',
    b'"AACAPwAAgD8AAIA/AACAPw"',
    b'"AACAPwAAgD8AAIA\\/AACAPw=="',
    b'"AACAPwAAgD8AAIA/\\u0041ACAPw=="',
    b'"AADAfwAAwH8AAIB/AACA/w=="',
    b'"AACAPwAAgD8AAIA/AACAPw==\\""',
    b'"AACA PwAAgD8AAIA/AACAPw=="',
    b'"\xc3\xa4\xff"',
    b"null",
    b"1",
    b"{}",
    b'{"embedding":[1,2,3,4]}',
    b'"[1,2,3,4]"',
    b'"0123456789abcdef0123456789abcdef:0"',
]
KEYS = [b'"embedding"'] * 12 + [b'"\\u0065mbedding"', b'"Embedding"', b'"embedding" ', b'"x\\"embedding"']
INSERTED = [b'"', b"\\", b"[", b"]", b"{", b",", b"1", b"\x00", b'"embedding":[1,2,3,4]', b'\\"embedding":[1,2,3,4]']
GAPS = [b"", b"", b"", b" ", b"\n    ", b"\t\r\n"]
EXTRAS = [
    b'"object":"embedding"',
    b'"text":"\\"embedding\\":[1,2,3,4]"',
    b'"text":"a \\\\"',
    b'"text":"\\\\\\"embedding\\":[9,9,9,9]"',
    b'"embedding":[9,9,9,9]',
    b'"other":{"embedding":[7,7,7,7]}',
    b'"other":[{"embedding":"AACAPwAAgD8AAIA/AACAPw=="}]',
    b'"embedding":null',
    b'"list":["embedding",[1,2,3,4]]',
    b'"say":"embedding"',
    b'"index":0',
    b'"\xff":1',
    '"\u540d":"\u5411\u91cf \U0001f600"'.encode(),
]


def vector(random_: random.Random) -> bytes:
    """One vector, most of them as it should be."""
    if random_.random() < 0.08:
        return random_.choice(ODD_VECTORS)
    numbers = np.array([random_.gauss(0, 10 ** random_.randint(-6, 3)) for _ in range(DIM)], np.float32)
    if random_.random() < 0.5:
        return b'"%s"' % to_base64(numbers)
    return to_json(numbers) if random_.random() < 0.5 else orjson.dumps(numbers.tolist())


def item(random_: random.Random, index: int) -> bytes:
    gap = partial(random_.choice, GAPS)
    fields = [b"%s%s:%s%s" % (random_.choice(KEYS), gap(), gap(), vector(random_))]
    if random_.random() < 0.9:
        fields.append(b'"index":%d' % random_.choice([index] * 30 + [0, 1, -1]))
    fields += random_.sample(EXTRAS, random_.choice([0, 0, 0, 1, 2]))
    random_.shuffle(fields)
    return b"{%s%s}" % (gap(), (b"%s," % gap()).join(fields))


def some_body(random_: random.Random) -> tuple[bytes, int]:
    """A body, and how many vectors were asked for."""
    n = random_.randint(1, 5)
    order = list(range(n))
    if random_.random() < 0.3:
        random_.shuffle(order)

    def data() -> bytes:
        return b'"data":[%s]' % b",".join([item(random_, index) for index in order])

    fields = [b'"object":"list"', data(), b'"model":"m"', b'"usage":{"prompt_tokens":5,"total_tokens":5}']
    if random_.random() < 0.1:
        fields.append(data())
    fields += random_.sample(EXTRAS, random_.choice([0, 0, 1]))
    random_.shuffle(fields)
    body = b"{%s%s}" % (random_.choice(GAPS), (b"%s," % random_.choice(GAPS)).join(fields))
    return spoiled(random_, body), max(1, n + random_.choice([0] * 12 + [1, -1]))


def spoiled(random_: random.Random, body: bytes) -> bytes:
    """Most bodies as they are, some cut, or with bytes put in, taken out, in front or behind."""
    at = random_.randint(0, len(body))
    match random_.choice(["whole"] * 8 + ["cut", "insert", "remove", "lead", "trail"]):
        case "cut":
            return body[:at]
        case "insert":
            return body[:at] + random_.choice(INSERTED) + body[at:]
        case "remove":
            return body[:at] + body[at + random_.randint(1, 3) :]
        case "lead":
            return random_.choice([b"\xef\xbb\xbf", b"\xff\xfe", b" ", b"1", b'"embedding":[1,2,3,4],']) + body
        case "trail":
            return body + random_.choice([b" \n", b"x", b"{}", b',"embedding":[1,2,3,4]', body])
    return body


@pytest.mark.hostile
def test_a_scanned_answer_says_what_the_whole_body_says() -> None:
    random_ = dice("scanned answers")
    n_read = n_good = 0
    for _ in range(N_BODIES):
        body, n = some_body(random_)
        reply, n_scanned = scanned_in(cut(body, random_), n)
        found = told(partial(openai.parse, reply, batch_of(n), ROUTE))
        assert found == told(partial(parsed_whole, body, n)), (body, n)
        n_read += n_scanned
        n_good += isinstance(found[0], bytes)
    assert n_good > N_BODIES / 5  # else the bodies are too odd to say anything
    assert n_read > N_BODIES


def rows(n: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.arange(n * DIM, dtype=np.float32).reshape(n, DIM)


def answer(*items_: bytes) -> bytes:
    return b'{"data":[%s],"model":"m","usage":{"prompt_tokens":5}}' % b",".join(items_)


@pytest.mark.parametrize("form", ["list", "base64", "indented"])
def test_every_vector_is_read_as_it_arrives(form: str) -> None:
    values = {
        "list": [to_json(row) for row in rows(3)],
        "base64": [b'"%s"' % to_base64(row) for row in rows(3)],
        "indented": [orjson.dumps(row.tolist(), option=orjson.OPT_INDENT_2) for row in rows(3)],
    }[form]
    body = answer(*[b'{"index": %d, "embedding" : %s}' % (index, value) for index, value in enumerate(values)])
    for at in range(len(body)):
        reply, n_read = scanned_in([body[:at], body[at:]], 3)
        assert n_read == 3
        assert not any(value in reply.body for value in values)
        assert openai.parse(reply, batch_of(3), ROUTE).vectors.tobytes() == rows(3).tobytes()


def test_vectors_in_order_are_handed_on_without_a_copy() -> None:
    body = answer(*[b'{"index":%d,"embedding":%s}' % (index, to_json(row)) for index, row in enumerate(rows(3))])
    reply, _ = scanned_in([body], 3)
    assert reply.scanned is not None
    assert openai.parse(reply, batch_of(3), ROUTE).vectors is reply.scanned.vectors


def test_vectors_out_of_order_are_put_in_order() -> None:
    order = [2, 0, 1]
    body = answer(*[b'{"index":%d,"embedding":%s}' % (index, to_json(rows(3)[index])) for index in order])
    reply, n_read = scanned_in([body], 3)
    assert n_read == 3
    assert np.array_equal(openai.parse(reply, batch_of(3), ROUTE).vectors, rows(3))


def test_a_host_cannot_name_a_row() -> None:
    first = b'{"index":0,"embedding":[1,2,3,4]}'
    probe, _ = scanned_in([answer(first)], 2)
    assert probe.scanned is not None
    for claim in (b'"0"', b'"row:0"', probe.scanned.mark + b'0"'):
        reply, _ = scanned_in([answer(first, b'{"index":1,"embedding":%s}' % claim)], 2)
        with pytest.raises(UpstreamMismatch):
            openai.parse(reply, batch_of(2), ROUTE)


def test_more_vectors_than_inputs_take_no_more_memory_and_are_refused() -> None:
    reply, n_read = scanned_in([answer(*[b'{"index":0,"embedding":[1,2,3,4]}'] * 9)], 2)
    assert n_read == 2
    with pytest.raises(UpstreamMismatch, match="9 vectors for 2 inputs") as caught:
        openai.parse(reply, batch_of(2), ROUTE)
    assert caught.value.billed_tokens == 5


@pytest.mark.parametrize("opening", [b"[", b'"', b": ["])
def test_a_value_without_an_end_is_not_searched_for_its_end_for_ever(opening: bytes) -> None:
    scan = VectorScan("embedding", 2, DIM)
    scan.write(memoryview(b'{"data":[{"embedding":' + opening))
    for _ in range(100):
        scan.write(memoryview(b"1," * 500))
        assert len(scan._rest) < 4_000  # what is kept for later, beside the text that is left
    assert scan.end().body == b'{"data":[{"embedding":' + opening + b"1," * 50_000


@pytest.fixture
async def driver() -> AsyncIterator[tuple[HttpDriver, Upstream, list[HttpReply]]]:
    """A driver, its provider, and the replies that the vendor module was given."""
    seen: list[HttpReply] = []
    vendor = openai.provider()

    def parse(reply: HttpReply, batch: Batch, route: Route) -> ProviderReply:
        seen.append(reply)
        return vendor.parse(reply, batch, route)

    provider = HttpProvider(vendor.build, parse, vendor.fault, vector_field=vendor.vector_field)
    with running_upstream() as upstream:
        driving = HttpDriver(provider, Endpoint("acme", upstream.base_url), TransportSettings())
        yield driving, upstream, seen
        await driving.aclose()


async def embed(driver: HttpDriver) -> ProviderReply:
    return await driver.embed(Batch(MANY, expected_dim=256), WIDE, time.monotonic() + 60)


@pytest.mark.parametrize("is_gzipped", [False, True])
@pytest.mark.parametrize("twist", [None, "shuffled", "no_index", "only_total", "escaped_base64"])
async def test_large_answers_of_all_forms_are_read(
    driver: tuple[HttpDriver, Upstream, list[HttpReply]], twist: Twist | None, is_gzipped: bool
) -> None:
    driving, upstream, seen = driver
    upstream.script(Answer(twist=twist, is_gzipped=is_gzipped))
    reply = await embed(driving)
    assert np.array_equal(reply.vectors, np.stack([upstream.vector(text, 256) for text in MANY]))
    assert seen[0].scanned is not None
    if twist != "escaped_base64":
        assert len(seen[0].body) < LARGE_REPLY_BYTES / 5


@pytest.mark.parametrize("twist", ["same_index", "one_missing", "one_extra", "short_vector", "null_vector", "nested"])
async def test_large_answers_that_are_wrong_are_refused(
    driver: tuple[HttpDriver, Upstream, list[HttpReply]], twist: Twist
) -> None:
    driving, upstream, _ = driver
    upstream.script(Answer(twist=twist))
    with pytest.raises(UpstreamMismatch):
        await embed(driving)
    assert len((await embed(driving)).vectors) == len(MANY)


async def test_a_large_answer_that_is_cut_gives_no_vectors(
    driver: tuple[HttpDriver, Upstream, list[HttpReply]],
) -> None:
    driving, upstream, _ = driver
    upstream.script(Answer(twist="truncated_json"), Answer(ending="half"))
    with pytest.raises(UpstreamGarbled):
        await embed(driving)
    with pytest.raises(UpstreamLost):
        await embed(driving)


def test_random_cuts_of_a_long_answer_change_nothing() -> None:
    random_ = dice("cuts")
    body = answer(*[b'{"index":%d,"embedding":%s}' % (index, to_json(row)) for index, row in enumerate(rows(200))])
    for _ in range(scaled(20, 2000)):
        reply, n_read = scanned_in(cut(body, random_), 200)
        assert n_read == 200
        assert openai.parse(reply, batch_of(200), ROUTE).vectors.tobytes() == rows(200).tobytes()
