"""Time as the gateway counts it: microseconds since 1970, UTC; and the clock that tests replace."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Protocol

__all__ = ["Clock", "SystemClock", "from_micros", "to_micros"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICRO = timedelta(microseconds=1)


def to_micros(when: datetime) -> int:
    """Return an aware instant as microseconds since 1970."""
    return (when - _EPOCH) // _MICRO


def from_micros(micros: int) -> datetime:
    """Return microseconds since 1970 as an aware instant, UTC."""
    return _EPOCH + timedelta(microseconds=micros)


class Clock(Protocol):
    """What time it is, and how to wait for another."""

    def now(self) -> datetime:
        """Return the present, aware, UTC."""
        ...

    async def wait(self, event: asyncio.Event, until: datetime | None) -> None:
        """Return when `event` is set, or at `until`; `None` waits for the event alone."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def wait(self, event: asyncio.Event, until: datetime | None) -> None:
        seconds = None if until is None else max(0.0, (until - self.now()).total_seconds())
        try:
            await asyncio.wait_for(event.wait(), seconds)
        except TimeoutError:
            return
