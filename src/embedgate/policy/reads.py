"""Attributes that a policy may read, from its syntax tree: what a decision can depend on.

The principal always counts as read. Where the tree is unclear, everything counts as read.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import cedarpy
from cedarpy import pst

from embedgate.policy.lexer import read_lexemes
from embedgate.policy.vocabulary import ATTRIBUTES

EVERYTHING = frozenset(ATTRIBUTES)

_USER = pst.GetAttr(pst.Var("principal"), "user")
_BASES = {pst.Var("context"): "context", pst.Var("principal"): "principal", _USER: "principal.user"}

# Building the tree is recursive and can exhaust the stack; only long chains of operators make deep trees here.
MAX_WORDS = 500
"""Longer texts are not analysed."""


@dataclass(frozen=True, slots=True)
class PolicyAnalysis:
    """Static analysis of a policy: `effect` is set if it applies unconditionally, `reads` are paths of attributes."""

    effect: pst.Effect | None
    reads: frozenset[str]


def analyse(text: str) -> PolicyAnalysis:
    """Analyse a text that is one policy."""
    if len(read_lexemes(text)[0]) > MAX_WORDS:
        return PolicyAnalysis(None, EVERYTHING)
    try:
        (policy,) = cedarpy.policies_to_pst(text).static_policies.values()
    except ValueError:  # nested too deeply, or newer than the tree
        return PolicyAnalysis(None, EVERYTHING)
    scopes = (policy.principal, policy.action, policy.resource)
    is_unconditional = not policy.clauses and all(scope == pst.ScopeAny() for scope in scopes)
    # A path that does not exist is absent for every question.
    reads = EVERYTHING.intersection(path for clause in policy.clauses for path in _reads(clause.expr))
    return PolicyAnalysis(policy.effect if is_unconditional else None, reads)


def path_of(node: pst.GetAttr) -> str | None:
    """The path of the attribute that a node reads; None if it is an attribute of anything else."""
    base = _BASES.get(node.base) if isinstance(node.base, pst.Var | pst.GetAttr) else None
    return None if base is None else f"{base}.{node.attr}"


def _reads(node: object) -> Iterator[str]:
    """Paths read anywhere under a node.

    Only `context.…`, `principal.…` and `principal.user.…` are reads of one attribute. A whole `principal` or
    `principal.user` is an identity; a whole `context`, and an attribute of anything else, is a read of everything.
    """
    match node:
        case pst.GetAttr(base, attr) if base in _BASES:
            yield f"{_BASES[base]}.{attr}"
        case pst.HasAttr(base, attrs) if base in _BASES:
            # `principal has user.tenant` asks for `user`, then for its `tenant`.
            yield from itertools.accumulate(attrs, "{}.{}".format, initial=_BASES[base])
        case pst.GetAttr() | pst.HasAttr() | pst.Var("context"):
            yield from EVERYTHING
        case tuple():
            for each in node:
                yield from _reads(each)
        case pst.Record(fields):
            for each in fields.values():
                yield from _reads(each)
        case _ if dataclasses.is_dataclass(node):
            for field in dataclasses.fields(node):
                yield from _reads(getattr(node, field.name))
