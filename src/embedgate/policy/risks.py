"""Risks of a policy that is well formed: arithmetic that may leave Cedar's integers, and so fail for some requests.

Bounds of each expression are worked out from those of the attributes. That a text reads an attribute which may be
absent is a mistake already, by the schema.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import cedarpy
from cedarpy import pst

from embedgate.core.access import PolicyMistake
from embedgate.policy.lexer import Lexeme, line_and_column, read_lexemes
from embedgate.policy.reads import MAX_WORDS, path_of
from embedgate.policy.vocabulary import LARGEST

_LEAST, _MOST = -(2**63), 2**63 - 1
_ANY = (_LEAST, _MOST)
_SIGNS: Mapping[str, str] = MappingProxyType({"add": "+", "sub": "-", "mul": "*", "neg": "-"})
_Range = tuple[int, int]


def find_risks(text: str, effect: str) -> list[PolicyMistake]:
    """What may make the evaluation of a policy fail, with what that means for a `permit` or a `forbid`.

    text: without mistakes.
    """
    lexemes, _ = read_lexemes(text)
    consequence = "a forbid that fails refuses" if effect == "forbid" else "a permit that fails permits nothing"
    if len(lexemes) > MAX_WORDS:
        if not any(lexeme.text in _SIGNS.values() for lexeme in lexemes):
            return []
        found = ["the text is too long to see whether its arithmetic may overflow; split the policy"]
    else:
        try:
            (policy,) = cedarpy.policies_to_pst(text).static_policies.values()
        except ValueError:  # nested too deeply, or newer than the tree
            return []
        signs = dict.fromkeys(sign for clause in policy.clauses for sign in _overflowing(clause.expr))
        return [
            _risk(f"`{sign}` may overflow for some requests, and {consequence}", text, lexemes, sign) for sign in signs
        ]
    return [PolicyMistake(message, 1, 1) for message in found]


def _risk(message: str, text: str, lexemes: list[Lexeme], sign: str) -> PolicyMistake:
    place = next((lexeme.start for lexeme in lexemes if lexeme.text == sign), 0)
    return PolicyMistake(
        f"{message}; compare without arithmetic, or with smaller numbers", *line_and_column(text, place)
    )


def _overflowing(node: object) -> Iterator[str]:
    """The signs of the operations anywhere under a node whose result may not be an integer of Cedar."""
    match node:
        case pst.BinaryOp(op) | pst.UnaryOp(op) if op in _SIGNS:
            least, most = _exact(node)
            if least < _LEAST or most > _MOST:
                yield _SIGNS[op]
    if isinstance(node, tuple):
        for each in node:
            yield from _overflowing(each)
    elif isinstance(node, Mapping):
        for each in node.values():
            yield from _overflowing(each)
    elif dataclasses.is_dataclass(node):
        for field in dataclasses.fields(node):
            yield from _overflowing(getattr(node, field.name))


def _range(node: object) -> _Range:
    """The least and the greatest value of an expression that has not failed."""
    least, most = _exact(node)
    return max(least, _LEAST), min(most, _MOST)


def _exact(node: object) -> _Range:
    """The least and the greatest result of a node, were there no bounds of integers."""
    match node:
        case pst.LongLit(value):
            return value, value
        case pst.GetAttr():
            most = LARGEST.get(path_of(node) or "")
            return _ANY if most is None else (0, most)
        case pst.UnaryOp("neg", arg):
            least, most = _range(arg)
            return -most, -least
        case pst.IfThenElse(_, then, otherwise):
            pairs = _range(then), _range(otherwise)
            return min(least for least, _ in pairs), max(most for _, most in pairs)
        case pst.BinaryOp(op, left, right) if op in _SIGNS:
            (a, b), (c, d) = _range(left), _range(right)
            if op == "add":
                return a + c, b + d
            if op == "sub":
                return a - d, b - c
            products = (a * c, a * d, b * c, b * d)
            return min(products), max(products)
    return _ANY
