"""What a configuration leaves without a lane, or without a way: shown as blocked, or given today's."""

import contextlib
from collections.abc import Callable, Container
from datetime import datetime

import structlog

from canonical_schema import ErrorCode, ErrorItem
from gateway.catalogue import Catalogue
from gateway.lanes.lots import shelved
from gateway.lanes.unheard import attempted
from gateway.ledger import Ledger, Moved, Unrouted, WorkState
from gateway.times import Clock, from_micros, to_micros

__all__ = ["Strays", "gone", "shelve"]

log = structlog.get_logger()

BATCHES = 16
"""Looked at in a step: a chore that is told to stop finishes the one under way."""


def gone(destination: str) -> ErrorItem:
    """Return why nothing is sent to a destination that has no lane."""
    message = f"destination {destination} is switched off or removed: configure it again, and this goes on"
    return ErrorItem(code=ErrorCode.PROVIDER_UNAVAILABLE, message=message, retryable=True)


async def shelve(ledger: Ledger, lanes: Container[str], now: datetime) -> None:
    """Show the work of destinations that are switched off or gone as blocked."""
    for name in await ledger.depth():
        if name not in lanes:
            error = gone(name)
            await ledger.release(name, WorkState.WAITING, to_micros(now))
            await ledger.hold(name, error)
            for work in await ledger.held(name, WorkState.SENDING):  # nobody is left to hear the answer
                with contextlib.suppress(Moved):
                    await ledger.settle([shelved(work, error, now)], [attempted(work)])


class Strays:
    """Events that had no way, given the one that today's configuration has for them, some batches a step."""

    def __init__(self, ledger: Ledger, catalogue: Catalogue, clock: Clock, wake: Callable[[str], None]) -> None:
        """`wake` is told which destinations have more to do."""
        self._ledger = ledger
        self._catalogue = catalogue
        self._clock = clock
        self._wake = wake
        self.again()

    def again(self) -> None:
        """Begin anew: there may be more by now."""
        self._left = self._ledger.unrouted()
        self.done = False
        """Whether all that was there when this began has its way, as far as there is one."""

    async def step(self) -> datetime | None:
        """Look at some; return when to go on, `None` when all were looked at."""
        try:
            for _ in range(BATCHES):
                if (some := await anext(self._left, None)) is None:
                    self.done = True
                    for name in self._catalogue.destinations:  # running values wait for this
                        self._wake(name)
                    return None
                await self._route(some)
        except BaseException:
            self.again()  # one that was broken off would say that there are no more
            raise
        return self._clock.now()

    async def _route(self, some: Unrouted) -> None:
        plans = [
            plan
            for event, received in zip(some.events, some.receipts, strict=True)
            for plan in self._catalogue.plans(some.tenant, [event], from_micros(received))
        ]
        found = [(index, plan) for index, plan in zip(some.members, plans, strict=True) if plan.live]
        if found:
            now = to_micros(self._clock.now())
            await self._ledger.route(some.batch, [index for index, _ in found], [plan for _, plan in found], now)
            for name in {name for _, plan in found for name in (*plan.live, *plan.shadow)}:
                self._wake(name)
            log.info("events.routed", batch=some.batch, events=len(found))
