"""Requests on their way: sent, judged, and written down."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from operator import attrgetter
from typing import Any, cast

import msgspec

from adapters import AnyAdapter, Fault, Outcome, Reply, Request, Sent, State, settle, took_all
from adapters._values import JsonValue
from canonical_schema import ErrorItem
from gateway.lanes.joining import Joined, Write
from gateway.lanes.lots import STATES, Item, Lot, closing, kept, regroup
from gateway.lanes.pace import Pace
from gateway.lanes.slots import Slots
from gateway.lanes.verdict import Next, combined, error_item
from gateway.ledger import NO_DOUBT, REFUSED_BATCH, AttemptRow, Change, Code, Group, Part, Sheet
from gateway.times import Clock, to_micros
from gateway.transport import Transport

__all__ = ["Judge", "Noted", "Shipper"]

Row = tuple[Item, Part]
Judge = Callable[[Outcome, Group, datetime], Next]
Noted = Callable[[Reply | Fault, Mapping[State, int], Outcome, datetime, datetime], None]
"""Told of each answer: how many rows it says what of, what it says of the first, when the request left, and now."""


class Shipper:
    """Sends shipments of one destination, and settles each answer as it comes."""

    def __init__(
        self,
        destination: str,
        adapter: AnyAdapter,
        transport: Transport,
        clock: Clock,
        *,
        judge: Judge,
        write: Write,
        noted: Noted,
        paused: Callable[[datetime], datetime | None],
        stopped: asyncio.Event,
        pace: Pace,
        several: bool,
        wake: Callable[[], None],
    ) -> None:
        """`several`: requests share one intent to send, and take their turns one by one. `wake`: there is room again.

        `paused` tells until when nothing may leave, `None` where it may; `stopped`, that nothing more leaves.
        """
        self._destination = destination
        self._adapter = adapter
        self._transport = transport
        self._clock = clock
        self.slots = Slots(lambda: pace.most)
        self._judge = judge
        self._write: Write = Joined(write) if several else write
        self._noted = noted
        self._paused = paused
        self._stopped = stopped
        self._pace = pace
        self._several = several
        self._wake = wake
        self.out = 0
        """Requests that were intended and have not ended."""

    async def ship(self, requests: Sequence[Sequence[Lot]]) -> None:
        """Send what was intended. Returns when every delivery is settled or scheduled again."""
        single = self._adapter.door.max_rows == 1
        sending: list[Coroutine[Any, Any, None]] = []
        for lots in requests:
            if single and not isinstance(lots[0].parts, Sheet):  # an event's rows, a request each
                sending += [self._go_on([[row]]) for row in _rows(lots)]
            else:
                sending.append(self._deliver(lots))
        # All of them end before this does, whatever becomes of one: what is still in flight is not in doubt.
        ended = await asyncio.gather(*map(self._counted, sending), return_exceptions=True)
        for failed in filter(None, ended):
            raise failed

    async def _counted(self, sending: Awaitable[None]) -> None:
        self.out += 1
        try:
            await sending
        finally:
            self.out -= 1
            if self._several and self.out < self._pace.most:  # the next are prepared while the last are on their way
                self._wake()

    async def _deliver(self, lots: Sequence[Lot]) -> None:
        """Send a request, and at once again what its answer leaves to be sent at once."""
        await self._go_on(await self._first(lots))

    async def _go_on(self, waiting: list[Sequence[Row]]) -> None:
        """Send rows request by request, until their answers leave nothing to be sent at once."""
        while waiting:
            waiting.extend(reversed(await self._again(waiting.pop())))

    async def _first(self, lots: Sequence[Lot]) -> list[Sequence[Row]]:
        """Send whole lots; return what goes again at once. Where every row was taken, none is looked at by itself."""
        count = sum(lot.count for lot in lots)
        sheets = [lot.parts for lot in lots if isinstance(lot.parts, Sheet)]
        async with self.slots:
            until, began = await self._leave(count if self._several else 0)
            if until is not None:
                await self._write(self._unsent(_rows(lots), began, until), [])
                return []
            for lot in lots:
                lot.group = msgspec.structs.replace(lot.group, attempts=lot.group.attempts + 1)
            reply = await self._transport.send(self._framed(lots, sheets))
        now = self._clock.now()
        theirs = None
        if len(sheets) == len(lots) and isinstance(reply, Reply):
            keys = [key for sheet in sheets for key in sheet.keys]
            theirs = took_all(self._adapter.door, reply, keys, hide=self._adapter.secrets)
        if theirs is None or isinstance(reply, Fault):
            return await self._sorted(_rows(lots), reply, began, now)
        taken = Outcome(state=State.ACCEPTED, status=reply.status)
        self._noted(reply, {State.ACCEPTED: count}, taken, began, now)
        await self._write(*self._taken(lots, taken, theirs, reply, began, now))
        return []

    def _framed(self, lots: Sequence[Lot], sheets: Sequence[Sheet]) -> Request:
        lines = [sheet.lines for sheet in sheets]
        own = type(self._adapter).request is not AnyAdapter.request  # it frames rows in a way of its own
        if own or len(lines) < len(lots) or None in lines:
            return self._adapter.request([row for lot in lots for row in lot.rows()])
        return self._adapter.framed(b"\n".join(filter(None, lines)).replace(b"\n", b","))

    async def _again(self, rows: Sequence[Row]) -> list[Sequence[Row]]:
        """Send some rows of what was sent before; return those that go again at once."""
        items = _items(rows)
        async with self.slots:
            until, began = await self._leave(len(rows))
            if until is not None:
                await self._write(self._unsent(rows, began, until), [])
                return []
            regroup(items, lambda group: msgspec.structs.replace(group, attempts=group.attempts + 1))
            reply = await self._transport.send(self._adapter.request([part.row for _, part in rows]))
        return await self._sorted(rows, reply, began, self._clock.now())

    async def _sorted(
        self, rows: Sequence[Row], reply: Reply | Fault, began: datetime, now: datetime
    ) -> list[Sequence[Row]]:
        """Judge an answer row by row and write it down; return the rows that go again at once."""
        items = _items(rows)
        sent = [Sent(key=part.key, row=_Undecoded(part.row)) for _, part in rows]
        outcomes = settle(self._adapter.door, reply, sent, now=now, hide=self._adapter.secrets)
        told = Counter(map(_state, outcomes.values()))
        self._noted(reply, told, next(iter(outcomes.values())), began, now)
        if told.keys() == {State.BLOCKED}:  # spends no attempt
            regroup(items, lambda group: msgspec.structs.replace(group, attempts=group.attempts - 1))

        # A batch refused as a whole is bisected; the peers of a named culprit go again at once.
        split = [row for row in rows if outcomes[row[1].key].state is State.REFUSED]
        culprit = State.REJECTED in told
        again = [row for row in rows if culprit and outcomes[row[1].key].state is State.NOT_STORED]
        waiting = {part.key for _, part in (*split, *again)}
        for item, part in rows:
            outcome = outcomes[part.key]
            if part.key in waiting:
                doubt = max(item.group.doubt, REFUSED_BATCH if outcome.may_be_stored else NO_DOUBT)
                item.group = msgspec.structs.replace(item.group, doubt=doubt)
            else:
                item.verdicts[part.key] = self._judge(outcome, item.group, now)
        await self._write(self._changes(items, now), self._attempts(rows, outcomes, reply, began, now))
        middle = len(split) // 2
        return [some for some in (split[:middle], split[middle:], again) if some]

    def _taken(
        self,
        lots: Sequence[Lot],
        taken: Outcome,
        theirs: Sequence[str | None],
        reply: Reply,
        began: datetime,
        now: datetime,
    ) -> tuple[list[Change], list[AttemptRow]]:
        """Return what becomes of lots that the provider took as a whole, and what the request was to each batch.

        The same as `_changes` and `_attempts`, for what nearly every request is: nothing is kept of a row but its
        status and the provider's id.
        """
        changes: list[Change] = []
        seen: dict[int, tuple[list[int], list[str | None]]] = {}
        at = 0
        for lot in lots:
            changes.append(
                Change(
                    work=lot.work,
                    batch=lot.batch,
                    destination=self._destination,
                    members=lot.members,
                    code=self._judge(taken, lot.group, now).code,
                    group=None,
                )
            )
            members, ids = seen.setdefault(lot.batch, ([], []))
            members += lot.members
            ids += theirs[at : at + len(lot.members)]
            at += len(lot.members)
        outcome = taken.state.value, None
        attempts = [
            self._attempt(batch, members, reply, began, now, outcome, {}, _named(members, ids))
            for batch, (members, ids) in seen.items()
        ]
        return changes, attempts

    def _attempt(
        self,
        batch: int,
        members: list[int],
        reply: Reply | Fault,
        began: datetime,
        now: datetime,
        most: tuple[str, ErrorItem | None],
        others: dict[int, tuple[str, ErrorItem | None]],
        named: dict[int, str],
    ) -> AttemptRow:
        return AttemptRow(
            batch=batch,
            destination=self._destination,
            members=members,
            at=to_micros(began),
            duration_ms=round((now - began).total_seconds() * 1000),
            http_status=None if isinstance(reply, Fault) else reply.status,
            outcome=most[0],
            error=most[1],
            others=others,
            provider_event_ids=named,
        )

    async def _leave(self, rows: int) -> tuple[datetime | None, datetime]:
        """Wait until a request of so many rows may leave, and count it; none: that was done before.

        Returns until when nothing may leave, `None` where it may, and when that was.
        """
        while (until := self._paused(now := self._clock.now())) is None and rows:
            if not (wait := await self._pace.take(rows, now)):
                until = self._paused(now := self._clock.now())  # others may have heard something meanwhile
                break
            await self._clock.wait(self._stopped, now + wait)
        return until, now

    def _unsent(self, rows: Sequence[Row], now: datetime, until: datetime) -> list[Change]:
        """Return what becomes of rows that never left: nothing but that they wait."""
        for item, part in rows:
            group = item.group
            code = Code.RETRYING if group.attempts else Code.PENDING
            item.verdicts[part.key] = Next(code=code, doubt=group.doubt, wait=until - now, error=group.error)
        return self._changes(_items(rows), now)

    def _changes(self, items: Iterable[Item], now: datetime) -> list[Change]:
        """Return what becomes of the deliveries whose every row has a verdict; alike ones share a change."""
        changes: dict[tuple[object, ...], Change] = {}
        deadlines: dict[int, list[int | None]] = {}
        rendered: dict[int, list[list[Part]]] = {}
        for item in items:
            if any(part.key not in item.verdicts for part in item.rows()):
                continue
            following = combined(item.parts, item.verdicts)
            item.verdicts = {}
            state = STATES.get(following.code)
            # What certainly never arrived may be rendered anew.
            untouched = following.doubt == NO_DOUBT and all(part.code is Code.PENDING for part in item.parts)
            anew = untouched and following.code in {Code.BLOCKED, Code.PENDING}
            keep = (state is not None and not anew) or len(item.parts) > 1
            why = msgspec.json.encode(following.error)
            key = (item.work, following.code, why, following.doubt, item.group.attempts, item.group.sent, keep)
            change = changes.get(key)
            if change is None:
                change = changes[key] = Change(
                    work=item.work,
                    batch=item.batch,
                    destination=self._destination,
                    members=[],
                    code=following.code,
                    group=None if state is None else kept(item.group, following, state, now),
                )
                if keep:
                    change.parts = rendered.setdefault(id(change), [])
            change.members.append(item.index)
            deadlines.setdefault(id(change), []).append(item.deadline)
            rendered.setdefault(id(change), []).append(item.parts)
        for change in changes.values():
            if change.group is not None and change.group.window is not None:
                closing(change.group, deadlines[id(change)])
        return list(changes.values())

    def _attempts(
        self, rows: Sequence[Row], outcomes: Mapping[str, Outcome], reply: Reply | Fault, began: datetime, now: datetime
    ) -> list[AttemptRow]:
        """Return what this request was to each batch that it carried rows of."""
        by_batch: dict[int, dict[int, Outcome]] = {}
        named: dict[int, dict[int, str]] = {}
        for item, part in rows:
            outcome = outcomes[part.key]
            seen = by_batch.setdefault(item.batch, {})
            if item.index not in seen or outcome.code is not None:
                seen[item.index] = outcome
            if outcome.provider_event_id is not None and len(item.parts) == 1:
                named.setdefault(item.batch, {})[item.index] = outcome.provider_event_id
        made: list[AttemptRow] = []
        for batch, seen in by_batch.items():
            said = {index: (outcome.state.value, error_item(outcome)) for index, outcome in seen.items()}
            (usual, _), *_ = Counter(map(_plainly, said.values())).most_common(1)
            most = next(what for what in said.values() if _plainly(what) == usual)
            others = {index: what for index, what in said.items() if _plainly(what) != usual}
            made.append(self._attempt(batch, list(seen), reply, began, now, most, others, named.get(batch, {})))
        return made


_state = attrgetter("state")


class _Undecoded(Mapping[str, JsonValue]):
    """A row as it was sent, decoded only where an answer speaks of it."""

    def __init__(self, row: bytes) -> None:
        self._row = row

    @cached_property
    def _members(self) -> Mapping[str, JsonValue]:
        return msgspec.json.decode(self._row)

    def __getitem__(self, name: str) -> JsonValue:
        return self._members[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


def _named(members: Sequence[int], ids: Sequence[str | None]) -> dict[int, str]:
    """Return the provider's ids by member, as far as it gave any."""
    if None in ids:
        return {index: one for index, one in zip(members, ids, strict=False) if one is not None}
    return dict(zip(members, cast("Sequence[str]", ids), strict=False))


def _plainly(what: tuple[str, ErrorItem | None]) -> tuple[str, bytes]:
    state, error = what
    return state, msgspec.json.encode(error)


def _rows(lots: Iterable[Lot]) -> list[Row]:
    """Return the rows of lots one by one."""
    return [(item, part) for lot in lots for item in lot.items() for part in item.rows()]


def _items(rows: Sequence[Row]) -> list[Item]:
    return list({id(item): item for item, _ in rows}.values())
