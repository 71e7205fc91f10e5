"""Puts a change in force before its answer leaves."""

from embedgate.core.errors import ConfigError
from embedgate.observe import events
from embedgate.wiring import Gateway


async def follow(gateway: Gateway) -> None:
    """Return once what is stored is in force here. Raises InternalError.

    A provider that cannot be opened (say, the master key is gone) is logged and keeps nothing else from being in force:
    the change is stored, and what it was about did not fail.
    """
    try:
        await gateway.catch_up()
    except ConfigError as error:
        events.RULES_NOT_READ.emit(reason=str(error))
