"""How full the queue was a moment ago, so that the door can close before nothing fits."""

import asyncio
from datetime import datetime, timedelta

from gateway.errors import LedgerUnavailable
from gateway.ledger import Ledger

__all__ = ["Fullness"]

EVERY = timedelta(seconds=1)
"""How old a look may be before there is another, beside the requests."""
OLDEST = timedelta(seconds=5)
"""How old it may be before a request waits for another: much may have come or gone since."""


class Fullness:
    """A look at the ledger each second that requests come, and not one each request."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._looked: datetime | None = None
        self._waiting = 0
        self._looking: asyncio.Task[None] | None = None

    async def check(self, now: datetime, most: int) -> None:
        """Raise LedgerUnavailable where more deliveries wait than may, or nobody can say."""
        if self._looked is None or not timedelta(0) <= now - self._looked < OLDEST:  # a clock may be set back
            await self._look(now)
        elif now - self._looked >= EVERY and (self._looking is None or self._looking.done()):
            self._looking = asyncio.create_task(self._look_beside(now))
        if self._waiting >= most:
            raise LedgerUnavailable(f"{self._waiting} deliveries wait, and intake.max_queue is {most}")

    async def _look(self, now: datetime) -> None:
        depths = await self._ledger.depth()
        self._waiting = sum(one.ready + one.sending + one.blocked for one in depths.values())
        self._looked = now

    async def _look_beside(self, now: datetime) -> None:
        try:
            await self._look(now)
        except LedgerUnavailable:
            self._looked = None  # the next request looks for itself, and is told
