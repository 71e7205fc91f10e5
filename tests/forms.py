"""The two forms of a demanding test: a short one for `make test`, a long one for `make hostile`.

Tests marked `hostile` run in both. `TEST_FORM=long` chooses the long form; `TEST_SEED` gives its random numbers, which
`make hostile` draws and prints. The short form has the same numbers every time.
"""

import os
import random
from typing import TypeVar

T = TypeVar("T")

IS_LONG = os.environ.get("TEST_FORM") == "long"
SEED = int(os.environ.get("TEST_SEED", "1"))


def scaled(short: T, long: T) -> T:
    """A size or a number of repetitions in the form that runs."""
    return long if IS_LONG else short


def dice(name: str) -> random.Random:
    """Random numbers of a test; the same for the same seed and name."""
    return random.Random(f"{SEED} {name}")
