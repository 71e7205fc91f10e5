"""Outcome of a provider call for embeddings: vectors or an error, and what was billed either way."""

from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from embedgate.core.errors import GatewayError, InternalError, UpstreamError
from embedgate.core.types import Call, Candidate
from embedgate.core.vectors import Vectors
from embedgate.engine.ledger.charge import charge


class Outcome(Struct, frozen=True):
    """Outcome of one batch: vectors (n, d) float32, or an error.

    `tokens` are those of each input and add up to `billed`, unless some of that was billed in vain. `truncated` holds
    positions in the batch. `upstream_s` is the time spent at the provider. `is_spent`: the error has outlasted
    all attempts there.
    """

    vectors: Vectors | None = None
    tokens: tuple[int, ...] = ()
    is_estimated: bool = False
    truncated: tuple[int, ...] = ()
    billed: int = 0
    upstream_s: float = 0.0
    error: GatewayError | None = None
    is_spent: bool = False

    def with_truncated(self, positions: tuple[int, ...]) -> "Outcome":
        """The same outcome of inputs of which these, too, were cut."""
        return replace(self, truncated=tuple(sorted({*self.truncated, *positions}))) if positions else self

    def part(self, start: int, end: int) -> "Outcome":
        """The outcome of the inputs from `start` to `end`: their share of what was billed, an error of their own."""
        tokens = self.tokens[start:end]
        return replace(
            self,
            vectors=None if self.vectors is None else self.vectors[start:end],
            error=None if self.error is None else for_another(self.error),
            tokens=tokens,
            truncated=tuple(position - start for position in self.truncated if start <= position < end),
            billed=sum(tokens),
        )


def merged(first: Outcome, second: Outcome) -> Outcome:
    """Two outcomes as one of all their inputs. An error of either is the error of both; what was billed adds up."""
    offset = len(first.tokens)
    whole = first.vectors is not None and second.vectors is not None
    return Outcome(
        vectors=np.concatenate([first.vectors, second.vectors]) if whole else None,
        tokens=first.tokens + second.tokens,
        is_estimated=first.is_estimated or second.is_estimated,
        truncated=first.truncated + tuple(position + offset for position in second.truncated),
        billed=first.billed + second.billed,
        upstream_s=first.upstream_s + second.upstream_s,
        error=first.error or second.error,
    )


def for_another(error: GatewayError) -> GatewayError:
    """A copy of an error for another waiter: one exception must not be raised in two tasks."""
    if isinstance(error, (UpstreamError, InternalError)):
        return type(error)(error.message, retry_after_s=error.retry_after_s)
    return error


def lost(tokens: tuple[int, ...]) -> Outcome:
    """The outcome of a call that nobody waits for any more and that may be billed: our estimate of it."""
    return Outcome(None, tokens, is_estimated=True, billed=sum(tokens))


def charge_outcome(call: Call[Any], candidate: Candidate, outcome: Outcome, *, in_vain: bool = False) -> None:
    """Add what the provider bills to the call, be its answer right or wrong. in_vain: nobody will use the answer."""
    call.upstream_s += outcome.upstream_s
    if not outcome.billed:
        return
    cost = candidate.cost_of(outcome.billed)
    if call.surcharge_picodollars:
        surcharge = call.surcharge_picodollars * len(outcome.tokens) // call.request.n_items
        charge(call, candidate, 0, surcharge, is_estimated=True)
    charge(call, candidate, outcome.billed, cost, is_estimated=outcome.is_estimated)
    used = 0 if in_vain or outcome.error is not None else sum(outcome.tokens)
    if used != outcome.billed:
        call.wasted_picodollars += candidate.cost_of(outcome.billed - used)
