"""One destination's own way: take due work, render it, ship it, come back for more. No lane waits for another."""

import asyncio
import contextlib
import random
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

import structlog

from adapters import AnyAdapter, Ask, CanProbe
from gateway.asking import ask
from gateway.catalogue import Catalogue
from gateway.chain import has_corrections
from gateway.configuration.sections import Delivery
from gateway.errors import LedgerUnavailable
from gateway.lanes.absolutes import Absolutes
from gateway.lanes.board import Board
from gateway.lanes.columns import columns_of
from gateway.lanes.corrector import Corrector, withdrawing
from gateway.lanes.deadlines import given_up
from gateway.lanes.doubts import Doubts
from gateway.lanes.hearing import Hearing
from gateway.lanes.helping import Helping
from gateway.lanes.intent import intend
from gateway.lanes.lots import packed
from gateway.lanes.pace import Pace
from gateway.lanes.preparing import Preparer
from gateway.lanes.probing import probed
from gateway.lanes.restored import Restored
from gateway.lanes.returning import Returning
from gateway.lanes.runs import runs_of
from gateway.lanes.setback import SetBack
from gateway.lanes.settling import Settling
from gateway.lanes.shipment import Judge, Shipper
from gateway.lanes.unheard import Unheard
from gateway.ledger import AttemptRow, Change, Code, Ledger, Moved, WorkState
from gateway.times import Clock, from_micros, to_micros
from gateway.transport import Transport

__all__ = ["Lane"]

log = structlog.get_logger()

T = TypeVar("T")

LOOK = timedelta(minutes=1)
"""How long a lane waits without a look at the clock, which may have been set back meanwhile."""
FENCED = timedelta(seconds=1)
"""How long to wait where the ledger does not let anything leave, or does not say what was being sent."""
PAGE = 64
"""Pieces of work whose windows have closed that are ended together."""
MOVED = 64
"""How often in a row work may have changed hands meanwhile, before the lane waits: it would look for ever."""


class Lane:
    """Everything between the ledger and one provider."""

    def __init__(
        self,
        name: str,
        *,
        catalogue: Catalogue,
        ledger: Ledger,
        transport: Transport,
        board: Board,
        clock: Clock,
        delivery: Delivery,
        rng: random.Random | None = None,
        restored: Restored | None = None,
        doubts: Doubts | None = None,
        routed: Callable[[], bool] = lambda: True,
    ) -> None:
        """Absent `restored`, the ledger is of no copy. `routed`: whether what had no way has one by now."""
        self.name = name
        self._restored = restored or Restored()
        self._adapter = catalogue.destinations[name].adapter
        self._catalogue = catalogue
        self._ledger = ledger
        self._board = board
        self._clock = clock
        self._jitter = partial((rng or random.Random()).uniform, 0)
        self.pace = Pace(
            self._adapter.door.rates if catalogue.destinations[name].rate == "vendor" else (),
            delivery.max_in_flight,
            delivery.retry,
            self._jitter,
            destination=name,
            limits=ledger.limits,
            probes=isinstance(self._adapter, CanProbe),
            repeats=self._adapter.dedupe is not None,
        )
        self._hearing = Hearing(name, self._adapter.spec.name, self.pace, lambda: self._in_flight)
        self.health = self._hearing.health
        self._wake = asyncio.Event()
        self._sending: dict[asyncio.Task[None], Collection[int]] = {}
        """What is in flight, with the numbers of the work that it carries."""
        self._stopped = asyncio.Event()
        self._stepping = asyncio.Lock()
        self._absolutes = Absolutes(name, ledger, clock, wake=self.wake)
        self._transport = transport
        self._routed = routed
        self._holding = self._stranded = False
        self._lapses = ledger.lapses  # when nothing was in flight
        self._settling = Settling(
            name,
            catalogue=catalogue,
            ledger=ledger,
            board=board,
            doubts=doubts,
            absolutes=self._absolutes,
            retry=delivery.retry,
            jitter=self._jitter,
        )
        self._corrector = Corrector(name, catalogue, ledger, self._settling.write, self._restored)
        withdraws = self._corrector.withdraws
        self._unheard = Unheard(name, ledger, self._settling, withdraws=withdraws, sending=self._sending.values)
        self._preparer = Preparer(name, catalogue, self._absolutes, self._corrector.once)
        self._returning = Returning(name, ledger)
        self._setback = SetBack(name, ledger, self._adapter.dedupe, write=self._settling.write)
        self._helping = Helping(self._adapter, self.pace, lambda: self._in_flight)
        self._shipper = self._shipping(self._adapter, self._settling.judge, several=self._helping.several)
        other = withdrawing(self._adapter)
        self._withdrawer = self._shipper if other is None else self._shipping(other, self._settling.judge_withdrawal)

    def _shipping(self, adapter: AnyAdapter, judge: Judge, *, several: bool = True) -> Shipper:
        return Shipper(
            self.name,
            adapter,
            self._transport,
            self._clock,
            judge=judge,
            write=self._write,
            noted=self._hearing.attempt,
            paused=self._paused,
            stopped=self._stopped,
            pace=self.pace,
            several=several,
            wake=self.wake,
        )

    async def _write(self, changes: Sequence[Change], attempts: Sequence[AttemptRow]) -> None:
        """Write down what answers made of deliveries. What is held by one waits to be let go, whatever the next say."""
        await self._settling.write(changes, attempts)
        self._holding = self._holding or any(change.code is Code.BLOCKED for change in changes)

    @property
    def _in_flight(self) -> int:
        """How many requests are intended and have not ended."""
        return max(len(self._sending), sum(shipper.out for shipper in {self._shipper, self._withdrawer}))

    def wake(self) -> None:
        """Tell the lane that there may be work."""
        self._wake.set()

    async def run(self) -> None:
        """Deliver until stopped."""
        while not self._stopped.is_set():
            try:
                until = await self.step()
            except Exception as error:  # noqa: BLE001  the edge of a lane: whatever happens in it, it goes on
                log.error("lane.failed", destination=self.name, error=type(error).__name__)
                until = self._clock.now() + timedelta(seconds=1)
            if not self._stopped.is_set():  # which may have been said before the step forgot that it was woken
                await self._clock.wait(self._wake, until and min(until, self._clock.now() + LOOK))

    async def stop(self, grace: timedelta) -> None:
        """Send nothing new; let what is in flight finish. What does not is in doubt at the next start."""
        self._stopped.set()
        self.wake()
        async with self._stepping:  # what a step has intended to send is in flight by then, or never will be
            pass
        if self._sending:
            _, late = await asyncio.wait(self._sending, timeout=grace.total_seconds())
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def resume(self) -> None:
        """Have it run again as if it had not been stopped."""
        self._stopped.clear()

    async def ask(self, asked: Ask[T]) -> T:
        """Return the answer of something that the adapter can ask; each request counts against the rate limits.

        Raises AskFailed for a bug of the adapter, and for nothing that a network or a provider does.
        """
        return await ask(self._transport, asked, turn=self.turn)

    async def turn(self) -> None:
        """Return when one more request may leave by the rate limits, and count it."""
        while wait := await self.pace.take(0, now := self._clock.now()):
            await self._clock.wait(asyncio.Event(), now + wait)

    async def correct(self, batch: int) -> None:
        """Carry out what a batch of corrections can do without sending anything, between two steps."""
        async with self._stepping:
            pieces = await self._ledger.pieces(batch, self.name)
            ready = [work for work in pieces if work.group.state is WorkState.READY]
            await self._corrector.prepared(ready, self._clock.now())
        self.wake()

    async def idle(self) -> None:
        """Return when nothing is in flight."""
        while self._sending:
            await asyncio.wait(self._sending)

    async def recover(self) -> None:
        """Take up where the last process ended: what it was sending may have arrived."""
        now = self._clock.now()
        await self._unheard.judge_all(now)
        await self._ledger.release(self.name, WorkState.WAITING, to_micros(now))
        await self._returning.begin(now)
        await self._setback.begin(now)
        if self._adapter.allows_absolute:
            await self._absolutes.recover()

    async def take_over(self) -> None:
        """Take up what nobody sends any more, and take notice of what other processes settled."""
        await self._take_up()
        await self._unheard.judge_lost(self._clock.now())
        if self._adapter.allows_absolute:
            async with self._stepping:
                await self._absolutes.again()

    async def _take_up(self) -> None:
        await self._unheard.judge_abandoned(self._clock.now())
        if not self._holding and not self.pace.refused:  # held by one that does not know this destination
            await self._ledger.release(self.name, WorkState.HELD, to_micros(self._clock.now()))

    def _paused(self, now: datetime) -> datetime | None:
        """Return until when nothing may leave, `None` where it may."""
        if self._ledger.fenced or self._lapses != self._ledger.lapses:
            return now + FENCED
        if self._stopped.is_set() or self.pace.shut:
            return max(now, self.pace.not_before or now)
        until = self.pace.not_before
        return until if until is not None and now < until else None

    async def step(self) -> datetime | None:
        """Start sending what is due; return when to look again, `None` for when the lane is woken."""
        async with self._stepping:
            closing = self._adapter.door.time.past is not None
            moving = closing and not await self._give_up(self._clock.now())
            again = [await self._step()]
            if moving or (self._stranded and not self._sending):
                again.append(self._clock.now() + FENCED)
            if closing and not moving:
                _, closes = await self._ledger.overdue(self.name, 0, 0)
                again.append(None if closes is None else from_micros(closes + 1))
            return min(filter(None, again), default=None)

    async def _give_up(self, now: datetime) -> bool:
        """End every delivery whose acceptance window has closed, whatever it waits for; return whether that was all."""
        title, moves = self._adapter.spec.title, 0
        while moves < MOVED and (works := (await self._ledger.overdue(self.name, to_micros(now), PAGE))[0]):
            try:
                await self._settling.write(given_up(self._restored.doubted(works), title, now), [])
                moves = 0
            except Moved:  # another process sends one of them meanwhile: look again
                moves += 1
        return moves < MOVED

    async def _step(self) -> datetime | None:
        self._wake.clear()
        now, pace = self._clock.now(), self.pace
        await self._setback.step(now, noticed=pace.see(now))
        await pace.agree(now)
        waiting = pace.not_before is not None and now < pace.not_before
        if self._lapses != self._ledger.lapses:
            if self._sending:  # what was intended before is not sent: others may have taken it over
                return None
            self._lapses = self._ledger.lapses
        if self._stranded:
            if self._sending:  # it ends, and then all that is being sent is what was stranded
                return None
            # Where a part of the ledger is out of reach, what stands there waits for it, and nothing else does.
            with contextlib.suppress(LedgerUnavailable):
                await self._unheard.judge_all(now)
                self._stranded = False
        if not await self._returning.step(now, self._stopped.is_set):
            return now
        if pace.refused:
            await self._hold()
            if not waiting and not self._sending:
                await self._ledger.release(self.name, WorkState.HELD, to_micros(now), pieces=1)
        elif self._holding:
            self._holding = False  # before: what is held meanwhile says so
            try:
                await self._ledger.release(self.name, WorkState.HELD, to_micros(now))
            except LedgerUnavailable:  # what is left is let go by the next step
                self._holding = True
                raise
        if waiting:
            return pace.not_before
        # Running values wait until older ones, which had no way, have theirs.
        if self._adapter.allows_absolute and not (self._routed() and await self._absolutes.alone(self._take_up)):
            return now + FENCED
        return await (self._probe(now) if pace.shut else self._fill(now))

    async def _fill(self, now: datetime) -> datetime | None:
        """Send what is due while there is room; return when to look again."""
        tried, moves = False, 0
        while self.pace.room(self._in_flight, now) and not self._stopped.is_set():
            try:
                more = await self._ship_next(now)
                moves = 0
            except Moved:  # a person decided about one of them meanwhile: all is as it was, look again
                more, moves = True, moves + 1
                if moves == MOVED:
                    log.error("lane.work_moves", destination=self.name, times=moves)
                    return now + FENCED
            if isinstance(more, datetime):
                return more
            if not more:
                if self.pace.refused:  # what was let go was turned away: the next piece may tell
                    return now if tried else None
                due = await self._ledger.next_due(self.name)
                return None if due is None else from_micros(due)
            tried = True
        return None

    async def _probe(self, now: datetime) -> datetime | None:
        """Begin to ask whether the provider answers, where something waits for it; return when to look again."""
        if self._sending or self._stopped.is_set():
            return None
        due = await self._ledger.next_due(self.name)
        if due is None or due > to_micros(now):
            return None if due is None else from_micros(due)
        if wait := await self.pace.alone(now) or await self.pace.take(0, now):
            return now + wait
        task = asyncio.create_task(probed(self._adapter, self._transport, self._clock, self._hearing))
        self._sending[task] = ()
        task.add_done_callback(self._sent)
        return None

    async def _ship_next(self, now: datetime) -> bool | datetime:
        """Send one shipment of what is due. Returns whether there was anything, or when there is leave to send it."""
        pace, door, several = self.pace, self._adapter.door, self._helping.several
        if not several and (wait := pace.wait(1, now)):
            return now + wait
        each, size = door.max_rows, door.max_bytes
        rows = self._helping.rows(now)
        works = await self._ledger.take(self.name, to_micros(now), rows)
        if any(map(has_corrections, works)):
            works = await self._corrector.prepared(works, now)
            if not works:
                return True
        works = self._restored.doubted(works)
        withdrawn = [work for work in works if self._corrector.withdraws(work)]
        if withdrawn:  # by a door of its own; the others are taken again
            works, several, each, size = withdrawn, True, 1, 2**31
            rows = min(rows, pace.most)
        runs = runs_of(works)
        seen = [(run.tenant, columns_of(run.events).customers) for run in runs]
        await self._catalogue.learn(one for one, run in zip(seen, runs, strict=True) if not run.rendered)
        self._catalogue.use(self.name, seen)
        if self._adapter.allows_absolute:
            await self._absolutes.before(works)
        lots, turned = self._preparer.prepared(runs, now, rows, 2**31 if several else size)
        if turned:
            await self._settling.write(turned, [])
            await self._absolutes.told_to_wait(turned)
        if not lots:
            return bool(turned)
        requests = packed(lots, min(each, rows), size)
        if pace.faults:
            del requests[1:]
        if not several:
            wait = await self._helping.granted(requests, now)
            if not requests:
                return now + wait
        await intend(self._ledger, requests, works, now)
        shipper = self._withdrawer if withdrawn else self._shipper
        for some in [requests] if several else [[request] for request in requests]:
            task = asyncio.create_task(shipper.ship(some))
            self._sending[task] = {lot.work for lots in some for lot in lots}
            task.add_done_callback(self._sent)
        return True

    async def settled(self, batch: int, members: Sequence[int]) -> None:
        """Let absolute values go that waited for these."""
        await self._absolutes.settled(batch, members)

    async def _hold(self) -> None:
        """Show everything that waits behind a refusal of the whole as blocked."""
        assert self.health.last_error is not None
        self._holding = True
        for batch, members in (await self._ledger.hold(self.name, self.health.last_error)).items():
            self._board.post(batch, self.name, members)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.pop(task, None)
        self.wake()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._stranded = True
            log.error("lane.shipment_failed", destination=self.name, error=type(error).__name__)
