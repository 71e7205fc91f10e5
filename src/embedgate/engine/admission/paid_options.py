"""Paid options: what a request asks for beyond tokens, so that no budget pays for what was not held.

The hold of a request is worked out from its tokens. A caller with a budget may therefore send only fields that are
weighed, and fields that no host bills. Others are refused by name, unless a setting allows them; their stated bound is
then held and booked on top. Without a budget every field passes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from embedgate.core.errors import UnsupportedOption
from embedgate.core.types import Candidate, ChatRequest, EmbedRequest, Weighed

_Object = dict[str, msgspec.Raw]

_SCALARS = frozenset(
    # Weighed: what bounds the output.
    {"max_tokens", "max_completion_tokens", "n"}
) | {
    # Not billed: they choose among tokens, or say how the answer is sent or named.
    "frequency_penalty",
    "include_reasoning",
    "logprobs",
    "min_p",
    "parallel_tool_calls",
    "presence_penalty",
    "prompt_cache_key",
    "prompt_cache_retention",
    "random_seed",
    "reasoning_effort",
    "reasoning_format",
    "repetition_penalty",
    "safe_prompt",
    "safety_identifier",
    "seed",
    "store",
    "stream",
    "temperature",
    "top_k",
    "top_logprobs",
    "top_p",
    "user",
    "verbosity",
}
"""Fields of a chat that cost nothing as a text, a number, true or false; an object there is not known."""
CHAT_FIELDS = _SCALARS | {
    # Weighed: what the model reads.
    "messages",
    "tools",
    "functions",
    "response_format",
    # Not billed.
    "function_call",
    "logit_bias",
    "metadata",
    "stop",
    "stream_options",
    "tool_choice",
}
"""Fields of a chat that cost nothing beyond the tokens that are held for it."""
CHAT_VALUES: Mapping[str, tuple[Any, ...]] = {
    "modalities": (["text"], []),
    "service_tier": ("auto", "default", "flex", "on_demand"),
}
"""Fields of a chat with the values that cost no more than the list price. `auto` is what leaving it out means."""
_MESSAGE_FIELDS = frozenset(
    {
        "annotations",
        "content",
        "function_call",
        "name",
        "partial",
        "prefix",
        "reasoning",
        "reasoning_content",
        "refusal",
        "role",
        "tool_call_id",
        "tool_calls",
    }
)
"""Fields of a message that are text, and weighed as such. Not `audio`, which names a sound that is read again."""
_PARTS: Mapping[str, frozenset[str]] = {
    "text": frozenset({"text"}),
    "refusal": frozenset({"refusal"}),
    "image_url": frozenset({"image_url"}),
}
"""Parts of a content. Sound has a dearer token, and files are read by tools with a price of their own."""
_TOOLS: Mapping[str, frozenset[str]] = {"function": frozenset({"function"}), "custom": frozenset({"custom"})}
"""Tools that the caller runs. Those of a host, such as a web search, have a price of their own."""
_FUNCTION_FIELDS = frozenset({"name", "description", "parameters", "strict"})
_CUSTOM_FIELDS = frozenset({"name", "description", "format"})
_CALL_FIELDS = frozenset({"id", "type", "index", "function", "custom", "extra_content"})
"""Fields of a call of a tool in a message, which the model reads as text. Google keeps a thought in the last one."""
_TEXTS = ("name", "reasoning", "reasoning_content", "refusal", "role", "tool_call_id")
"""Fields of a message that are weighed as the texts that they are: not as media, which may be heavier."""
_ANNOTATIONS: Mapping[str, frozenset[str]] = {"url_citation": frozenset({"url_citation"})}
"""Not those of files, by which a host reads a file again that is not in the request."""
_CHOICES: Mapping[str, frozenset[str]] = {**_TOOLS, "allowed_tools": frozenset({"allowed_tools"})}
_OBJECTS: Mapping[str, frozenset[str]] = {
    "function_call": frozenset({"name"}),
    "response_format": frozenset({"type", "json_schema", "schema", "grammar", "regex"}),
    "stream_options": frozenset({"include_usage", "include_obfuscation", "continuous_usage_stats"}),
}
"""Fields of a chat that are objects, or a word in their place, with the names that cost nothing."""
_HOSTS_OWN = "$"
"""Functions whose names begin so are a host's: Moonshot's `$web_search`."""
EMBEDDING_OPTIONS = frozenset({"late_chunking", "normalize", "normalized"})
"""Options of embeddings that cost nothing beyond the tokens."""

_objects = msgspec.json.Decoder(list[_Object])
_object = msgspec.json.Decoder(_Object)


_Read = Callable[[_Object, str], object]
"""Reads one object, at a place in the body."""


class _Use(NamedTuple):
    """Something that may have a price of its own: its name in the setting, and its place in the body."""

    name: str
    place: str


class PaidOptions:
    """Checks the options of requests against what is known of their price."""

    def __init__(self, allowed: Mapping[str, int]) -> None:
        """allowed: options that are let through with a budget, and the most that each can cost, in picodollars."""
        self._allowed = allowed

    def of_chat(
        self, request: ChatRequest, candidates: Sequence[Candidate], *, is_budgeted: bool
    ) -> tuple[ChatRequest, int]:
        """The request as it may be sent, and what its options can cost beside its tokens, in picodollars.

        With a budget, messages and tools have each name once, so that the host reads what was checked here.
        Raises UnsupportedOption for an option that is not allowed with a budget.
        """
        if not (is_budgeted or self._allowed) or _are_free(candidates):
            return request, 0
        checked = _Checked(request.fields)
        surcharge = self._surcharge(checked.uses, is_budgeted)
        return (replace(request, fields=checked.fields) if is_budgeted else request), surcharge

    def of_embeddings(self, request: EmbedRequest, candidates: Sequence[Candidate], *, is_budgeted: bool) -> int:
        """What the options of a request can cost beside its tokens, in picodollars; their bound counts per input.

        Raises UnsupportedOption for an option that is not allowed with a budget.
        """
        if _are_free(candidates):
            return 0
        uses = [_Use(name, name) for name in request.options if name not in EMBEDDING_OPTIONS]
        return self._surcharge(uses, is_budgeted) * request.n_items

    def _surcharge(self, uses: Sequence[_Use], is_budgeted: bool) -> int:
        for use in uses:
            if is_budgeted and use.name not in self._allowed:
                raise UnsupportedOption(
                    f"{use.place[:200]} is not known to cost nothing beside the tokens that the budget of this caller "
                    "is held for. Leave it out, or ask an administrator to allow it with the most that it can cost: "
                    f'limits.paid_options, "{use.name[:100]}".',
                    param=use.place[:100],
                )
        return sum(self._allowed.get(name, 0) for name in {use.name for use in uses})


def surcharged(weighed: Sequence[Weighed], surcharge_picodollars: int) -> list[Weighed]:
    """The candidates with a cost that is higher by so much."""
    return [replace(each, cost_picodollars=each.cost_picodollars + surcharge_picodollars) for each in weighed]


class _Checked:
    """The fields of a chat, read down to what can have a price. `uses` are not known to cost nothing."""

    def __init__(self, fields: Mapping[str, bytes]) -> None:
        self.uses: list[_Use] = []
        self.fields = dict(fields)
        for name, raw in fields.items():
            if name in CHAT_VALUES:
                if _value(raw) not in CHAT_VALUES[name]:
                    self._use(name, name)
            elif name not in CHAT_FIELDS or (name in _SCALARS and raw.startswith((b"{", b"["))):
                self._use(name, name)
        for name, read in (("messages", self._message), ("tools", self._tool), ("functions", self._function)):
            if name in fields:
                self.fields[name] = self._list(fields[name], name, name, read)
        for name, known in _OBJECTS.items():
            if (item := self._object(name)) is not None:
                self._names(item, known, name, name)
        if (choice := self._object("tool_choice")) is not None:
            self._kind(choice, _CHOICES, "tool_choice", "tool_choice")

    def _use(self, name: str, place: str) -> None:
        self.uses.append(_Use(name, place))

    def _list(self, raw: bytes, name: str, place: str, read: _Read) -> bytes:
        """A list of objects, each of them read, with every name once. Any other shape is not known to cost nothing."""
        try:
            items = _objects.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._use(name, place)
            return raw
        for position, item in enumerate(items):
            read(item, f"{place}[{position}]")
        return msgspec.json.encode(items)

    def _object(self, name: str) -> _Object | None:
        """The object in a field, which is then sent with every name once; None for a word in its place."""
        raw = self.fields.get(name, b'""')
        if raw.startswith(b'"'):
            return None
        try:
            item = _object.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._use(name, name)
            return None
        self.fields[name] = msgspec.json.encode(item)
        return item

    def _message(self, message: _Object, place: str) -> None:
        self._names(message, _MESSAGE_FIELDS, "messages", place)
        self._texts(message, _TEXTS, place)
        content = bytes(message.get("content", b"null"))
        if content.startswith(b"["):
            message["content"] = msgspec.Raw(self._list(content, "messages.content", f"{place}.content", self._part))
        elif content != b"null" and not content.startswith(b'"'):
            self._use("messages.content", f"{place}.content")
        for field, read in (("annotations", self._annotation), ("tool_calls", self._call)):
            raw = bytes(message.get(field, b"null"))
            if raw != b"null":
                message[field] = msgspec.Raw(self._list(raw, f"messages.{field}", f"{place}.{field}", read))

    def _texts(self, item: _Object, fields: Sequence[str], place: str) -> None:
        for field in fields:
            raw = bytes(item.get(field, b"null"))
            if raw != b"null" and not raw.startswith(b'"'):
                self._use(f"messages.{field}", f"{place}.{field}")

    def _part(self, part: _Object, place: str) -> None:
        kind = self._kind(part, _PARTS, "messages", place)
        if kind is not None and kind != "image_url":
            self._texts(part, (kind,), place)

    def _annotation(self, annotation: _Object, place: str) -> None:
        self._kind(annotation, _ANNOTATIONS, "messages.annotations", place)

    def _call(self, called: _Object, place: str) -> None:
        self._names(called, _CALL_FIELDS, "messages.tool_calls", place)
        if bytes(called.get("type", b"null")) != b"null" and _value(bytes(called["type"])) not in _TOOLS:
            self._use("messages.tool_calls", f"{place}.type")

    def _tool(self, tool: _Object, place: str) -> None:
        kind = self._kind(tool, _TOOLS, "tools", place)
        if kind is None or kind not in tool:
            return
        try:
            inside = _object.decode(tool[kind])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._use(f"tools.{kind}", f"{place}.{kind}")
            return
        if kind == "function":
            self._function(inside, f"{place}.function", "tools")
        else:
            self._names(inside, _CUSTOM_FIELDS, "tools.custom", f"{place}.custom")
            self._name(inside, f"{place}.custom", "tools")
        tool[kind] = msgspec.Raw(msgspec.json.encode(inside))

    def _function(self, function: _Object, place: str, field: str = "functions") -> None:
        """A function that the caller runs: of `tools`, or of the older field `functions`."""
        name = "tools.function" if field == "tools" else field
        self._names(function, _FUNCTION_FIELDS, name, place)
        self._name(function, place, field)

    def _name(self, called: _Object, place: str, field: str) -> None:
        name = _value(bytes(called.get("name", b"null")))
        if isinstance(name, str) and name.startswith(_HOSTS_OWN):
            self._use(f"{field}.{name}", f"{place}.name")

    def _kind(self, item: _Object, known: Mapping[str, frozenset[str]], name: str, place: str) -> str | None:
        """The type of a part or tool, which says what other fields it may have."""
        kind = _value(bytes(item.get("type", b"null")))
        if not isinstance(kind, str):
            self._use(f"{name}.type", f"{place}.type")
            return None
        if kind not in known:
            self._use(f"{name}.{kind}", f"{place}.type")
            return None
        self._names(item, known[kind] | {"type"}, name, place)
        return kind

    def _names(self, item: _Object, known: frozenset[str], name: str, place: str) -> None:
        for field, raw in item.items():
            if field not in known and bytes(raw) != b"null":
                self._use(f"{name}.{field}", f"{place}.{field}")


def _value(raw: bytes) -> Any:
    """A small value; None for what cannot be read, which no table has."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _are_free(candidates: Sequence[Candidate]) -> bool:
    """Whether no host among them bills anything."""
    return all(each.route.costs_nothing() for each in candidates)
