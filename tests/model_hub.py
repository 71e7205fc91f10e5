"""A hub of models on a loopback port, in the layout of Hugging Face; honest until told otherwise.

with running_hub() as hub:
    hub.add("ann/tiny", folder)
    hub.faults["onnx/model.onnx"] = [cut(100)]     # the first call breaks off, the next are honest
    ...
    hub.asked("onnx/model.onnx")                   # the calls for that file, with their headers
"""

import asyncio
import hashlib
import json
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from loopback import LoopbackServer
from waiting import PATIENCE_S

LFS_BYTES = 700
"""From here on a file is one of LFS, with its SHA-256; smaller ones have git's SHA-1 only."""


@dataclass(frozen=True)
class Fault:
    """How one call is answered instead. cut: after so many bytes of the body the connection ends.

    gate: the body goes no further than `cut` until it is set. ignores_range: the whole file comes, whatever is asked.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    cut: int | None = None
    gate: threading.Event | None = None
    ignores_range: bool = False


@dataclass(frozen=True)
class Asked:
    """One call: its target, and headers by their names in lower case."""

    target: str
    headers: Mapping[str, str]


def git_sha1(content: bytes) -> str:
    """What git calls a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class ModelHub:
    """One hub. Made by `running_hub`."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.faults: dict[str, list[Fault]] = {}
        self.always: dict[str, Fault] = {}
        self.calls: list[Asked] = []
        self.sizes: dict[str, int] = {}
        self.page = 1_000
        self.server = LoopbackServer(self._serve)
        self.url = f"http://127.0.0.1:{self.server.port}"

    def add(self, model: str, folder: Path, **extra: bytes) -> str:
        """Publish a folder as the newest commit of a model, which is returned."""
        found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        return self.publish(model, {**found, **extra})

    def publish(self, model: str, files: Mapping[str, bytes]) -> str:
        """Publish files as the newest commit of a model, which is returned."""
        digest = hashlib.sha1(usedforsecurity=False)
        for path in sorted(files):
            digest.update(path.encode() + files[path])
        commit = digest.hexdigest()
        self.files[f"{model}@main"] = self.files[f"{model}@{commit}"] = dict(files)
        return commit

    def asked(self, path: str) -> list[Asked]:
        """The calls for one file."""
        return [call for call in self.calls if call.target.endswith("/" + path)]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        target = head[0].split(" ")[1]
        self.calls.append(Asked(target, headers))
        path = urllib.parse.unquote(urllib.parse.urlsplit(target).path)
        waiting = next((self.faults[name] for name in self.faults if path.endswith(name) and self.faults[name]), [])
        always = next((self.always[name] for name in self.always if path.endswith(name)), Fault())
        await self._answer(writer, target, path, headers, waiting.pop(0) if waiting else always)

    async def _answer(
        self, writer: asyncio.StreamWriter, target: str, path: str, headers: Mapping[str, str], fault: Fault
    ) -> None:
        status, extra, body = fault.status, dict(fault.headers), fault.body
        if body is None and status == 200:
            status, extra, body = self._honest(target, path)
            extra |= fault.headers
        body = body or b""
        start = headers.get("range", "")
        if start and status == 200 and not fault.ignores_range:
            first = int(start.removeprefix("bytes=").rstrip("-"))
            if first >= len(body):
                status, body = 416, b""
            else:
                extra["content-range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
                status, body = 206, body[first:]
        lines = [f"HTTP/1.1 {status} Said", f"content-length: {len(body)}", "connection: close"]
        lines += [f"{name}: {value}" for name, value in extra.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body[: fault.cut])
        await writer.drain()
        if fault.gate is not None:
            await asyncio.to_thread(fault.gate.wait, PATIENCE_S)
            writer.write(body[fault.cut :])
            await writer.drain()

    def _honest(self, target: str, path: str) -> tuple[int, dict[str, str], bytes]:
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            kind = next((place for place, part in enumerate(parts) if part in ("revision", "tree")), None)
            if kind is None:
                return 404, {}, b""
            model, revision = "/".join(parts[2:kind]), "/".join(parts[kind + 1 :])
            files = self.files.get(f"{model}@{revision}")
            if files is None:
                return 404, {"x-error-code": "RepoNotFound"}, b""
            if parts[kind] == "tree":
                return self._tree(target, files)
            commit = next(
                name.rpartition("@")[2]
                for name, each in self.files.items()
                if name.startswith(model + "@") and each == files and not name.endswith("@main")
            )
            return 200, {}, json.dumps({"id": model, "sha": commit}).encode()
        if "resolve" in parts:
            at = parts.index("resolve")
            files = self.files.get(f"{'/'.join(parts[:at])}@{parts[at + 1]}", {})
            content = files.get("/".join(parts[at + 2 :]))
            return (404, {}, b"") if content is None else (200, {}, content)
        return 404, {}, b""

    def _tree(self, target: str, files: Mapping[str, bytes]) -> tuple[int, dict[str, str], bytes]:
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(target).query))
        first = int(query.get("cursor", "0"))
        entries: list[dict[str, object]] = [{"type": "directory", "path": "onnx", "oid": "0" * 40, "size": 0}]
        for path, content in sorted(files.items()):
            size = self.sizes.get(path, len(content))
            entry: dict[str, object] = {"type": "file", "path": path, "oid": git_sha1(content), "size": size}
            if len(content) >= LFS_BYTES:
                entry["oid"] = "1" * 40  # of the pointer
                entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": size, "pointerSize": 134}
            entries.append(entry)
        shown = entries[first : first + self.page]
        headers = {}
        if first + self.page < len(entries):
            plain = target.partition("&cursor")[0]
            headers["link"] = f'<{self.url}{plain}&cursor={first + self.page}>; rel="next"'
        return 200, headers, json.dumps(shown).encode()


def cut(at: int) -> Fault:
    """A connection that ends after so many bytes of the body."""
    return Fault(cut=at)


@contextmanager
def running_hub() -> Iterator[ModelHub]:
    """A hub, served by a thread of its own."""
    loop = asyncio.new_event_loop()
    hub = ModelHub()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(hub.server.start(), loop).result(PATIENCE_S)
        yield hub
    finally:
        asyncio.run_coroutine_threadsafe(hub.server.close(), loop).result(PATIENCE_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE_S)
        loop.close()
