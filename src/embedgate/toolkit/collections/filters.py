"""Metadata filters: `lang = 'en' and (year >= 2020 or not kind in ('note', 'draft'))`, the same on every store.

A text is parsed into comparisons of one type each, joined by not, and, or. Every comparison is true or false: a field
that is missing, or has a value of another type, makes it false. `matches` is what every store is tested against.
"""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

from embedgate.core.errors import InvalidInput
from embedgate.toolkit.records import Scalar

_Value = TypeVar("_Value")
Comparison = Literal["=", "<", "<=", ">", ">="]


@dataclass(frozen=True, slots=True)
class Compare:
    """A field against a value of the same type: text, number or truth value. `= None` is true if it is missing or null.

    Texts are ordered by code point. Truth values and None are only compared by `=`.
    """

    field: str
    comparison: Comparison
    value: Scalar


@dataclass(frozen=True, slots=True)
class Not:
    """True where its part is false."""

    part: "Filter"


@dataclass(frozen=True, slots=True)
class AllOf:
    """True where all parts are, of which there is at least one."""

    parts: tuple["Filter", ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """True where at least one part is."""

    parts: tuple["Filter", ...]


Filter = Compare | Not | AllOf | AnyOf

_MAX_DEPTH = 50
"""Brackets and nots inside each other: more is no filter that somebody wrote, and would exhaust the stack."""
_MAX_COMPARISONS = 200
"""Comparisons of one filter: databases refuse expressions that are much longer."""
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)(?![\w.])
      | (?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
      | (?P<quoted>`[^`]+`)
      | (?P<word>[^\W\d][\w.-]*)
      | (?P<sign><=|>=|!=|=|<|>|\(|\)|,)
    )""",
    re.VERBOSE,
)
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?")
_WORDS = frozenset({"and", "or", "not", "in", "true", "false", "null"})
_ORDERS: Mapping[str, Callable[[float | str, float | str], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def matches(found: Filter, metadata: Mapping[str, Scalar]) -> bool:
    """Whether metadata pass a filter. The meaning of filters, in Python."""
    if isinstance(found, AllOf):
        return all(matches(part, metadata) for part in found.parts)
    if isinstance(found, AnyOf):
        return any(matches(part, metadata) for part in found.parts)
    if isinstance(found, Not):
        return not matches(found.part, metadata)
    value = metadata.get(found.field)
    if kind_of(value) is not kind_of(found.value):
        return False
    if found.comparison == "=":
        return value == found.value
    return _ORDERS[found.comparison](value, found.value)  # type: ignore[arg-type]  # kinds are the same, and have an order


def fields_of(found: Filter) -> set[str]:
    """The names of all fields that a filter compares."""
    if isinstance(found, Compare):
        return {found.field}
    parts = (found.part,) if isinstance(found, Not) else found.parts
    return {name for part in parts for name in fields_of(part)}


def sql_of(found: Filter, compared: Callable[[Compare], tuple[str, list[_Value]]]) -> tuple[str, list[_Value]]:
    """A filter as an expression of SQL, and the values of its placeholders.

    compared: the same for one comparison, which must be true or false and never null.
    """
    if isinstance(found, Compare):
        return compared(found)
    if isinstance(found, Not):
        sql, values = sql_of(found.part, compared)
        return f"(not {sql})", values
    parts = [sql_of(part, compared) for part in found.parts]
    joint = " and " if isinstance(found, AllOf) else " or "
    return f"({joint.join(sql for sql, _ in parts)})", [value for _, values in parts for value in values]


def kind_of(value: Scalar) -> type:
    """The type by which values are compared: str, float for all numbers, bool, or that of None."""
    return float if isinstance(value, int) and not isinstance(value, bool) else type(value)


def parse(text: str) -> Filter:
    """The filter that a text describes. Raises InvalidInput, which names the place and what was expected there."""
    parser = _Parser(text)
    found = parser.any_of(0)
    parser.end()
    return found


class _Token(NamedTuple):
    kind: str
    text: str
    position: int


class _Parser:
    """Recursive descent over the tokens: or binds weakest, then and, then not."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._n_comparisons = 0
        self._tokens = list(self._split())
        self._next = 0

    def any_of(self, depth: int) -> Filter:
        parts = [self._all_of(depth)]
        while self._takes_word("or"):
            parts.append(self._all_of(depth))
        return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))

    def end(self) -> None:
        if self._token.kind != "end":
            raise self._expected("and, or, or the end")

    def _all_of(self, depth: int) -> Filter:
        parts = [self._negation(depth)]
        while self._takes_word("and"):
            parts.append(self._negation(depth))
        return parts[0] if len(parts) == 1 else AllOf(tuple(parts))

    def _negation(self, depth: int) -> Filter:
        if depth > _MAX_DEPTH:
            raise InvalidInput(f"--where has more than {_MAX_DEPTH} brackets inside each other.", param="where")
        if self._takes_word("not"):
            return Not(self._negation(depth + 1))
        if self._takes("("):
            found = self.any_of(depth + 1)
            if not self._takes(")"):
                raise self._expected("and, or, or )")
            return found
        return self._comparison()

    def _comparison(self) -> Filter:
        field = self._field()
        is_negated = self._takes_word("not")
        if self._takes_word("in"):
            found = self._one_of(field)
            return Not(found) if is_negated else found
        sign = self._token.text
        if is_negated or self._token.kind != "sign" or sign not in {"=", "!=", *_ORDERS}:
            raise self._expected("in" if is_negated else "=, !=, <, <=, >, >=, in, or not in")
        self._next += 1
        token = self._token
        value = self._value()
        self._count(1)
        if sign in {"=", "!="}:
            found = _equal(field, value, token.text)
            return found if sign == "=" else Not(found)
        if value is None or isinstance(value, bool):
            raise InvalidInput(f"--where: {sign} compares numbers and texts, not {token.text}.", param="where")
        return Compare(field, sign, value)  # type: ignore[arg-type]  # the signs that are left

    def _one_of(self, field: str) -> Filter:
        if not self._takes("("):
            raise self._expected("( and the values")
        parts: list[Filter] = []
        while True:
            token = self._token
            parts.append(_equal(field, self._value(), token.text))
            if self._takes(")"):
                self._count(len(parts))
                return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))
            if not self._takes(","):
                raise self._expected(", or )")

    def _field(self) -> str:
        token = self._token
        is_name = token.kind == "quoted" or (token.kind == "word" and token.text.lower() not in _WORDS)
        if not is_name:
            raise self._expected("the name of a field")
        self._next += 1
        name = token.text.strip("`")
        if '"' in name or "\\" in name:
            raise InvalidInput(f"--where: no filter is possible on {name!r}; it has a quotation mark or a backslash.")
        return name

    def _value(self) -> Scalar:
        token = self._token
        word = token.text.lower()
        if token.kind == "word" and word in {"true", "false", "null"}:
            value: Scalar = None if word == "null" else word == "true"
        elif token.kind == "number":
            value = float(token.text) if re.search(r"[.eE]", token.text) else int(token.text)
            if not abs(value) < 2**63:
                raise InvalidInput(f"--where: the number {token.text} is too large.", param="where")
        elif token.kind == "text":
            mark = token.text[0]
            value = token.text[1:-1].replace(mark * 2, mark)
        else:
            raise self._expected("a number, a text in quotation marks, true, false or null")
        self._next += 1
        return value

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _takes(self, sign: str) -> bool:
        is_next = self._token.kind == "sign" and self._token.text == sign
        self._next += is_next
        return is_next

    def _takes_word(self, word: str) -> bool:
        is_next = self._token.kind == "word" and self._token.text.lower() == word
        self._next += is_next
        return is_next

    def _count(self, n: int) -> None:
        self._n_comparisons += n
        if self._n_comparisons > _MAX_COMPARISONS:
            raise InvalidInput(f"--where has more than {_MAX_COMPARISONS} comparisons.", param="where")

    def _split(self) -> list[_Token]:
        tokens = []
        position = 0
        end = len(self._text.rstrip())
        while position < end:
            match = _TOKEN.match(self._text, position)
            if match is None:
                start = position + len(self._text[position:]) - len(self._text[position:].lstrip())
                raise InvalidInput(
                    f"--where cannot be read from character {start + 1} on: {self._text[start : start + 20]!r}.",
                    param="where",
                )
            kind = str(match.lastgroup)
            tokens.append(_Token(kind, match[kind], match.start(kind)))
            position = match.end()
        return [*tokens, _Token("end", "", end)]

    def _expected(self, what: str) -> InvalidInput:
        token = self._token
        seen = "the end" if token.kind == "end" else f"{token.text!r} at character {token.position + 1}"
        return InvalidInput(f"--where: {what} was expected, not {seen}.", param="where")


def _equal(field: str, value: Scalar, written: str) -> Filter:
    """Equality of what was written: numbers may have been read as texts, and the other way round."""
    alike: list[Scalar] = [value]
    if isinstance(value, bool):
        alike.append("true" if value else "false")
    elif isinstance(value, str):
        if value in {"true", "false"}:
            alike.append(value == "true")
        elif _NUMBER.fullmatch(value):
            alike.append(float(value) if "." in value else int(value))
    elif value is not None:
        alike.append(written)
    parts = tuple(Compare(field, "=", each) for each in alike)
    return parts[0] if len(parts) == 1 else AnyOf(parts)
