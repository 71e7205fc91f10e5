"""Checks that a gateway can start with what is stored: no change of providers or models may prevent it."""

from collections.abc import Sequence

from embedgate.core.errors import ConfigError, InvalidInput
from embedgate.govern.change import Reading


def faults_of(reading: Reading) -> Sequence[str]:
    """What would keep a gateway from starting with what is stored."""
    try:
        return reading.resources.gateway.decide(reading.connection).faults()
    except ConfigError as error:
        return error.mistakes


def check_sound(faults: Sequence[str], *, was_sound: bool, param: str) -> None:
    """Raises InvalidInput for a change after which a gateway could not start, which undoes the change.

    was_sound: whether one could have started before. Where not, any change may be a step towards repair.
    """
    if faults and was_sound:
        raise InvalidInput(f"The gateway could not go on with that: {'; '.join(faults)}.", param=param)
