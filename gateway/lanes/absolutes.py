"""One destination's absolute values, held to their order over what the ledger has of them."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence

import msgspec

from canonical_schema import Event, Kind
from gateway.errors import LedgerUnavailable
from gateway.lanes.order import Order
from gateway.ledger import Change, Code, Ledger, Moved, Work, WorkState, by_batch, ref_of, some_of
from gateway.times import Clock, to_micros

__all__ = ["Absolutes"]

PAGE = 64
"""Pieces of work that are looked at together."""

_OPEN = (
    # In the order in which they move while this looks, so that none is missed.
    WorkState.SENDING,
    WorkState.UNKNOWN,
    WorkState.HELD,
    WorkState.BLOCKED,
    WorkState.WAITING,
    WorkState.READY,
)


class Absolutes:
    """Whose turn it is. Of processes that share a ledger one alone knows, the one that sends to the destination."""

    def __init__(self, destination: str, ledger: Ledger, clock: Clock, *, wake: Callable[[], None]) -> None:
        """`wake` is told that others may go."""
        self._destination = destination
        self._ledger = ledger
        self._clock = clock
        self._wake = wake
        self._order = Order()
        self._alone = False
        self._owing = False
        """Whether some may go that are still written down as waiting."""
        self._releasing = asyncio.Lock()
        self._seen = 0
        """The number up to which all work was taken notice of."""

    def may_go(self, work: Work, index: int, event: Event) -> bool:
        """Return whether nothing that must come first is unsettled."""
        if event.kind is not Kind.ABSOLUTE:
            return True
        return self._order.add((work.tenant, event.customer, event.meter), ref_of(work.batch, index))

    async def settled(self, batch: int, members: Sequence[int]) -> None:
        """Let those go that waited for these."""
        await self.ended(ref_of(batch, index) for index in members)

    async def ended(self, refs: Iterable[int]) -> None:
        """Let those go that waited for these, of several batches."""
        await self._release(self._order.settled(refs))

    async def told_to_wait(self, changes: Sequence[Change]) -> None:
        """Let those go that have nothing to wait for any more, now that it is written down that they wait.

        What they waited for may have been settled meanwhile, and then it let nobody go.
        """
        waiting = (one for one in changes if one.group is not None and one.group.state is WorkState.WAITING)
        refs = [ref_of(one.batch, index) for one in waiting for index in one.members]
        await self._release([ref for ref in refs if self._order.first(ref)])

    async def recover(self) -> None:
        """Take notice, at the start, of all that is not settled, where this process is the one to know."""
        if alone := self._ledger.alone(self._destination):
            await self._look()
            self._alone = alone

    async def alone(self, take_over: Callable[[], Awaitable[None]]) -> bool:
        """Return whether this process sends; where another did before, once what that was sending is taken over."""
        if not self._ledger.alone(self._destination):
            self._alone = False
        elif not self._alone:  # whoever did before is gone, and what it was sending is in doubt
            await take_over()
            self._order = Order()
            await self._look()
            self._alone = self._owing = True  # whose turn came meanwhile nobody was told
        if self._alone and self._owing:
            self._owing = False  # before: whose turn comes meanwhile says so
            try:
                await self._ledger.release(self._destination, WorkState.WAITING, to_micros(self._clock.now()))
            except BaseException:
                self._owing = True
                raise
        return self._alone

    async def again(self) -> None:
        """Let those go that wait for what another process was told about: nobody else tells."""
        if not (self._alone and self._ledger.shared):
            return
        ended: list[int] = []
        for batch, members in by_batch(self._order.awaited).items():
            for work in await self._ledger.pieces(batch, self._destination):
                if work.group.state in _OPEN:
                    members.difference_update(work.members)
            ended += [ref_of(batch, index) for index in members]
        await self.ended(ended)

    async def before(self, works: Sequence[Work]) -> None:
        """Take notice of all that was recorded before what is about to be sent, whatever it is due by.

        A clock that was set back, or another machine's that is behind, has later values be due first; and what came
        while all was held is ready before it is.
        """
        if any(event.kind is Kind.ABSOLUTE for work in works for event in work.events):
            after = self._seen if self._ledger.in_line else 0
            # In this order: others may let go what is held while this looks.
            self._seen = max([await self._walked(state, after) for state in (WorkState.HELD, WorkState.READY)])

    async def _look(self) -> None:
        for state in _OPEN:
            self._seen = await self._walked(state, 0)

    async def _walked(self, state: WorkState, after: int) -> int:
        """Take notice of what is in a state, past a number; return the last number."""
        while works := await self._ledger.walk(self._destination, state, after, PAGE):  # a backlog may be large
            for work in works:
                for index, event in zip(work.members, work.events, strict=True):
                    self.may_go(work, index, event)
            after = works[-1].id
        return after

    async def _release(self, refs: Sequence[int]) -> None:
        """Let values go, and no other: of a backlog all would be told to wait again, each time that one goes.

        Where that cannot be written down, all are let go before anything else is sent.
        """
        if not refs:
            return
        try:
            async with self._releasing:
                await self._let_go(by_batch(refs))
        except (LedgerUnavailable, Moved):
            self._owing = True
        self._wake()

    async def _let_go(self, waiting: Mapping[int, Collection[int]]) -> None:
        now, changes = to_micros(self._clock.now()), list[Change]()
        for batch, indexes in waiting.items():
            for work in await self._ledger.pieces(batch, self._destination):
                places = [place for place, index in enumerate(work.members) if index in indexes]
                if work.group.state is WorkState.WAITING and places:
                    changes.append(_going(work, places, now))
        if changes:
            await self._ledger.settle(changes, [])


def _going(work: Work, places: Sequence[int], now: int) -> Change:
    """Return what becomes of members that waited, and may go."""
    return Change(
        work=work.id,
        batch=work.batch,
        destination=work.destination,
        members=[work.members[place] for place in places],
        code=Code.RETRYING if work.group.attempts else Code.PENDING,
        group=msgspec.structs.replace(work.group, state=WorkState.READY, due=now),
        parts=None if work.parts is None else some_of(work.parts, places),
        waiting=True,
    )
