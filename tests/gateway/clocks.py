"""A clock that stands still until a test moves it."""

import asyncio
from collections.abc import Collection
from datetime import UTC, datetime, timedelta

__all__ = ["START", "ManualClock"]

START = datetime(2026, 11, 23, 12, tzinfo=UTC)


class ManualClock:
    """A `Clock` for tests: whoever waits goes on when the test moves time, and nothing sleeps."""

    def __init__(self, now: datetime = START) -> None:
        self._now = now
        self._moved = asyncio.Event()
        self._waiting: list[tuple[asyncio.Event, datetime | None]] = []

    def now(self) -> datetime:
        return self._now

    def waits(self, event: asyncio.Event) -> bool:
        """Return whether somebody waits for an event, with nothing yet to go on for."""
        return any(one is event and not self._over(one, until) for one, until in self._waiting)

    def due(self, but_for: Collection[asyncio.Event] = ()) -> datetime | None:
        """Return the next instant that somebody waits for; those who wait for some events do not count."""
        return min((until for event, until in self._waiting if until and event not in but_for), default=None)

    def advance(self, by: timedelta) -> None:
        """Move time, and let those go on whose time has come."""
        self._now += by
        self._moved.set()
        self._moved = asyncio.Event()

    def advance_to(self, when: datetime) -> None:
        """Move time to an instant; never back."""
        self.advance(max(timedelta(0), when - self._now))

    async def wait(self, event: asyncio.Event, until: datetime | None) -> None:
        self._waiting.append(waiting := (event, until))
        try:
            while not self._over(event, until):
                waits = [asyncio.ensure_future(one.wait()) for one in (event, self._moved)]
                try:
                    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for wait in waits:
                        wait.cancel()
                    await asyncio.gather(*waits, return_exceptions=True)
        finally:
            self._waiting.remove(waiting)

    def _over(self, event: asyncio.Event, until: datetime | None) -> bool:
        return event.is_set() or (until is not None and self._now >= until)
