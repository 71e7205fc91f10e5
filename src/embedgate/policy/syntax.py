"""Syntax check of a policy text, and its `@id`. `check` validates it against the schema.

Texts are measured before Cedar parses them: its parser is recursive and crashes the process when brackets are nested
some hundreds deep.
"""

import re
from collections.abc import Sequence
from typing import Literal

import cedarpy

from embedgate.core.access import PolicyMistake
from embedgate.policy.lexer import Lexeme, annotations, closing, line_and_column, read_lexemes
from embedgate.policy.place import place_of

MAX_CHARACTERS = 65_536
MAX_WORDS = 4096
"""Cedar's time for a chain such as `context has a.a.a` grows with the square of its length: a second for this many."""
MAX_NESTING = 32
"""Nested brackets and `if`s. Cedar crashes a process with 8 MB of stack at about 700."""

_END = "unexpected end of input"
_WRONG_WORD = re.compile(r"unexpected token `(.*)`", re.DOTALL)
_MAX_QUESTIONS = 500
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")


def policy_id(text: str) -> str | None:
    """The value of a policy's `@id`; None without one. Safe for any text, also one that is no policy."""
    lexemes, _ = read_lexemes(text)
    for name, value, _ in annotations(lexemes):
        if name.text == "id":
            return value.text[1:-1] if value else None
    return None


def effect_of(text: str) -> Literal["permit", "forbid"]:
    """What a policy does where it applies. text: one that can be read."""
    lexemes, _ = read_lexemes(text)
    behind = max((index for _, _, index in annotations(lexemes)), default=0)
    return "permit" if lexemes[behind].text == "permit" else "forbid"


def find_syntax_mistake(text: str) -> PolicyMistake | None:
    """The first reason why a text is not exactly one policy; None if it is. Safe for any text."""
    if len(text) > MAX_CHARACTERS:
        message = f"the text has {len(text)} characters; at most {MAX_CHARACTERS} are allowed, so split the policy"
        return _mistake(message, text, MAX_CHARACTERS)
    half = _HALF_CHARACTER.search(text)
    if half is not None:
        return _mistake("the text has half a character (a lone surrogate); write the whole one", text, half.start())
    lexemes, unreadable = read_lexemes(text)
    if len(lexemes) > MAX_WORDS:
        message = f"the text has {len(lexemes)} words and signs; at most {MAX_WORDS} are allowed, so split the policy"
        return _mistake(message, text, lexemes[MAX_WORDS].start)
    too_deep = _first_too_deep(lexemes)
    if too_deep is not None:
        message = f"brackets and ifs are nested more than {MAX_NESTING} deep; split the policy"
        return _mistake(message, text, too_deep.start)
    complaint = _parse(text)
    if complaint is None:
        return _count_mistake(text, lexemes)
    return _place(complaint, text, lexemes, unreadable)


def _place(message: str, text: str, lexemes: Sequence[Lexeme], unreadable: int | None) -> PolicyMistake:
    """The mistake that Cedar's parser reports, with its place."""
    if unreadable is not None:
        return _mistake(f"{message}; a text may lack its closing quote", text, unreadable)
    if message == _END:
        message = f"{message}; every bracket must be closed, and a policy ends with `;`"
        return _mistake(message, text, lexemes[-1].end)
    wrong_word = _WRONG_WORD.fullmatch(message)
    if wrong_word is not None:
        return _mistake(message, text, _offset_of_wrong(wrong_word[1], message, text, lexemes))
    return _mistake(message, text, place_of(message, text, lexemes, lambda variant: {_parse(variant)}))


def _mistake(message: str, text: str, offset: int) -> PolicyMistake:
    return PolicyMistake(message, *line_and_column(text, offset))


def _parse(text: str) -> str | None:
    """The error of Cedar's parser; None without one."""
    try:
        cedarpy.PolicySet.from_str(text)
    except ValueError as error:
        return str(error)
    return None


def _first_too_deep(lexemes: Sequence[Lexeme]) -> Lexeme | None:
    open_ifs = [0]
    for lexeme in lexemes:
        if lexeme.text in {"(", "[", "{"}:
            open_ifs.append(0)
        elif lexeme.text in {")", "]", "}"} and len(open_ifs) > 1:
            open_ifs.pop()
        elif lexeme.text == "if":
            open_ifs[-1] += 1
        if len(open_ifs) - 1 + sum(open_ifs) > MAX_NESTING:
            return lexeme
    return None


def _offset_of_wrong(word: str, message: str, text: str, lexemes: Sequence[Lexeme]) -> int:
    """Offset of the first token that the parser does not accept.

    The parser reads from left to right and stops at that token, so every prefix of the text without it only ends
    too soon. (No bisection: the parser may report the end of a longer prefix before it reports the token.)
    """
    suspects = [each for each in lexemes if each.text == word]
    wrong = (each for each in suspects[:_MAX_QUESTIONS] if _parse(text[: each.end]) == message)
    return next(wrong, lexemes[0]).start


def _count_mistake(text: str, lexemes: Sequence[Lexeme]) -> PolicyMistake | None:
    policies = cedarpy.PolicySet.from_str(text)
    if policies.templates():
        slot = next(each for each in lexemes if each.text.startswith("?"))
        return _mistake(f"{slot.text} makes it a template; name a principal or a resource instead", text, slot.start)
    if len(policies) == 0:
        return _mistake("there is no policy in the text; write one permit or forbid", text, 0)
    if len(policies) > 1:
        message = f"there are {len(policies)} policies in the text; save each under an id of its own"
        return _mistake(message, text, _second_policy(lexemes).start)
    return None


def _second_policy(lexemes: Sequence[Lexeme]) -> Lexeme:
    index = 0
    while lexemes[index].text != ";":
        index = closing(lexemes, index) + 1 if lexemes[index].text in {"(", "{"} else index + 1
    return lexemes[index + 1]
