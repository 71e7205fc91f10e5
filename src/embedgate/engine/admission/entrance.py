"""Entrance of a request: its place in the rate limits, taken before its body is read."""

from collections.abc import Awaitable, Callable

from msgspec import Struct

from embedgate.core.types import CountedRequest


class Entrance(Struct, eq=False):
    """A place in the rate limits, for a request whose body is still to come; one that is here already needs none.

    The reader of the body calls `enter` before it waits for more; what a place is, the pipeline has said in `opens`.
    The request counts at once and is in flight; its tokens are weighed by `admit`, once they are known.
    """

    _take_place: Callable[[], Awaitable[CountedRequest]] | None = None
    counted: CountedRequest | None = None
    user_id: str = ""
    """Whose request it is, once the caller is known."""

    def opens(self, user_id: str, take_place: Callable[[], Awaitable[CountedRequest]]) -> None:
        """Say how a place is taken, now that the caller is known. It may raise RateLimited or Overloaded."""
        self.user_id = user_id
        self._take_place = take_place

    async def enter(self) -> None:
        """Take a place. Raises RateLimited or Overloaded."""
        if self._take_place is not None:
            self.counted = await self._take_place()

    def withdraw(self) -> None:
        """Give the place back, and undo the count: the request came to nothing."""
        if self.counted is not None:
            self.counted.withdraw()
