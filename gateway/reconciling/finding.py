"""Looks for deliveries in doubt soon after they were parked, one by one, where a provider can be asked for one.

Beside the nightly listing, and by the same reading. What is found arrived; what is not found proves nothing.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

import structlog

from adapters import Unread, UnreadKind
from gateway.lanes.pace import Breaker
from gateway.ledger import WorkState, by_batch, ref_of
from gateway.reconciling.confirming import Confirming, Doubt
from gateway.service import Gateway
from gateway.times import to_micros

__all__ = ["Finding"]

log = structlog.get_logger()

TOGETHER = 10
"""Deliveries of a destination that are looked for in one step."""
RECALLED = timedelta(days=1)
"""How long ago a delivery may have been sent that is looked for again after a restart."""
PAGES, PAGE = 100, 100
"""Pieces of work that are gone through for that, at each destination."""
REST = timedelta(seconds=30)
"""Between two steps with something left to look for: sending has the rest of the vendor's rate."""


class Finding:
    """Looks for what lanes left in doubt."""

    def __init__(self, gateway: Gateway, confirming: Confirming) -> None:
        self._gateway = gateway
        self._confirming = confirming
        self._rests: datetime | None = None
        self._recalled = False

    async def step(self) -> datetime | None:
        """Look for what is due; return when to go on."""
        doubts, now = self._gateway.doubts, self._gateway.clock.now()
        if not self._recalled:
            self._recalled = True
            await self._recall(now)
        for name in doubts.destinations if self._rests is None or now >= self._rests else ():
            lane = self._gateway.lanes.get(name)
            if lane is None or not self._finds(name):
                doubts.drop(name)
            elif lane.pace.breaker is Breaker.CLOSED:  # one that is down is not asked for anything more
                await self._look(name)
            self._rests = self._gateway.clock.now() + REST
        due = doubts.next
        return due if due is None or self._rests is None else max(due, self._rests)

    async def _recall(self, now: datetime) -> None:
        """Have looked for what was parked a while before this process began."""
        since = to_micros(now - RECALLED)
        for name in self._gateway.lanes if self._gateway.ledger.leads else ():
            after = 0
            for _ in range(PAGES if self._finds(name) else 0):
                page = await self._gateway.ledger.walk(name, WorkState.UNKNOWN, after, PAGE)
                for work in page:
                    after = work.id
                    if (work.group.sent or work.group.since) >= since:
                        self._gateway.doubts.put(name, work.batch, work.members)
                if len(page) < PAGE:
                    break

    def _finds(self, destination: str) -> bool:
        read_back = self._gateway.catalogue.destinations[destination].adapter.door.read_back
        wanted = self._gateway.configuration.delivery.read_back is not None
        return wanted and read_back is not None and read_back.finds is not None

    async def _look(self, destination: str) -> None:
        doubts = self._gateway.doubts
        taken = dict(doubts.due(destination, TOGETHER))
        found = settled = 0
        for ref, doubt in await self._parked(destination, taken):
            told = await self._confirming.find(destination, doubt)
            if isinstance(told, Unread) and told.kind is not UnreadKind.TROUBLE:
                log.info("finding.ended", destination=destination, kind=told.kind)
                doubts.drop(destination)
                return
            found += 1
            if told is True:
                settled += 1
            else:
                doubts.again(destination, ref, taken[ref])
        if found:
            log.info("finding.done", destination=destination, doubts=found, settled=settled)

    async def _parked(self, destination: str, refs: Iterable[int]) -> list[tuple[int, Doubt]]:
        """Return those that are still in doubt, and can be recognised."""
        made: list[tuple[int, Doubt]] = []
        for batch, indexes in by_batch(refs).items():
            for work in await self._gateway.ledger.pieces(batch, destination):
                if work.group.state is WorkState.UNKNOWN:
                    doubts = await self._confirming.doubts_of(work, indexes)
                    made += [(ref_of(batch, index), doubt) for index, doubt in doubts]
        return made
