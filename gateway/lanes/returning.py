"""What was held back before a start is tried again: it may be that today's configuration, or its vendor, takes it."""

from collections.abc import Callable
from datetime import datetime

from gateway.ledger import Ledger, WorkState
from gateway.times import to_micros

__all__ = ["Returning"]

AT_ONCE = 500
"""Pieces of work that are made ready before others have a say: there may be millions."""


class Returning:
    """Makes ready what is held or blocked at a destination, before its lane takes anything."""

    def __init__(self, destination: str, ledger: Ledger) -> None:
        self._destination = destination
        self._ledger = ledger
        self._left: list[WorkState] = []

    async def begin(self, now: datetime) -> None:
        """Make some of it ready, and have the next step see to the rest: a start does not wait for a backlog."""
        self._left = [state for state in (WorkState.BLOCKED, WorkState.HELD) if await self._some(state, now) == AT_ONCE]

    async def step(self, now: datetime, stopping: Callable[[], bool]) -> bool:
        """Return whether all is ready; `False` where the lane is to stop before that.

        Nothing else of the lane goes on meanwhile: what it holds back anew would be made ready over and over.
        """
        while self._left:
            if stopping():
                return False
            if await self._some(self._left[-1], now) < AT_ONCE:
                self._left.pop()
        return True

    async def _some(self, state: WorkState, now: datetime) -> int:
        return await self._ledger.release(self._destination, state, to_micros(now), AT_ONCE)
