"""What a request was let in with, from its admission to its ledger entry."""

from dataclasses import dataclass

from embedgate.core.types import Candidate
from embedgate.engine.admission.budgets import Hold
from embedgate.engine.admission.rate_limits import CountedRequest


@dataclass(frozen=True, slots=True)
class Grant:
    """The routes that a request may use, its place among the limits, its hold on the budgets."""

    candidates: tuple[Candidate, ...]
    place: CountedRequest
    hold: Hold
