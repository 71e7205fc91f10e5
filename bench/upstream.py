"""Fake embeddings provider: a loopback server of the OpenAI format, faster than any gateway.

It answers POST on any path from prepared bytes, with as many vectors as there are inputs. GET /count returns
the number of calls and inputs. It checks neither key, model nor JSON.

    python -m bench.upstream --port 9000 --latency-ms 50
"""

import argparse
import asyncio
import socket
from functools import lru_cache
from typing import cast

import numpy as np
import orjson
import pybase64
import uvloop

from bench.texts import MARK, Encoding
from embedgate.core.vectors import Vectors

MODEL = "text-embedding-3-small"
DIM = 1536
DISTINCT = 64
"""Vector i of an answer is row i % DISTINCT of `vectors()`: enough that a wrong order shows."""
TOKENS_PER_INPUT = 25
_ANSWERS_KEPT = 160
_END_OF_HEAD = b"\r\n\r\n"


def vectors() -> Vectors:
    """The rows that answers are made of, (DISTINCT, DIM) float32 of unit length, the same in every process."""
    drawn = np.random.default_rng(1536).standard_normal((DISTINCT, DIM))
    unit: Vectors = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    return unit


class Answers:
    """Whole HTTP responses, by number of inputs and encoding."""

    def __init__(self) -> None:
        """Encodes every distinct vector once."""
        rows = vectors()
        self._encoded: dict[Encoding, list[bytes]] = {
            "float": [orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY) for row in rows],
            "base64": [b'"%s"' % pybase64.b64encode(row.tobytes()) for row in rows],
        }
        self.of = lru_cache(_ANSWERS_KEPT)(self._make)

    def _make(self, n: int, encoding: Encoding) -> bytes:
        encoded = self._encoded[encoding]
        data = b",".join(
            b'{"object":"embedding","index":%d,"embedding":%s}' % (index, encoded[index % DISTINCT])
            for index in range(n)
        )
        tokens = n * TOKENS_PER_INPUT
        return response(
            b'{"object":"list","data":[%s],"model":"%s","usage":{"prompt_tokens":%d,"total_tokens":%d}}'
            % (data, MODEL.encode(), tokens, tokens)
        )


def response(body: bytes) -> bytes:
    """A JSON body with the head of a successful answer."""
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


class Counts:
    """Counts of calls and inputs."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.calls = 0
        self.inputs = 0


class _Connection(asyncio.Protocol):
    def __init__(self, answers: Answers, counts: Counts, latency_s: float, only_floats: bool) -> None:
        self._answers = answers
        self._counts = counts
        self._latency_s = latency_s
        self._only_floats = only_floats
        self._received = bytearray()
        self._needed = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write = cast(asyncio.WriteTransport, transport).write

    def data_received(self, data: bytes) -> None:
        self._received += data
        while self._received and len(self._received) >= self._needed:
            if not self._needed:
                self._needed = _request_bytes(self._received)
                if not self._needed:
                    return
                continue
            request, self._received = bytes(self._received[: self._needed]), self._received[self._needed :]
            self._needed = 0
            self._answer(request)

    def _answer(self, request: bytes) -> None:
        counts = self._counts
        if request.startswith(b"GET /count"):
            self._write(response(orjson.dumps({"calls": counts.calls, "inputs": counts.inputs})))
            return
        n = request.count(MARK.encode()) or 1
        counts.calls += 1
        counts.inputs += n
        answer = self._answers.of(n, "base64" if b'"base64"' in request and not self._only_floats else "float")
        if self._latency_s:
            asyncio.get_running_loop().call_later(self._latency_s, self._write, answer)
        else:
            self._write(answer)


def _request_bytes(received: bytearray) -> int:
    """Length of the request at the start of `received`, head and body; 0 while its head is not complete."""
    end = received.find(_END_OF_HEAD)
    if end < 0:
        return 0
    head = bytes(received[:end]).lower()
    if b"\r\ntransfer-encoding:" in head:
        raise ValueError("requests with a chunked body are not understood")
    _, found, rest = head.partition(b"\r\ncontent-length:")
    return end + len(_END_OF_HEAD) + (int(rest.partition(b"\r\n")[0]) if found else 0)


async def serve(listener: socket.socket, latency_s: float, *, only_floats: bool = False) -> None:
    """Answer on `listener` for ever. latency_s: how long every call waits for its answer.

    only_floats: it knows no base64, as many servers of one's own.
    """
    answers, counts = Answers(), Counts()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: _Connection(answers, counts, latency_s, only_floats), sock=listener, backlog=1024
    )
    await server.serve_forever()


def main() -> None:
    """Serve as the command line says, until killed."""
    arguments = argparse.ArgumentParser(prog="python -m bench.upstream", description="The upstream of the benchmark.")
    arguments.add_argument("--port", type=int, default=0)
    arguments.add_argument("--latency-ms", type=float, default=0.0)
    arguments.add_argument("--only-floats", action="store_true", help="know no base64")
    options = arguments.parse_args()
    listener = socket.create_server(("127.0.0.1", options.port))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", flush=True)
    uvloop.run(serve(listener, options.latency_ms / 1000, only_floats=options.only_floats))


if __name__ == "__main__":
    main()
