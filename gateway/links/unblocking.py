"""Lets deliveries go on that were blocked for want of a link, once there is one.

What is blocked at a destination is walked in order, a page at a time, and only what the new links are for is let
go. However many links come, one walk serves all that came before it, and no more than a page is in memory.
"""

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

import msgspec
import structlog

from canonical_schema import ErrorCode
from gateway.chores import Chore
from gateway.ledger import Change, Code, Ledger, Moved, Work, WorkState
from gateway.times import Clock, to_micros

__all__ = ["Unblocking"]

log = structlog.get_logger()

PAGE = 50
"""Pieces of work that are looked at in one step."""
AGAIN = timedelta(seconds=1)
"""After a walk, for what was being blocked while the link was put: a last look at what is new."""
MOST = 100_000
"""Customers that one walk remembers; of more it lets everything go that waits for a link."""

Customer = tuple[str, str]
"""Tenant and customer."""


class _Walk:
    """One way through what is blocked at a destination."""

    def __init__(self) -> None:
        self.customers: set[Customer] = set()
        self.everybody = False
        self.after = 0
        self.last = False
        """Whether it is the look at what came while it went."""

    def add(self, customers: Iterable[Customer]) -> None:
        self.customers.update(customers)
        if len(self.customers) > MOST:
            self.everybody, self.customers = True, set()

    def frees(self, tenant: str, customer: str) -> bool:
        return self.everybody or (tenant, customer) in self.customers


class Unblocking:
    """Does a page at a time, as a chore; pauses as long as each took, so that lanes have the ledger, too."""

    def __init__(self, ledger: Ledger, clock: Clock, wake: Callable[[str], None]) -> None:
        """`wake` tells a destination's lane that there is work."""
        self._ledger = ledger
        self._clock = clock
        self._wake = wake
        self._walks: dict[str, _Walk] = {}
        self._next: dict[str, _Walk] = {}
        """What came too late for the beginning of a walk."""
        self.chore: Chore | None = None

    def free(self, destination: str, customers: Iterable[Customer] | None) -> None:
        """Have what waits at a destination for links of these customers go on; `None`: of anybody."""
        everybody, customers = customers is None, list(customers or ())
        if (walk := self._walks.get(destination)) is None:
            self._walks[destination] = walk = _Walk()
        elif walk.after or walk.last:
            following = self._next.setdefault(destination, _Walk())
            following.add(customers)
            following.everybody |= everybody
        walk.add(customers)
        walk.everybody |= everybody
        if self.chore is not None:
            self.chore.wake()

    async def step(self) -> datetime | None:
        """Look at one page; return when to go on, `None` where there is nothing to do."""
        began, until = self._clock.now(), None
        for destination, walk in list(self._walks.items()):
            works = await self._ledger.walk(destination, WorkState.BLOCKED, walk.after, PAGE)
            await self._let_go(destination, works, walk)
            if works:
                walk.after = works[-1].id
                now = self._clock.now()
                pause = now + (now - began)
            elif not walk.last:
                walk.last = True
                pause = self._clock.now() + AGAIN
            elif (following := self._next.pop(destination, None)) is not None:
                self._walks[destination] = following
                pause = self._clock.now()
            else:
                del self._walks[destination]
                continue
            until = pause if until is None else min(until, pause)
        return until

    async def _let_go(self, destination: str, works: Iterable[Work], walk: _Walk) -> None:
        changes: list[Change] = []
        for work in works:
            await asyncio.sleep(0)  # others have a turn: a page may hold tens of thousands of events
            group = work.group
            if group.error is None or group.error["code"] not in WAITING or group.doubt or work.parts is not None:
                continue
            members = [
                index
                for index, event in zip(work.members, work.events, strict=True)
                if walk.frees(work.tenant, event.customer)
            ]
            if members:
                ready = msgspec.structs.replace(
                    group, state=WorkState.READY, due=to_micros(self._clock.now()), error=None
                )
                code = Code.RETRYING if group.attempts else Code.PENDING
                changes.append(
                    Change(
                        work=work.id,
                        batch=work.batch,
                        destination=destination,
                        members=members,
                        code=code,
                        group=ready,
                        waiting=True,
                    )
                )
        for change in changes:
            try:
                await self._ledger.settle([change], [])
            except Moved:  # somebody else decided meanwhile
                continue
        if changes:
            freed = sum(len(change.members) for change in changes)
            log.info("links.unblocked", destination=destination, deliveries=freed)
            self._wake(destination)


WAITING = frozenset({ErrorCode.UNMAPPED_CUSTOMER})
