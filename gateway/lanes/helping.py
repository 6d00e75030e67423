"""How much a lane takes at a time: what requests, the pace, and the risk of a crash leave room for."""

from collections.abc import Callable
from datetime import datetime, timedelta

from adapters import AnyAdapter
from gateway.lanes.lots import Lot
from gateway.lanes.pace import Pace

__all__ = ["Helping"]

AT_ONCE = 1000
"""How many rows may share one intent to send, where requests carry fewer."""
SINGLES = 64
"""How many requests may."""


class Helping:
    """What one lane takes next."""

    def __init__(self, adapter: AnyAdapter, pace: Pace, in_flight: Callable[[], int]) -> None:
        """`in_flight` tells how many requests are."""
        self._each = adapter.door.max_rows
        self._repeats = adapter.dedupe is not None
        self._pace = pace
        self._in_flight = in_flight
        self.several = self._each == 1 or (self._each < AT_ONCE and pace.unlimited)
        """Whether several requests share one intent to send."""
        self._fitting = self._each
        """How many rows fit in a request, as far as is known: rows, or bytes, are what fills it."""

    def rows(self, now: datetime) -> int:
        """Return how many rows are taken together."""
        if self._pace.faults:  # while there is trouble one delivery is tried at a time: the smallest batch that tells
            return 1
        if self.several:  # where nobody tells repeats no more than leaves now: what a crash leaves over is in doubt
            return min(AT_ONCE, self._each * (SINGLES if self._repeats else self._pace.most))
        return min(self._each, self._fitting * max(1, self._pace.room(self._in_flight(), now)))

    async def granted(self, requests: list[list[Lot]], now: datetime) -> timedelta:
        """Count requests that leave now, and strike those that may not yet; return how long the first has to wait."""
        counts = [sum(lot.count for lot in lots) for lots in requests]
        # What did not fit is rendered anew, so no more is taken than would.
        self._fitting = min(self._each, counts[0] if len(counts) > 1 else self._fitting * 2)
        for place, count in enumerate(counts):
            wait = timedelta(0)
            if (place and not self._pace.room(self._in_flight() + place, now)) or (
                wait := await self._pace.take(count, now)
            ):
                del requests[place:]
                return wait
        return timedelta(0)
