"""Fake chat provider of scenario C: a loopback server that streams prepared events.

The body of a call sets the answer: `max_tokens` events, one every `seed` microseconds (0: as fast as they are
read). The first is sent at once. It checks nothing else.

    python -m bench.chat_upstream --port 9000
"""

import argparse
import asyncio
import re
import socket

import uvloop

MODEL = "gpt-4o-mini"
EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"gpt-4o-mini","choices":'
    b'[{"index":0,"delta":{"content":" token"},"finish_reason":null}],"usage":null}\n\n'
)
_COUNT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"gpt-4o-mini","choices":[],"usage":'
    b'{"prompt_tokens":20,"completion_tokens":20,"total_tokens":40}}\n\n'
)
_LAST_WORD = b"data: [DONE]\n\n"
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_NUMBER = re.compile(rb'"(max_tokens|seed)": ?(\d+)')
_LENGTH = re.compile(rb"content-length: ?(\d+)", re.IGNORECASE)
_EVENTS_PER_WRITE = 50
"""Where they need not wait: one write for each would measure this server."""


def _chunk(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(body), body)


async def _answer(body: bytes, writer: asyncio.StreamWriter) -> None:
    asked = {name: int(value) for name, value in _NUMBER.findall(body)}
    n, gap_s = asked[b"max_tokens"], asked[b"seed"] / 1e6
    writer.write(_HEAD + _chunk(EVENT))
    left = n - 1
    while left > 0:
        if gap_s:
            await asyncio.sleep(gap_s)
        n_now = 1 if gap_s else min(left, _EVENTS_PER_WRITE)
        writer.write(_chunk(EVENT) * n_now)
        await writer.drain()
        left -= n_now
    count = _chunk(_COUNT) if b'"include_usage":true' in body else b""
    writer.write(count + _chunk(_LAST_WORD) + b"0\r\n\r\n")
    await writer.drain()


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            found = _LENGTH.search(head)
            await _answer(await reader.readexactly(int(found[1]) if found else 0), writer)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def serve(listener: socket.socket) -> None:
    """Answer on `listener` for ever."""
    server = await asyncio.start_server(_serve, sock=listener, backlog=1024)
    await server.serve_forever()


def main() -> None:
    """Serve as the command line says, until killed."""
    arguments = argparse.ArgumentParser(
        prog="python -m bench.chat_upstream", description="The chat model of scenario C."
    )
    arguments.add_argument("--port", type=int, default=0)
    listener = socket.create_server(("127.0.0.1", arguments.parse_args().port))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", flush=True)
    uvloop.run(serve(listener))


if __name__ == "__main__":
    main()
