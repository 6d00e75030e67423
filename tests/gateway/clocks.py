"""A clock that stands still until a test moves it."""

import asyncio
from datetime import UTC, datetime, timedelta

__all__ = ["START", "ManualClock"]

START = datetime(2026, 11, 23, 12, tzinfo=UTC)


class ManualClock:
    """A `Clock` for tests: whoever waits goes on when the test moves time, and nothing sleeps."""

    def __init__(self, now: datetime = START) -> None:
        self._now = now
        self._moved = asyncio.Event()

    def now(self) -> datetime:
        return self._now

    def advance(self, by: timedelta) -> None:
        """Move time, and let those go on whose time has come."""
        self._now += by
        self._moved.set()
        self._moved = asyncio.Event()

    def advance_to(self, when: datetime) -> None:
        """Move time to an instant; never back."""
        self.advance(max(timedelta(0), when - self._now))

    async def wait(self, event: asyncio.Event, until: datetime | None) -> None:
        while not event.is_set() and (until is None or self._now < until):
            waits = [asyncio.ensure_future(one.wait()) for one in (event, self._moved)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
                await asyncio.gather(*waits, return_exceptions=True)
