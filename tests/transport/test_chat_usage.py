"""What completions say of tokens and texts, in the shapes that hosts document."""

import json
from typing import Any

import pytest

from embedgate.core.types import ChatUsage
from embedgate.transport.chat_usage import Said, read_completion


def read(completion: object) -> Said:
    said = read_completion(json.dumps(completion).encode())
    assert said is not None
    return said


OPENAI = {
    "prompt_tokens": 19,
    "completion_tokens": 10,
    "total_tokens": 29,
    "prompt_tokens_details": {"cached_tokens": 16, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 6, "accepted_prediction_tokens": 0},
}
DEEPSEEK = {
    "prompt_tokens": 19,
    "completion_tokens": 10,
    "total_tokens": 29,
    "prompt_cache_hit_tokens": 12,
    "prompt_cache_miss_tokens": 7,
}


@pytest.mark.parametrize(
    ("completion", "usage"),
    [
        ({"choices": [], "usage": OPENAI}, ChatUsage(19, 10, 16)),
        ({"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": DEEPSEEK}, ChatUsage(19, 10, 12)),
        # Moonshot: in the last choice, and its cached tokens beside the others
        (
            {"choices": [{"delta": {}, "usage": {"prompt_tokens": 19, "completion_tokens": 10, "cached_tokens": 5}}]},
            ChatUsage(19, 10, 5),
        ),
        ({"choices": [], "x_groq": {"id": "r", "usage": OPENAI}}, ChatUsage(19, 10, 16)),
        # xAI and Gemini: thoughts are in the total only
        ({"usage": {"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 135}}, ChatUsage(32, 103)),
        ({"usage": {"prompt_tokens": 32, "total_tokens": 40}}, ChatUsage(32, 8)),
        # a total that is smaller than its parts is none
        ({"usage": {"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 9}}, ChatUsage(32, 9)),
        ({"usage": {"prompt_tokens": 32, "completion_tokens": 0, "total_tokens": 32}}, ChatUsage(32, 0)),
        ({"usage": {"prompt_tokens": 3, "completion_tokens": 1, "cached_tokens": 9}}, ChatUsage(3, 1, 3)),
        ({"usage": {"prompt_tokens": 3, "completion_tokens": 1, "prompt_tokens_details": None}}, ChatUsage(3, 1)),
        # another shape of all else
        ({"usage": {"prompt_tokens": 3, "completion_tokens": 1, "prompt_tokens_details": []}}, ChatUsage(3, 1)),
        ({"usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": -4}}, ChatUsage(3, 1)),
        ({"usage": {"prompt_tokens": 3, "completion_tokens": 1, "cached_tokens": -1}}, ChatUsage(3, 1)),
        ({"choices": "?", "usage": OPENAI}, ChatUsage(19, 10, 16)),
        ({"choices": [{"delta": {"tool_calls": 5}}], "usage": OPENAI}, ChatUsage(19, 10, 16)),
    ],
)
def test_counts_are_read_where_hosts_put_them(completion: object, usage: ChatUsage) -> None:
    assert read(completion).usage == usage


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": "19", "completion_tokens": 10},
        {"prompt_tokens": 18.2, "completion_tokens": 9.5},
        {"prompt_tokens": 19.0, "completion_tokens": None, "total_tokens": "29.0", "prompt_tokens_details": []},
        {"prompt_tokens": 19, "completion_tokens": "ten", "total_tokens": 29, "cached_tokens": {}},
    ],
)
def test_a_count_is_read_however_it_is_written_and_rounded_up(usage: object) -> None:
    assert read({"choices": [], "usage": usage}).usage == ChatUsage(19, 10)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        [],
        "19",
        {"prompt_tokens": 15, "completion_tokens": None, "total_tokens": None},
        {"completion_tokens": 10, "total_tokens": 29},
        {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        {"prompt_tokens": -1, "completion_tokens": 10},
        {"prompt_tokens": "many", "completion_tokens": 10},
        {"prompt_tokens": True, "completion_tokens": 10},
        {"prompt_tokens": 10**30, "completion_tokens": 10},
    ],
)
def test_what_is_no_count_counts_nothing(usage: object) -> None:
    assert read({"choices": [], "usage": usage}).usage is None


@pytest.mark.parametrize(
    ("message", "written_bytes"),
    [
        ({"content": "Gr\u00fc\u00dfe \U0001f980"}, 12),
        ({"content": 'a "quote"\n\\'}, 11),
        ({"content": None, "reasoning_content": "hm"}, 2),
        ({"content": "", "reasoning": "hm", "reasoning_details": [{"text": "hm"}]}, 2),
        ({"refusal": "no"}, 2),
        ({"tool_calls": [{"index": 0, "id": "call_1", "function": {"name": "f", "arguments": '{"a":1}'}}]}, 8),
        ({"tool_calls": [{"index": 0, "function": {"arguments": "}"}}, {"function": None}]}, 1),
        ({"function_call": {"name": "f", "arguments": "{}"}}, 3),
        ({"role": "assistant", "audio": {"data": "AAAA"}}, 0),
        # parts, as Mistral sends thoughts: all of their JSON
        ({"content": [{"type": "text"}]}, len('[{"type": "text"}]')),
    ],
)
@pytest.mark.parametrize("field", ["delta", "message"])
@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_what_a_model_writes_is_measured_in_utf8(
    message: dict[str, Any], written_bytes: int, field: str, ensure_ascii: bool
) -> None:
    data = json.dumps({"choices": [{"index": 0, field: message}]}, ensure_ascii=ensure_ascii).encode()
    said = read_completion(data)
    assert said is not None
    assert said.written_bytes == written_bytes


def test_an_unknown_shape_counts_as_written() -> None:
    data = b'{"choices":{"text":"?"}}'
    assert read_completion(data) == Said(written_bytes=len(data))


@pytest.mark.parametrize(
    ("completion", "is_usage_only"),
    [
        ({"choices": [], "usage": OPENAI}, True),
        ({"usage": OPENAI}, True),
        ({"choices": None, "usage": {"credits": 5}}, True),
        ({"choices": [], "usage": None}, False),
        ({"choices": [], "prompt_filter_results": []}, False),
        ({"choices": [{"delta": {}}], "usage": OPENAI}, False),
    ],
)
def test_only_a_count_is_only_a_count(completion: object, is_usage_only: bool) -> None:
    assert read(completion).is_usage_only == is_usage_only


@pytest.mark.parametrize(
    ("completion", "is_error"),
    [
        ({"error": {"message": "boom"}}, True),
        ({"error": "boom", "choices": []}, True),
        ({"object": "error", "message": "boom"}, True),
        ({"error": {"message": "boom"}, "choices": 5}, True),
        ({"error": None, "choices": []}, False),
        ({"error": {}, "choices": []}, False),
        ({"error": "", "object": "chat.completion.chunk"}, False),
        ({"error": False}, False),
    ],
)
def test_errors_are_told_from_answers(completion: object, is_error: bool) -> None:
    assert read(completion).is_error == is_error


@pytest.mark.parametrize("data", [b"", b"[DONE]", b"[]", b"5", b'"x"', b"{", b"\xff", b"[" * 5_000, b'{"a":' * 5_000])
def test_what_is_no_json_object_says_nothing(data: bytes) -> None:
    assert read_completion(data) is None
