"""One destination's own way: take due work, render it, ship it, come back for more. No lane waits for another."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter
from typing import TypeVar

import msgspec
import structlog

from adapters import AnyAdapter, Ask, CanProbe, Dedupe, Door, Fault, Outcome, Reply, State, retry_after
from canonical_schema import ErrorCode, ErrorItem, Event, Kind
from gateway.asking import AskFailed, ask
from gateway.board import Board
from gateway.catalogue import Catalogue
from gateway.chain import has_corrections
from gateway.configuration_sections import Delivery
from gateway.corrector import Corrector, withdrawing
from gateway.deadlines import ended, given_up
from gateway.errors import LedgerUnavailable
from gateway.ledger import AttemptRow, Change, Code, Group, Ledger, Moved, Part, Portion, Work, WorkState, ref_of
from gateway.order import Order
from gateway.pace import Heard, Pace
from gateway.rendering import Turned, encoded, render
from gateway.restored import Restored
from gateway.shipment import FRAME, Item, Judge, Shipper, deadline_of, moved, packed, regroup
from gateway.stencils import Stencils
from gateway.times import Clock, from_micros, to_micros
from gateway.transport import Transport
from gateway.verdict import Next, error_item, may_resend, next_step

__all__ = ["Health", "Lane"]

log = structlog.get_logger("gateway.lane")

T = TypeVar("T")

FENCED = timedelta(seconds=1)
"""How long to wait where the ledger does not let anything leave."""
SINGLES = 64
"""How many rows of a one-row door share one intent to send."""


@dataclass(slots=True)
class Health:
    """What a lane last heard, for people."""

    last_error: ErrorItem | None = None
    last_error_at: datetime | None = None
    last_success_at: datetime | None = None


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
    ) -> None:
        """`restored`: whether the ledger is one from a copy; absent: it is not."""
        self.name = name
        self._restored = restored or Restored()
        self.health = Health()
        self._adapter = catalogue.destinations[name].adapter
        self._catalogue = catalogue
        self._ledger = ledger
        self._board = board
        self._clock = clock
        self._retry = delivery.retry
        self._rng = rng or random.Random()
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
        self._wake = asyncio.Event()
        self._sending: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._stepping = asyncio.Lock()
        self._order = Order()
        self._stencils = Stencils(catalogue, name)
        self._received = 0, from_micros(0)
        """When the last event was received, in both forms: most of a batch came together."""
        self._transport = transport
        self._holding = False
        self._stranded = False
        self._alone = False
        self._corrector = Corrector(name, catalogue, ledger, self._write)
        self._shipper = self._shipping(self._adapter, self._judge, delivery)
        other = withdrawing(self._adapter)
        self._withdrawer = self._shipper if other is None else self._shipping(other, self._judge_withdrawal, delivery)

    def _shipping(self, adapter: AnyAdapter, judge: Judge, delivery: Delivery) -> Shipper:
        return Shipper(
            self.name,
            adapter,
            self._transport,
            self._clock,
            max_in_flight=delivery.max_in_flight,
            judge=judge,
            write=self._write,
            noted=self._noted,
            paused=self._paused,
            pace=self.pace,
        )

    def wake(self) -> None:
        """Tell the lane that there may be work."""
        self._wake.set()

    async def run(self) -> None:
        """Deliver until stopped."""
        while not self._stopping:
            try:
                until = await self.step()
            except Exception as error:  # noqa: BLE001  the edge of a lane: whatever happens in it, it goes on
                log.error("lane.failed", destination=self.name, error=type(error).__name__)
                until = self._clock.now() + timedelta(seconds=1)
            await self._clock.wait(self._wake, until)

    async def stop(self, grace: timedelta) -> None:
        """Send nothing new; let what is in flight finish. What does not is in doubt at the next start."""
        self._stopping = True
        self.wake()
        async with self._stepping:  # what a step has intended to send is in flight by then, or never will be
            pass
        if self._sending:
            _, late = await asyncio.wait(self._sending, timeout=grace.total_seconds())
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

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
        await self._doubt(now)
        for state in (WorkState.HELD, WorkState.BLOCKED, WorkState.WAITING):
            await self._ledger.release(self.name, state, to_micros(now))
        if self._adapter.allows_absolute and (alone := self._ledger.alone(self.name)):
            await self._ordered()
            self._alone = alone

    async def _ordered(self) -> None:
        """Take notice of all absolute values that are not settled."""
        for state in (WorkState.READY, WorkState.UNKNOWN):
            for work in await self._ledger.held(self.name, state):
                for index, event in zip(work.members, work.events, strict=True):
                    self._may_go(work, index, event)

    async def _takes_turns(self) -> bool:
        """Return whether this process may send: of absolute values one process alone keeps the order."""
        if not self._adapter.allows_absolute:
            return True
        before, self._alone = self._alone, self._ledger.alone(self.name)
        if self._alone and not before:  # whoever did before is gone, and what it was sending is in doubt
            await self.take_over()
            self._order = Order()
            await self._ordered()
        return self._alone

    async def _doubt(self, now: datetime) -> None:
        """Judge what was being sent when nobody was left to hear the answer."""
        await self._doubted(await self._ledger.held(self.name, WorkState.SENDING), now)

    async def take_over(self) -> None:
        """Take up what other processes were sending when they ended."""
        await self._doubted(await self._ledger.abandoned(self.name), self._clock.now())

    async def _doubted(self, works: Sequence[Work], now: datetime) -> None:
        message = "the gateway stopped between sending this and hearing the answer"
        outcome = Outcome(state=State.UNKNOWN, code=ErrorCode.PROVIDER_UNAVAILABLE, message=message)
        for work in works:
            work.group = msgspec.structs.replace(work.group, attempts=work.group.attempts + 1)
            judge = self._judge_withdrawal if self._corrector.withdraws(work) else self._judge
            following = judge(outcome, work.group, now)
            with contextlib.suppress(Moved):  # another process took it up, or the one that sent it heard after all
                await self._write([moved(work, range(len(work.members)), following, now)], [])
            becomes = following.code.status.value
            log.warning("lane.recovered", destination=self.name, rows=len(work.members), becomes=becomes)

    def _paused(self, now: datetime) -> datetime | None:
        """Return until when nothing may leave, `None` where it may."""
        if self._ledger.fenced:
            return now + FENCED
        if self._stopping or self.pace.shut:
            return max(now, self.pace.not_before or now)
        until = self.pace.not_before
        return until if until is not None and now < until else None

    async def step(self) -> datetime | None:
        """Start sending what is due; return when to look again, `None` for when the lane is woken."""
        async with self._stepping:
            if self._adapter.door.time.past is None:
                return await self._step()
            await self._give_up(self._clock.now())
            until = await self._step()
            _, closes = await self._ledger.overdue(self.name, 0, 0)
            if closes is None:
                return until
            return from_micros(closes + 1) if until is None else min(until, from_micros(closes + 1))

    async def _give_up(self, now: datetime) -> None:
        """End every delivery whose acceptance window has closed, whatever it waits for."""
        title = self._adapter.spec.title
        while works := (await self._ledger.overdue(self.name, to_micros(now), SINGLES))[0]:
            with contextlib.suppress(Moved):  # another process sends one of them meanwhile: look again
                await self._write([change for work in works for change in given_up(work, title, now)], [])

    async def _step(self) -> datetime | None:
        self._wake.clear()
        now, pace = self._clock.now(), self.pace
        waiting = pace.not_before is not None and now < pace.not_before
        if self._stranded:
            if self._sending:  # it ends, and then all that is being sent is what was stranded
                return None
            # Where a part of the ledger is out of reach, what stands there waits for it, and nothing else does.
            with contextlib.suppress(LedgerUnavailable):
                await self._doubt(now)
                self._stranded = False
        if pace.refused:
            await self._hold()
            if not waiting and not self._sending:
                await self._ledger.release(self.name, WorkState.HELD, to_micros(now), pieces=1)
        elif self._holding:
            self._holding = False
            await self._ledger.release(self.name, WorkState.HELD, to_micros(now))
        if waiting:
            return pace.not_before
        if not await self._takes_turns():
            return now + FENCED
        if pace.shut:
            return await self._probe(now)
        tried = False
        while pace.room(len(self._sending), now) and not self._stopping:
            try:
                more = await self._ship_next(now)
            except Moved:  # a person decided about one of them meanwhile: all is as it was, look again
                more = True
            if isinstance(more, datetime):
                return more
            if not more:
                if pace.refused:  # what was let go was turned away: the next piece may tell
                    return now if tried else None
                due = await self._ledger.next_due(self.name)
                return None if due is None else from_micros(due)
            tried = True
        return None

    async def _probe(self, now: datetime) -> datetime | None:
        """Begin to ask whether the provider answers, where something waits for it; return when to look again."""
        if self._sending or self._stopping:
            return None
        due = await self._ledger.next_due(self.name)
        if due is None or due > to_micros(now):
            return None if due is None else from_micros(due)
        if wait := await self.pace.take(0, now):
            return now + wait
        task = asyncio.create_task(self._probing())
        self._sending.add(task)
        task.add_done_callback(self._sent)
        return None

    async def _probing(self) -> None:
        """Ask with a harmless read: while that is not answered no delivery is risked, and none spends an attempt."""
        assert isinstance(self._adapter, CanProbe)
        began = self._clock.now()
        try:
            answer = await ask(self._transport, self._adapter.probe(), steps=1)
        except AskFailed as error:  # what cannot be asked is tried
            log.error("lane.probe_failed", destination=self.name, error=str(error))
            self.pace.probed(Heard.FINE, self._clock.now())
            return
        now = self._clock.now()
        status = answer.status if isinstance(answer, Reply) else None
        what = Heard.FAULT if status is None or status >= 500 else Heard.THROTTLED if status == 429 else Heard.FINE
        self.pace.probed(what, now, retry_after(answer, now) if isinstance(answer, Reply) else None)
        log.info(
            "lane.probed",
            destination=self.name,
            provider=self._adapter.spec.name,
            heard=what.value,
            ms=round((now - began).total_seconds() * 1000),
            http_status=status,
            fault=answer.name if isinstance(answer, Fault) else None,
        )

    async def _ship_next(self, now: datetime) -> bool | datetime:
        """Send one shipment of what is due. Returns whether there was anything, or when there is leave to send it."""
        pace, door = self.pace, self._adapter.door
        by_row = door.max_rows == 1  # such a door's requests take their turns one by one, as they leave
        if not by_row and (wait := pace.wait(1, now)):
            return now + wait
        # While there is trouble one delivery is tried at a time: the smallest batch that tells.
        rows = 1 if pace.faults else SINGLES if by_row else door.max_rows
        works = await self._ledger.take(self.name, to_micros(now), rows)
        if any(map(has_corrections, works)):
            works = await self._corrector.prepared(works, now)
            if not works:
                return True
        works = self._restored.doubted(works)
        withdrawn = [work for work in works if self._corrector.withdraws(work)]
        if withdrawn:  # by a door of its own; the others are taken again
            works, by_row, rows = withdrawn, True, 1 if pace.faults else SINGLES
        await self._catalogue.learn(
            (work.tenant, (event.customer for event in work.events)) for work in works if work.parts is None
        )
        self._catalogue.use(self.name, ((work.tenant, (event.customer for event in work.events)) for work in works))
        items, turned = self._prepared(works, now, rows, 2**31 if by_row else door.max_bytes)
        if turned:
            await self._write(turned, [])
        if not items:
            return bool(turned)
        (shipment, *_) = packed(items, rows, 2**31 if by_row else door.max_bytes)
        count = sum(len(item.rows()) for item in shipment)
        if not by_row and (wait := await pace.take(count, now)):
            return now + wait
        await self._intend(shipment, works, now)
        task = asyncio.create_task((self._withdrawer if withdrawn else self._shipper).ship(shipment))
        self._sending.add(task)
        task.add_done_callback(self._sent)
        return True

    # Before sending: what each delivery looks like at the provider, or why it is not sent.

    def _prepared(
        self, works: Sequence[Work], now: datetime, max_rows: int, max_bytes: int
    ) -> tuple[list[Item], list[Change]]:
        """Return what can be sent, no more than fills a request, and what becomes of the others looked at."""
        items: list[Item] = []
        turned: list[Change] = []
        rows = size = 0
        for work in works:
            if rows >= max_rows or size >= max_bytes:
                break
            group = work.group
            dedupe = None if self._corrector.withdraws(work) else self._adapter.dedupe
            if group.doubt and not may_resend(dedupe, group, now):
                following = Next(code=Code.UNKNOWN, doubt=group.doubt, error=group.error)
                turned.append(moved(work, range(len(work.members)), following, now))
                continue
            gone, open_ = ended(work, self._adapter.spec.title, now)
            turned += gone
            away: dict[tuple[Code, str], tuple[Turned, list[int]]] = {}
            waiting: list[int] = []
            for place in open_:
                index = work.members[place]
                if rows >= max_rows or size >= max_bytes:
                    break
                if not self._may_go(work, index, work.events[place]):
                    waiting.append(place)
                    continue
                made = self._rendered(work, place, now) if work.parts is None else work.parts[place]
                if isinstance(made, Turned):
                    why = made.error["message"] if made.error else ""
                    away.setdefault((made.code, why), (made, []))[1].append(place)
                else:
                    items.append(Item(work.id, work.batch, index, group, made, deadline_of(work, place)))
                    rows += len(made)
                    size += len(made[0].row) if len(made) == 1 else sum(map(_size, made))
            if waiting:
                following = Next(code=Code.PENDING, doubt=group.doubt, error=group.error)
                turned.append(moved(work, waiting, following, now))
            for reason, places in away.values():
                if reason.error is not None and reason.error["code"] == ErrorCode.UNMAPPED_CUSTOMER:
                    for place in places:
                        self._catalogue.miss(self.name, work.tenant, work.events[place].customer)
                following = Next(code=reason.code, doubt=0, error=reason.error)
                turned.append(moved(work, places, following, now))
        return items, turned

    def _may_go(self, work: Work, index: int, event: Event) -> bool:
        """Return whether nothing that must come first is unsettled."""
        if event.kind is not Kind.ABSOLUTE:
            return True
        return self._order.add((work.tenant, event.customer, event.meter), ref_of(work.batch, index))

    def _rendered(self, work: Work, place: int, now: datetime) -> list[Part] | Turned:
        event, micros = work.events[place], work.received_at(place)
        if micros != self._received[0]:
            self._received = micros, from_micros(micros)
        received = self._received[1]
        try:
            parts = self._stencils.parts(work.tenant, event, received, now)
            if parts is None:
                made = render(self._catalogue, self.name, work.tenant, event, received, now)
                if isinstance(made, Turned):
                    return made
                parts = encoded(made)
        except Exception as error:  # noqa: BLE001  an adapter that stumbles over one event must not stop the lane
            log.error("lane.render_failed", destination=self.name, error=type(error).__name__)
            message = f"{self._adapter.spec.title}'s adapter failed on this event: {type(error).__name__}"
            return Turned(Code.BLOCKED, ErrorItem(code=ErrorCode.UNSUPPORTED, message=message, retryable=True))
        if max(map(_size, parts)) + FRAME > self._adapter.door.max_bytes:
            message = f"the event is larger than {self._adapter.spec.title} takes: send fewer or shorter properties"
            return Turned(Code.REJECTED, ErrorItem(code=ErrorCode.PAYLOAD_TOO_LARGE, message=message, retryable=False))
        return parts

    async def _intend(self, shipment: Sequence[Item], works: Sequence[Work], now: datetime) -> None:
        """Make the intent to send durable, before the first byte leaves."""
        by_id = {work.id: work for work in works}
        portions: dict[int, Portion] = {}
        for item in shipment:
            portion = portions.get(item.work)
            if portion is None:
                portion = portions[item.work] = Portion(work=by_id[item.work], members=[], parts=[])
            portion.members.append(item.index)
            portion.parts.append(item.parts)
        ids = await self._ledger.intend(list(portions.values()), to_micros(now))
        holders = dict(zip(portions, ids, strict=True))
        for item in shipment:
            item.work = holders[item.work]
        first = to_micros(now)
        regroup(shipment, lambda group: msgspec.structs.replace(group, sent=first) if group.sent is None else group)

    # After sending.

    def _judge(self, outcome: Outcome, group: Group, now: datetime) -> Next:
        return self._judged(outcome, group, now, self._adapter.dedupe, self._adapter.door)

    def _judge_withdrawal(self, outcome: Outcome, group: Group, now: datetime) -> Next:
        """Judge a request that takes a whole row back: nobody vouches for a second one."""
        return self._judged(outcome, group, now, None, None)

    def _judged(self, outcome: Outcome, group: Group, now: datetime, dedupe: Dedupe | None, door: Door | None) -> Next:
        return next_step(
            outcome,
            group,
            dedupe=dedupe,
            queued=door is not None and door.receipt == "queued",
            retry=self._retry,
            now=now,
            jitter=self._jitter,
        )

    def _jitter(self, ceiling: float) -> float:
        return self._rng.uniform(0, ceiling)

    async def _write(self, changes: Sequence[Change], attempts: Sequence[AttemptRow]) -> None:
        await self._ledger.settle(changes, attempts)
        for change in changes:
            if change.code not in {Code.PENDING, Code.RETRYING}:
                self._board.post(change.batch, self.name, change.members)
            if change.code not in _UNSETTLED:
                await self.settled(change.batch, change.members)
            await self._check_links(change)

    async def _check_links(self, change: Change) -> None:
        """Look customers up again whom the provider does not know any more: nothing of these was stored."""
        error = None if change.group is None else change.group.error
        if change.code is not Code.REJECTED or error is None or error["code"] not in _MISTAKEN:
            return
        if self._catalogue.destinations[self.name].lookup is None:
            return
        snapshot = (await self._ledger.snapshots([change.batch]))[change.batch]
        for index in change.members:
            self._catalogue.mistaken(self.name, snapshot.tenant, snapshot.events[index].customer)

    async def settled(self, batch: int, members: Sequence[int]) -> None:
        """Let absolute values go that waited for these."""
        if self._order.settled(ref_of(batch, index) for index in members):
            await self._ledger.release(self.name, WorkState.WAITING, to_micros(self._clock.now()))
            self.wake()

    def _noted(self, reply: Reply | Fault, outcomes: Mapping[str, Outcome], began: datetime, now: datetime) -> None:
        """Learn from an answer how to go on, and write the one line that tells of the attempt."""
        told = Counter(map(_state, outcomes.values()))
        busy = self.pace.room(len(self._sending), began) == 0
        if not _TROUBLE.issuperset(told):
            self.health.last_success_at = now
            self.pace.heard(Heard.FINE, began, now, busy=busy)
        else:
            outcome = next(iter(outcomes.values()))
            self.health.last_error, self.health.last_error_at = error_item(outcome), now
            what = _HEARD.get(outcome.state, Heard.FAULT)
            if outcome.code is ErrorCode.RATE_LIMITED:
                what = Heard.THROTTLED
            self.pace.heard(what, began, now, busy=busy, retry_after=outcome.retry_after)
        log.info(
            "attempt.settled",
            destination=self.name,
            provider=self._adapter.spec.name,
            rows=len(outcomes),
            ms=round((now - began).total_seconds() * 1000),
            http_status=None if isinstance(reply, Fault) else reply.status,
            fault=reply.name if isinstance(reply, Fault) else None,
            **{state.value: told.get(state, 0) for state in State},
        )

    async def _hold(self) -> None:
        """Show everything that waits behind a refusal of the whole as blocked."""
        assert self.health.last_error is not None
        self._holding = True
        for batch, members in (await self._ledger.hold(self.name, self.health.last_error)).items():
            self._board.post(batch, self.name, members)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        self.wake()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._stranded = True
            log.error("lane.shipment_failed", destination=self.name, error=type(error).__name__)


_state = attrgetter("state")


def _size(part: Part) -> int:
    return len(part.row)


_UNSETTLED = frozenset({Code.PENDING, Code.RETRYING, Code.BLOCKED, Code.UNKNOWN})
_MISTAKEN = frozenset({ErrorCode.UNKNOWN_CUSTOMER, ErrorCode.UNKNOWN_SUBSCRIPTION})
_HEARD = {State.BLOCKED: Heard.REFUSED}
_TROUBLE = frozenset({State.NOT_STORED, State.UNKNOWN, State.BLOCKED})
