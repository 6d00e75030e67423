"""Deliveries that a lane left in doubt, and when the provider is asked for each of them again."""

import heapq
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from gateway.ledger import ref_of
from gateway.times import Clock

__all__ = ["Doubts"]

FIRST = timedelta(seconds=30)
"""How soon a delivery is looked for; each later look comes four times as late as the one before."""
LOOKS = 6
"""Looks at one delivery, the last after half a day. What is not found by then is left to the nightly listing."""
MOST = 10_000
"""Deliveries of one destination that are looked for. What is beyond is left to the nightly listing."""


class Doubts:
    """What is to be looked for, by destination and ref. In memory: the nightly listing knows of all that is parked."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._agenda: dict[str, list[tuple[datetime, int, int]]] = {}
        """By destination, a heap: when, which ref, how many looks before."""
        self._known: dict[str, set[int]] = {}
        """The refs in it."""
        self.wake: Callable[[], None] | None = None

    def put(self, destination: str, batch: int, members: Sequence[int]) -> None:
        """Have deliveries looked for that have just been parked."""
        room = max(0, MOST - len(self._agenda.get(destination, ())))
        for index in members[:room]:
            self._put(destination, self._clock.now() + FIRST, ref_of(batch, index), 0)
        if self.wake is not None:
            self.wake()

    def due(self, destination: str, limit: int) -> list[tuple[int, int]]:
        """Take some refs off the agenda whose time has come, with the number of looks before."""
        agenda, now = self._agenda.get(destination, []), self._clock.now()
        taken: list[tuple[int, int]] = []
        while agenda and agenda[0][0] <= now and len(taken) < limit:
            _, ref, looks = heapq.heappop(agenda)
            taken.append((ref, looks))
            self._known[destination].discard(ref)
        return taken

    def again(self, destination: str, ref: int, looks: int) -> None:
        """Put a ref back that was looked for in vain, unless that was the last time."""
        if looks + 1 < LOOKS:
            self._put(destination, self._clock.now() + FIRST * 4 ** (looks + 1), ref, looks + 1)

    def _put(self, destination: str, due: datetime, ref: int, looks: int) -> None:
        known = self._known.setdefault(destination, set())
        if ref not in known:
            known.add(ref)
            heapq.heappush(self._agenda.setdefault(destination, []), (due, ref, looks))

    def drop(self, destination: str) -> None:
        """Look for nothing there."""
        self._agenda.pop(destination, None)
        self._known.pop(destination, None)

    @property
    def destinations(self) -> Sequence[str]:
        """Where something is to be looked for."""
        return [name for name, agenda in self._agenda.items() if agenda]

    @property
    def next(self) -> datetime | None:
        """When the next look is due."""
        return min((agenda[0][0] for agenda in self._agenda.values() if agenda), default=None)
