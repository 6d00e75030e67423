"""What is done in the background, a small step at a time: keeping house, reading back, filling in."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import structlog

from gateway.times import Clock

__all__ = ["Chore", "Step"]

log = structlog.get_logger()

Step = Callable[[], Awaitable[datetime | None]]
"""Does a little, and returns when to go on; `None`: when it is woken."""
PAUSE = timedelta(seconds=30)
"""After a step that failed."""


class Chore:
    """One thing that is done over and over, until it is told to stop. A step that failed is tried again."""

    def __init__(self, name: str, step: Step, clock: Clock) -> None:
        self.name = name
        self._step = step
        self._clock = clock
        self._wake = asyncio.Event()
        self._stopping = False

    def wake(self) -> None:
        """Tell it that there may be something to do."""
        self._wake.set()

    def start(self) -> asyncio.Task[None]:
        """Begin; once stopped it can be started again."""
        self._stopping = False
        return asyncio.create_task(self._run())

    async def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                until = await self._step()
            except Exception as error:  # noqa: BLE001  the edge of a chore: whatever happens in it, it goes on
                log.error("chore.failed", chore=self.name, error=type(error).__name__)
                until = self._clock.now() + PAUSE
            if not self._stopping:
                await self._clock.wait(self._wake, until)

    def stop(self) -> None:
        """Begin no further step; the one under way is finished."""
        self._stopping = True
        self.wake()
