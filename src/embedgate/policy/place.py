"""Place of a mistake in a policy's text; Cedar reports mistakes without their place.

A token that the message names and that occurs once is the place. Otherwise Cedar checks longer and longer prefixes of
the condition: the mistake is in the piece with which it first appears. The caller chooses what is checked.
"""

import re
from collections.abc import Callable, Collection, Iterator, Sequence

from embedgate.policy.lexer import Lexeme, annotations, closing, read_lexemes

MessagesOf = Callable[[str], Collection[str | None]]
"""Function that returns Cedar's mistakes in a policy's text."""

_MAX_WORDS_ASKED = 50_000
"""Limit over all Cedar calls for one mistake; anything beyond is placed at the start of its condition."""
_CUTS = frozenset({"&&", "||", "(", ")", "[", "]", "{", "}", ",", ":", "then", "else"})
"""Tokens at which a prefix of a condition may end, once its open brackets and ifs are closed."""
_ENDS = {"(": ")", "[": "]", "{": "}", "if": " then true else true", "then": " else true"}
"""Text that closes an open bracket, and completes an `if` that was cut off."""


def place_of(message: str, text: str, lexemes: Sequence[Lexeme], messages_of: MessagesOf) -> int:
    """Offset of the token or expression that `message` is about, as exactly as possible.

    text: one policy, already cut into `lexemes`. Without a better place it is `permit` or `forbid`, or the first token
    that the message names.
    """
    named = _named(message, lexemes)
    if len(named) == 1:
        return named[0].start
    effect = _effect_index(lexemes)
    start = closing(lexemes, effect + 1) + 1
    before = text[: lexemes[start - 1].end]
    if message in messages_of(f"{before};"):
        return (named or [lexemes[effect]])[0].start
    for condition, end in _conditions(lexemes, start):
        if message in messages_of(f"{text[:end]};"):

            def is_wrong(source: str, before: str = before) -> bool:
                # An expression need not be true or false, but its equality with itself is.
                return message in messages_of(f"{before}\nwhen {{ ({source}) == ({source}) }};")

            part = _wrong_part(condition, text, is_wrong)
            within = [each for each in named if condition[0].start <= each.start < part[-1].end]
            return (within[-1] if within else part[0]).start
        before = text[:end]
    return (named or [lexemes[effect]])[0].start


def _effect_index(lexemes: Sequence[Lexeme]) -> int:
    index = 0
    for _, _, behind in annotations(lexemes):
        index = behind
    return min(index, len(lexemes) - 1)


def _conditions(lexemes: Sequence[Lexeme], index: int) -> Iterator[tuple[Sequence[Lexeme], int]]:
    """The tokens in the braces of each `when` and `unless`, and the offset after the brace."""
    while index + 1 < len(lexemes) and lexemes[index + 1].text == "{":
        end = closing(lexemes, index + 1)
        if end == len(lexemes) or end == index + 2:
            return
        yield lexemes[index + 2 : end], lexemes[end].end
        index = end + 1


def _wrong_part(condition: Sequence[Lexeme], text: str, is_wrong: Callable[[str], bool]) -> Sequence[Lexeme]:
    """The shortest end of the first wrong prefix that is wrong by itself.

    The whole condition if that would take too many Cedar calls.
    """
    words_left = _MAX_WORDS_ASKED
    for piece, ends in _pieces(condition):
        words_left -= 2 * piece.stop
        if words_left < 0:
            return condition
        if piece.stop == len(condition) or is_wrong(text[condition[0].start : condition[piece.stop - 1].end] + ends):
            break
    else:
        return condition
    for start in range(piece.stop - 1, piece.start, -1):
        words_left -= 2 * (piece.stop - start)
        if words_left >= 0 and is_wrong(text[condition[start].start : condition[piece.stop - 1].end]):
            return condition[start : piece.stop]
    return condition[piece.start : piece.stop]


def _pieces(condition: Sequence[Lexeme]) -> Iterator[tuple[range, str]]:
    """The token indexes between two cuts, and the text that completes the condition after them."""
    open_ends: list[str] = []
    start = 0
    for index, lexeme in enumerate(condition):
        word = lexeme.text
        if word in _CUTS:
            if index > start:
                yield range(start, index), "".join(reversed(open_ends))
            start = index + 1
        if word in {")", "]", "}", "then", "else"} and open_ends:
            open_ends.pop()
        if word in _ENDS:
            open_ends.append(_ENDS[word])
    if start < len(condition):
        yield range(start, len(condition)), ""


def _named(message: str, lexemes: Sequence[Lexeme]) -> list[Lexeme]:
    """Offsets of the tokens that the message quotes in backticks or after a colon, in the order of the text."""
    found: list[Lexeme] = []
    for quoted in [*re.findall(r"`(.+?)`", message), *re.findall(r": (\S+)$", message)]:
        wanted = [each.text for each in read_lexemes(quoted)[0]] or [quoted]
        found += [
            lexemes[index]
            for index in range(len(lexemes) - len(wanted) + 1)
            if [each.text for each in lexemes[index : index + len(wanted)]] == wanted
        ]
    return sorted(set(found), key=lambda lexeme: lexeme.start)
