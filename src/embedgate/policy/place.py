"""Where in a policy's text a mistake is that Cedar names but does not place.

Found by asking Cedar again about parts of the policy: the place is the smallest part that has the mistake by itself.
What is asked, parsing or checking, is the caller's choice.
"""

import re
from collections.abc import Callable, Collection, Iterator, Sequence

from embedgate.policy.lexer import Lexeme, annotations, closing, read_lexemes

MessagesOf = Callable[[str], Collection[str | None]]
"""What Cedar finds wrong with a policy's text."""

_MAX_WORDS_ASKED = 50_000
_LEVELS = (
    frozenset({"||"}),
    frozenset({"&&"}),
    frozenset({"==", "!=", "<", "<=", ">", ">=", "in", "has", "like", "is"}),
    frozenset({"+", "-"}),
    frozenset({"*"}),
)
"""Operators, the loosest first."""

Words = Sequence[Lexeme]


def place_of(message: str, text: str, lexemes: Words, messages_of: MessagesOf) -> int:
    """Offset of the part of the policy that `message` is about, as exact as can be told.

    text: one policy, already cut into `lexemes`. A message that no part has by itself is put at `permit` or `forbid`,
    or at the first word that it names.
    """
    effect = _effect_index(lexemes)
    head = lexemes[: closing(lexemes, effect + 1) + 1]
    before = text[: head[-1].end]
    if message in messages_of(f"{before};"):
        return (_first_named(message, head) or lexemes[effect]).start
    words_left = _MAX_WORDS_ASKED
    for condition, end in _conditions(lexemes, len(head)):

        def has_mistake(guards: Sequence[Words], part: Words, before: str = before) -> bool:
            nonlocal words_left
            words_left -= sum(map(len, guards)) + 2 * len(part)
            if words_left < 0:
                return False
            given = "".join(f"({_source(text, each)}) && " for each in guards)
            source = _source(text, part)
            # A part need not be true or false, but its equality with itself is.
            return message in messages_of(f"{before}\nwhen {{ {given}({source}) == ({source}) }};")

        if has_mistake((), condition):
            part = _narrow(condition, has_mistake)
            return (_last_named(message, part) or part[0]).start
        before = text[:end]
    return (_first_named(message, lexemes) or lexemes[effect]).start


def _effect_index(lexemes: Words) -> int:
    index = 0
    for _, _, behind in annotations(lexemes):
        index = behind
    return min(index, len(lexemes) - 1)


def _source(text: str, part: Words) -> str:
    return text[part[0].start : part[-1].end]


def _conditions(lexemes: Words, index: int) -> Iterator[tuple[Words, int]]:
    """What stands in the braces of each `when` and `unless`, and the offset behind the brace."""
    while index + 1 < len(lexemes) and lexemes[index + 1].text == "{":
        end = closing(lexemes, index + 1)
        if end == len(lexemes) or end == index + 2:
            return
        yield lexemes[index + 2 : end], lexemes[end].end
        index = end + 1


def _narrow(part: Words, has_mistake: Callable[[Sequence[Words], Words], bool]) -> Words:
    """The smallest part within `part` that has the mistake, given what stands before it in its conjunction."""
    guards: tuple[Words, ...] = ()
    while True:
        for before, smaller in _parts(part):
            if smaller and has_mistake((*guards, *before), smaller):
                guards, part = (*guards, *before), smaller
                break
        else:
            return part


def _parts(part: Words) -> Iterator[tuple[tuple[Words, ...], Words]]:
    """The operands of an expression's outermost operator, each with what is known to hold when it is reached."""
    if part[0].text == "if":
        condition, then, otherwise = _branches(part)
        yield (), condition
        yield (condition,), then
        yield (), otherwise
        return
    for operators in _LEVELS:
        operands = _divide(part, operators)
        if len(operands) > 1:
            for index, operand in enumerate(operands):
                yield tuple(operands[:index]) if "&&" in operators else (), operand
            return
    inner = [part[1:]] if part[0].text in {"!", "-"} else _inner(part)
    for each in inner:
        yield (), each


def _branches(part: Words) -> tuple[Words, Words, Words]:
    """Condition, `then` and `else` of an `if`; those of ifs within it belong to them."""
    then = otherwise = len(part)
    depth = index = 0
    while index < len(part):
        word = part[index].text
        depth += (word == "if") - (word == "else")
        if word == "then" and depth == 1 and then == len(part):
            then = index
        elif word == "else" and depth == 0:
            otherwise = index
            break
        index = closing(part, index) + 1 if word in {"(", "[", "{"} else index + 1
    return part[1:then], part[then + 1 : otherwise], part[otherwise + 1 :]


def _divide(part: Words, separators: Collection[str]) -> list[Words]:
    """Cut at the separators that stand outside all brackets. A sign before a number is none."""
    pieces: list[Words] = []
    start = index = 0
    while index < len(part):
        word = part[index].text
        if word in separators and index > start and part[index - 1].text != ".":
            pieces.append(part[start:index])
            start = index + 1
        index = closing(part, index) + 1 if word in {"(", "[", "{"} else index + 1
    return [*pieces, part[start:]]


def _inner(part: Words) -> list[Words]:
    """What an expression without operators is made of: base and arguments, elements, or nothing."""
    if len(part) > 2 and part[-2].text == ".":
        return [part[:-2]]
    if part[-1].text not in {")", "]", "}"}:
        return []
    opening = next(i for i in range(len(part)) if part[i].text in {"(", "[", "{"} and closing(part, i) == len(part) - 1)
    within = _divide(part[opening + 1 : -1], {","})
    if part[opening].text == "{":
        return [_divide(each, {":"})[-1] for each in within]
    if opening == 0:
        return within
    if part[opening].text == "[":
        return [part[:opening]]
    is_method = opening > 2 and part[opening - 2].text == "."
    return [part[: opening - 2], *within] if is_method else within


def _named(message: str, part: Words) -> Iterator[Lexeme]:
    """Words of the part that the message has between backticks or behind a colon, in the message's order."""
    for quoted in [*re.findall(r"`(.+?)`", message), *re.findall(r": (\S+)$", message)]:
        wanted = [each.text for each in read_lexemes(quoted)[0]] or [quoted]
        for index in range(len(part) - len(wanted) + 1):
            if [each.text for each in part[index : index + len(wanted)]] == wanted:
                yield part[index]


def _first_named(message: str, part: Words) -> Lexeme | None:
    return next(_named(message, part), None)


def _last_named(message: str, part: Words) -> Lexeme | None:
    """In the smallest part that has a mistake, what stands before its last word is in order."""
    found = list(_named(message, part))
    return max(found, key=lambda lexeme: lexeme.start, default=None)
