"""Files of a model on a hub: its commit, what is there, and which of them a local model needs. No file is loaded here.

The hub's layout is that of Hugging Face: `/api/models/ID/revision/REVISION`, `/api/models/ID/tree/COMMIT`, and
`/ID/resolve/COMMIT/PATH`.
"""

import re
import urllib.parse
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from embedgate.core.errors import (
    GatewayError,
    InvalidInput,
    UnknownModel,
    UpstreamBusy,
    UpstreamDenied,
    UpstreamFailed,
    UpstreamGarbled,
)
from embedgate.inference.model_folder import ONNX_FILES, TOKENIZER_FILE, WEIGHTS_FILE
from embedgate.transport.hub import Hub, HubReply

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")

_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MODULE_FILE = re.compile(r"[0-9]{1,2}_[A-Za-z]{1,40}/(config\.json|model\.safetensors)")
_NEXT = re.compile(r'<([^>]+)>\s*;\s*rel="?next"?')
_SETTINGS = frozenset(
    {
        "config.json", "config_sentence_transformers.json", "modules.json", "sentence_bert_config.json",
        TOKENIZER_FILE, "tokenizer_config.json",
    }
)  # fmt: skip
_MAX_PAGES = 20  # of a thousand files each; no model has as many
_Parsed = TypeVar("_Parsed")


class _Lfs(msgspec.Struct):
    oid: str
    size: int


class _Entry(msgspec.Struct):
    path: str
    type: str
    oid: str = ""
    size: int = 0
    lfs: _Lfs | None = None


class _Revision(msgspec.Struct):
    sha: str


class HubFile(msgspec.Struct, frozen=True):
    """One file: its path, its size, and its SHA-256, or the SHA-1 of a git blob where the hub has only that."""

    path: str
    size_bytes: int
    sha256: str | None
    blob_sha1: str


async def find_commit(hub: Hub, model: str, revision: str) -> str:
    """The commit of a revision, 40 hex digits.

    Raises UnknownModel if the hub has no such model or revision, UpstreamDenied if it may not be read, UpstreamBusy or
    UpstreamFailed if the hub fails, UpstreamGarbled if it answers something else.
    """
    path = f"/api/models/{model}/revision/{urllib.parse.quote(revision, safe='')}"
    async with hub.get(path) as reply:
        commit = _decoded(hub, await _success(hub, reply, f"{model} at {revision}"), _Revision).sha
    if not _COMMIT.fullmatch(commit):
        raise UpstreamGarbled(f"{hub.url} names no commit for {model} at {revision}")
    if _COMMIT.fullmatch(revision) and commit != revision:
        raise UpstreamGarbled(f"{hub.url} answers with commit {commit}, not with {revision}")
    return commit


async def list_files(hub: Hub, model: str, commit: str) -> list[HubFile]:
    """All files of a commit. Raises as `find_commit`."""
    found: list[HubFile] = []
    path = f"/api/models/{model}/tree/{commit}?recursive=true"
    for _ in range(_MAX_PAGES):
        async with hub.get(path) as reply:
            body = await _success(hub, reply, f"{model} at {commit}")
            link = _NEXT.search(reply.headers.get("link", ""))
        found += [_file(hub, entry) for entry in _decoded(hub, body, list[_Entry]) if entry.type == "file"]
        if link is None:
            return found
        path = urllib.parse.urljoin(hub.url + "/", link[1])
        if not hub.is_own(path):
            raise UpstreamGarbled(f"{hub.url} continues its list of files at another host")
    raise UpstreamGarbled(f"{hub.url} lists more files of {model} than a model has")


def small_files(files: Sequence[HubFile]) -> list[HubFile]:
    """Those that say how the model is run: settings, tokenizer, pooling, dense layers."""
    return [file for file in files if file.path in _SETTINGS or _MODULE_FILE.fullmatch(file.path)]


def weights_files(files: Sequence[HubFile], weights: str) -> list[HubFile]:
    """The weights, and the external data beside an ONNX file, which are named like it."""
    parent = weights.rpartition("/")[0]
    return [
        file
        for file in files
        if file.path == weights
        or (
            weights.endswith(".onnx")
            and re.fullmatch(re.escape(weights) + r"[._][A-Za-z0-9._-]{1,40}", file.path)
            and file.path.rpartition("/")[0] == parent
        )
    ]


def weights_choices(files: Sequence[HubFile], wanted: str | None) -> list[str]:
    """Weights that could be run, the first choice first. wanted: the only one. Raises UnknownModel if none is there."""
    there = {file.path for file in files}
    if wanted is not None:
        if wanted not in there:
            known = [path for path in sorted(there) if path.endswith((".onnx", ".safetensors"))]
            raise UnknownModel(f"There is no file {wanted}; there are {', '.join(known[:20]) or 'no weights'}.")
        return [wanted]
    found = [path for path in (WEIGHTS_FILE, *ONNX_FILES) if path in there]
    if not found:
        raise UnknownModel(
            f"It has neither {WEIGHTS_FILE} nor an ONNX file ({', '.join(ONNX_FILES)}), so it cannot be run here."
        )
    return found


def check_reply(hub: Hub, reply: HubReply, what: str) -> None:
    """Check that an answer is a success. Raises as `find_commit`. what: was asked for."""
    if 200 <= reply.status < 300:
        return
    raise _refusal(hub, reply, what)


def _refusal(hub: Hub, reply: HubReply, what: str) -> GatewayError:
    code = reply.headers.get("x-error-code", "")
    if reply.status in (401, 403):
        gated = "is gated: accept its terms there, then" if code == "GatedRepo" else "is private, gated or not there:"
        return UpstreamDenied(f"{hub.url} denies {what} ({reply.status}). It {gated} give a token in HF_TOKEN.")
    if reply.status in (404, 410):
        return UnknownModel(f"{hub.url} has no {what}. Check the id and --revision.")
    if reply.status in {429, 503}:
        error = UpstreamBusy(f"{hub.url} is asked too often ({reply.status})")
        error.retry_after_s = reply.retry_after_s
        return error
    return UpstreamFailed(f"{hub.url} answers {reply.status} for {what}")


async def _success(hub: Hub, reply: HubReply, what: str) -> bytes:
    check_reply(hub, reply, what)
    return await reply.body()


def _decoded(hub: Hub, body: bytes, kind: type[_Parsed]) -> _Parsed:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UpstreamGarbled(f"{hub.url} does not answer as a hub of models: {error}") from error


def _file(hub: Hub, entry: _Entry) -> HubFile:
    size, sha256 = (entry.lfs.size, entry.lfs.oid) if entry.lfs else (entry.size, None)
    is_right = size >= 0 and (_DIGEST.fullmatch(sha256) if sha256 is not None else _COMMIT.fullmatch(entry.oid))
    if not is_right:
        raise UpstreamGarbled(f"{hub.url} gives no size or digest for {entry.path!r}")
    return HubFile(entry.path, size, sha256, entry.oid)


def check_id(model: str) -> None:
    """Check the id of a model on a hub. Raises InvalidInput."""
    if not ID.fullmatch(model):
        raise InvalidInput(f"{model!r} is no id of a model on a hub, such as BAAI/bge-small-en-v1.5.", param="id")
