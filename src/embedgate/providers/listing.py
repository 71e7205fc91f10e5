"""Lists of models that servers give of themselves: which calls to make, and what their answers say. Pure translation.

OpenAI's form is `GET /models`, with further facts in the words of vLLM, llama.cpp, Infinity, Together or OpenRouter.
Ollama has `/api/tags` and `/api/show`, Text Embeddings Inference `/info` for its only model.
"""

from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

import msgspec

from embedgate.core.actions import ActionName
from embedgate.core.errors import UpstreamGarbled
from embedgate.transport import HttpCall, HttpReply, encode

_LISTING_MODULES = {"openai": "/models", "ollama": "/api/tags", "tei": "/info", "nomic": "/models"}
_MAX_NAME_CHARACTERS = 512
_MAX_NUMBER = 10**9
_TOKEN_FIELDS = ("max_model_len", "max_context_length", "context_length", "context_window", "max_input_tokens")
_ACTIONS: Mapping[str, ActionName] = {
    "embedding": "embedding", "embeddings": "embedding", "embed": "embedding",
    "chat": "chat", "completion": "chat", "language": "chat",
    "rerank": "rerank", "reranker": "rerank",
}  # fmt: skip


class ListedModel(msgspec.Struct, frozen=True):
    """A model as its server names it, and what the server says of it. None: it says nothing."""

    name: str
    action: ActionName | None = None
    dim: int | None = None
    max_tokens: int | None = None


def list_call(module: str) -> HttpCall | None:
    """The call that asks for the list, by the vendor module of the host; None where no such call is known."""
    path = _LISTING_MODULES.get(module)
    return None if path is None else HttpCall("GET", path, b"")


def read_list(module: str, reply: HttpReply) -> tuple[ListedModel, ...]:
    """The models in the answer to that call, each name once. Raises UpstreamGarbled."""
    content = _content(reply)
    if module == "tei":
        return (_of_tei(content, reply),)
    rows = content.get("models" if module == "ollama" else "data") if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise UpstreamGarbled(f"{reply.provider} sent something else than a list of models")
    found = {each.name: each for each in _rows(rows, "name" if module == "ollama" else "id")}
    return tuple(found.values())


def show_call(name: str) -> HttpCall:
    """The call that asks Ollama for what it knows of one model."""
    return HttpCall("POST", "/api/show", encode({"model": name}))


def read_shown(name: str, reply: HttpReply) -> ListedModel:
    """What Ollama says of one model. Raises UpstreamGarbled."""
    content = _content(reply)
    facts = content.get("model_info") if isinstance(content, dict) else None
    facts = facts if isinstance(facts, dict) else {}
    action = _capability(content) if isinstance(content, dict) else None
    return ListedModel(name, action, _ending(facts, ".embedding_length"), _ending(facts, ".context_length"))


def _of_tei(content: Any, reply: HttpReply) -> ListedModel:
    name = content.get("model_id") if isinstance(content, dict) else None
    if not _is_name(name):
        raise UpstreamGarbled(f"{reply.provider} sent something else than the facts of its model")
    kinds = content.get("model_type")
    kind = next(iter(kinds), "") if isinstance(kinds, dict) else kinds if isinstance(kinds, str) else ""
    return ListedModel(name, _ACTIONS.get(kind.lower()), None, _number(content.get("max_input_length")))


def _rows(rows: list[Any], key: str) -> Iterator[ListedModel]:
    for row in rows:
        name = row.get(key) if isinstance(row, dict) else None
        if not _is_name(name):
            continue
        meta = row.get("meta") if isinstance(row.get("meta"), dict) else {}
        tokens = next((n for field in _TOKEN_FIELDS if (n := _number(row.get(field)))), None)
        yield ListedModel(name, _action(row), _number(meta.get("n_embd")), tokens or _number(meta.get("n_ctx_train")))


def _action(row: Mapping[str, Any]) -> ActionName | None:
    told = row.get("type")
    if isinstance(told, str):
        return _ACTIONS.get(told.lower())
    return _capability(row)


def _capability(told: Mapping[str, Any]) -> ActionName | None:
    """The first of the capabilities of a model that is an action here."""
    can = told.get("capabilities")
    words = can if isinstance(can, list) else []
    return next((_ACTIONS[word] for word in words if isinstance(word, str) and word in _ACTIONS), None)


def _ending(facts: Mapping[str, Any], end: str) -> int | None:
    """The number of a field whose name begins with the architecture of the model."""
    return next((n for name, value in facts.items() if str(name).endswith(end) and (n := _number(value))), None)


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MAX_NUMBER else None


def _is_name(name: object) -> TypeGuard[str]:
    return isinstance(name, str) and 1 <= len(name) <= _MAX_NAME_CHARACTERS and name.isprintable()


def _content(reply: HttpReply) -> Any:
    try:
        return msgspec.json.decode(reply.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamGarbled(f"{reply.provider} sent no JSON") from error
