"""`embedgate ask`: answers with citations, passages without a chat model, and what is not in the texts."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from chat_upstream import Chat, ChatUpstream, running_chat_upstream
from embedgate import Client
from program import Program
from upstream import error


@pytest.fixture
def chats() -> Iterator[ChatUpstream]:
    with running_chat_upstream() as upstream:
        yield upstream


@pytest.fixture
def notes(program: Program, folder: Path, chats: ChatUpstream) -> tuple[str, ...]:
    """A collection of thirty lines, and the options with which it is asked."""
    (folder / "notes.txt").write_text("".join(f"fact number {number}\n" for number in range(30)))
    there = ("--url", chats.base_url)
    assert program("index", "create", "notes", "--model", "m", *there).code == 0
    assert program("index", "add", "notes", "notes.txt", *there).code == 0
    return ("ask", "notes", "fact number 7", "-k", "2", *there)


def test_a_chat_model_answers_from_the_passages_and_they_are_listed(
    program: Program, notes: tuple[str, ...], chats: ChatUpstream
) -> None:
    seen: list[str] = []

    def reply(messages) -> str:  # type: ignore[no-untyped-def]
        seen.extend(str(message["content"]) for message in messages)
        return "It is seven [1]."

    chats.reply_to = reply
    ended = program(*notes, "--chat-model", "c")
    assert (ended.code, ended.errors) == (0, "")
    lines = ended.text.splitlines()
    assert lines[0] == "It is seven [1]."
    assert lines[2].startswith("[1] notes.txt:8 (1.000): fact number 7")
    assert lines[3].startswith("[2] ")
    assert "[1] fact number 7" in seen[1]
    assert "not in these texts" in seen[0]


def test_without_a_chat_model_the_passages_are_printed_and_that_is_said(
    program: Program, notes: tuple[str, ...]
) -> None:
    ended = program(*notes)
    assert ended.errors == "no chat model was named with --chat-model, so these are the passages, not an answer:\n"
    assert ended.text.startswith("[1] notes.txt:8 (1.000): fact number 7\n[2] ")


def test_what_is_not_near_is_not_answered_and_costs_no_chat(
    program: Program, notes: tuple[str, ...], chats: ChatUpstream
) -> None:
    n_before = len(chats.requests)
    ended = program(*notes, "--chat-model", "c", "--min-score", "1.5")
    assert (ended.code, ended.text) == (0, "not in these texts\n")
    assert "the best text has a score of 1.000; 1.500 is needed" in ended.errors
    assert not any("messages" in seen.json for seen in chats.requests[n_before:] if seen.body)


@pytest.mark.parametrize(
    ("chat", "said"),
    [
        (Chat(events=[b'{"choices":[{"delta":{"content":"It"}}]}'], ending="close"), "broke off"),
        (Chat(events=[b'{"error":{"message":"no more"}}']), "no more"),
        (Chat(events=[b"nonsense"]), "does not belong to a chat"),
        (Chat(failure=error(400, "no such model")), "no such model"),
    ],
)
def test_a_chat_that_fails_is_told(
    program: Program, notes: tuple[str, ...], chats: ChatUpstream, chat: Chat, said: str
) -> None:
    chats.script_chats(chat)
    ended = program(*notes, "--chat-model", "c")
    assert ended.code in (1, 4)
    assert said in ended.errors
    assert "Traceback" not in ended.errors


def test_an_answer_is_printed_as_it_comes(program: Program, notes: tuple[str, ...], chats: ChatUpstream) -> None:
    pause = threading.Event()
    words = [b'{"choices":[{"delta":{"content":"It "}}]}', b'{"choices":[{"delta":{"content":"is."}}]}', b"[DONE]"]
    chats.script_chats(Chat(events=words, pause=pause))
    with Client(None, chats.base_url) as client:
        pieces = client.stream_chat([{"role": "user", "content": "hello there"}], model="c")
        assert next(pieces) == "It "  # while the rest waits
        pause.set()
        assert list(pieces) == ["is."]


def test_wrong_wishes_are_refused(program: Program, folder: Path) -> None:
    assert program("ask", "notes", "x", "--chat-model", "c").code == 2
    assert program("ask", "notes", "x").code == 1
