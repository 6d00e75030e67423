"""Deliveries on their way: packed into requests, sent, judged row by row, and written down."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from operator import attrgetter

import msgspec

from adapters import AnyAdapter, Fault, Outcome, Reply, Sent, State, settle
from adapters._spec import JsonValue
from canonical_schema import ErrorItem
from gateway.joining import Joined, Write
from gateway.ledger import AttemptRow, Change, Code, Group, Part, Work, WorkState
from gateway.pace import Pace
from gateway.times import Clock, to_micros
from gateway.transport import Transport
from gateway.verdict import Next, combined, error_item

__all__ = ["Item", "Judge", "Shipper", "closing", "deadline_of", "kept", "moved", "packed", "regroup"]

FRAME = 64
"""Bytes kept free for what stands around the rows of a request."""


def _no_verdicts() -> dict[str, Next]:
    return {}  # `dict[str, Next]()` takes several times as long


@dataclass(slots=True)
class Item:
    """One delivery on its way."""

    work: int
    batch: int
    index: int
    group: Group
    """As it was when the delivery was taken, with the attempts and the doubt of this way added."""
    parts: list[Part]
    deadline: int | None = None
    """When the acceptance window closes for this one."""
    verdicts: dict[str, Next] = field(default_factory=_no_verdicts)
    """By key: what the rows that were answered become."""

    def rows(self) -> list[Part]:
        """Return the rows that still have to be sent."""
        return [part for part in self.parts if part.code is Code.PENDING]


Row = tuple[Item, Part]
Judge = Callable[[Outcome, Group, datetime], Next]


def packed(items: Sequence[Item], max_rows: int, max_bytes: int) -> list[list[Item]]:
    """Fill requests up to the limits, in order; the rows of one event are never parted."""
    shipments: list[list[Item]] = []
    count = size = 0
    for item in items:
        parts = item.parts
        if len(parts) == 1 and parts[0].code is Code.PENDING:
            rows, more = 1, len(parts[0].row) + 1
        else:
            rows = len(waiting := item.rows())
            more = sum(len(row.row) + 1 for row in waiting)
        if not shipments or count + rows > max_rows or size + more > max_bytes - FRAME:
            shipments.append([])
            count = size = 0
        shipments[-1].append(item)
        count += rows
        size += more
    return shipments


def regroup(items: Iterable[Item], other: Callable[[Group], Group]) -> None:
    """Give deliveries another group in the place of theirs; those that shared one go on sharing."""
    known: dict[int, tuple[Group, Group]] = {}  # with the one before, whose number must not be given anew
    for item in items:
        pair = known.get(id(item.group))
        if pair is None:
            pair = known[id(item.group)] = (item.group, other(item.group))
        item.group = pair[1]


def kept(group: Group, following: Next, state: WorkState, now: datetime) -> Group:
    """Return what stays of a delivery that is not done."""
    return Group(
        state=state,
        due=to_micros(now if following.wait is None else now + following.wait),
        attempts=group.attempts,
        doubt=following.doubt,
        since=group.since,
        sent=group.sent if following.doubt else None,
        error=following.error,
        window=group.window,
        deadline=group.deadline,
    )


def deadline_of(work: Work, place: int) -> int | None:
    """Return when the window that was frozen at the door closes for one member."""
    if work.group.window is None:
        return None
    when = work.events[place].timestamp
    return (work.received_at(place) if when is None else to_micros(when)) + work.group.window


def moved(work: Work, places: Sequence[int], following: Next, now: datetime) -> Change:
    """Return what becomes of members that were looked at and not sent."""
    state = _LOOKED_AT.get(following.code)
    parts = None if work.parts is None else [work.parts[place] for place in places]
    if following.code is Code.UNKNOWN:
        for part in (part for rows in parts or () for part in rows if part.code is Code.PENDING):
            part.code, part.error = Code.UNKNOWN, following.error
    change = Change(
        work=work.id,
        batch=work.batch,
        destination=work.destination,
        members=[work.members[place] for place in places],
        code=following.code,
        group=None if state is None else kept(work.group, following, state, now),
        parts=parts,
        waiting=work.group.state is not WorkState.SENDING,
    )
    if change.group is not None and change.group.window is not None:
        closing(change.group, (deadline_of(work, place) for place in places))
    return change


def closing(group: Group, deadlines: Iterable[int | None]) -> None:
    """Give a group the deadline of its own members; what would be sent again after it is looked at then."""
    group.deadline = min((one for one in deadlines if one is not None), default=None)
    if group.deadline is not None and group.state is WorkState.READY:
        group.due = min(group.due, group.deadline)


_STATES = {
    Code.PENDING: WorkState.READY,
    Code.RETRYING: WorkState.READY,
    Code.BLOCKED: WorkState.HELD,
    Code.UNKNOWN: WorkState.UNKNOWN,
    Code.REJECTED: WorkState.REJECTED,
    Code.DEAD: WorkState.DEAD,
}


_LOOKED_AT = {**_STATES, Code.PENDING: WorkState.WAITING, Code.BLOCKED: WorkState.BLOCKED}


class Shipper:
    """Sends shipments of one destination, and settles each answer as it comes."""

    def __init__(
        self,
        destination: str,
        adapter: AnyAdapter,
        transport: Transport,
        clock: Clock,
        *,
        max_in_flight: int,
        judge: Judge,
        write: Write,
        noted: Callable[[Reply | Fault, Mapping[str, Outcome], datetime, datetime], None],
        paused: Callable[[datetime], datetime | None],
        pace: Pace,
    ) -> None:
        """`paused` tells until when nothing may leave, `None` where it may."""
        self._destination = destination
        self._adapter = adapter
        self._transport = transport
        self._clock = clock
        self._slots = asyncio.Semaphore(max_in_flight)
        self._judge = judge
        self._write: Write = write if adapter.door.max_rows > 1 else Joined(write)
        self._noted = noted
        self._paused = paused
        self._pace = pace

    async def ship(self, items: Sequence[Item]) -> None:
        """Send what was intended. Returns when every delivery is settled or scheduled again."""
        rows = [(item, part) for item in items for part in item.rows()]
        if self._adapter.door.max_rows > 1:
            await self._deliver(rows, counted=True)
            return
        # All of them end before this does, whatever becomes of one: what is still in flight is not in doubt.
        ended = await asyncio.gather(*(self._deliver([row]) for row in rows), return_exceptions=True)
        for failed in filter(None, ended):
            raise failed

    async def _deliver(self, rows: Sequence[Row], *, counted: bool = False) -> None:
        """Send rows, and at once again what their answers leave to be sent at once."""
        waiting = [rows]
        while waiting:
            waiting.extend(reversed(await self._send(waiting.pop(), counted=counted)))
            counted = False

    async def _send(self, rows: Sequence[Row], *, counted: bool) -> list[Sequence[Row]]:
        """Send rows as one request; return those that go again at once. `counted`: the rate limits know of it.

        While the lane pauses nothing leaves: the rows go back as they were.
        """
        items = _items(rows)
        async with self._slots:
            until = await self._turn(0 if counted else len(rows))
            began = self._clock.now()
            if until is not None:
                await self._write(self._unsent(rows, began, until), [])
                return []
            regroup(items, lambda group: msgspec.structs.replace(group, attempts=group.attempts + 1))
            reply = await self._transport.send(self._adapter.request([part.row for _, part in rows]))
        now = self._clock.now()
        sent = [Sent(key=part.key, row=_Undecoded(part.row)) for _, part in rows]
        outcomes = settle(self._adapter.door, reply, sent, now=now, hide=self._adapter.secrets)
        self._noted(reply, outcomes, began, now)
        states = set(map(_state, outcomes.values()))
        if states <= _DONE and all(len(item.parts) == 1 for item in items):
            await self._write(*self._done(rows, outcomes, reply, began, now))
            return []
        if states == {State.BLOCKED}:  # spends no attempt
            regroup(items, lambda group: msgspec.structs.replace(group, attempts=group.attempts - 1))

        # A batch refused as a whole is bisected; the peers of a named culprit go again at once.
        split = [row for row in rows if outcomes[row[1].key].state is State.REFUSED]
        culprit = any(outcome.state is State.REJECTED for outcome in outcomes.values())
        again = [row for row in rows if culprit and outcomes[row[1].key].state is State.NOT_STORED]
        waiting = {part.key for _, part in (*split, *again)}
        for item, part in rows:
            outcome = outcomes[part.key]
            if part.key in waiting:
                doubt = max(item.group.doubt, int(outcome.may_be_stored))
                item.group = msgspec.structs.replace(item.group, doubt=doubt)
            else:
                item.verdicts[part.key] = self._judge(outcome, item.group, now)
        await self._write(self._changes(items, now), self._attempts(rows, outcomes, reply, began, now))
        middle = len(split) // 2
        return [some for some in (split[:middle], split[middle:], again) if some]

    def _done(
        self, rows: Sequence[Row], outcomes: Mapping[str, Outcome], reply: Reply | Fault, began: datetime, now: datetime
    ) -> tuple[list[Change], list[AttemptRow]]:
        """Return what becomes of single rows that the provider has, every one of them, and what the request was.

        The same as `_changes` and `_attempts`, for what nearly every request is: nothing is kept of a row but its
        status, and that is one for all that were in the same doubt.
        """
        codes: dict[tuple[State, int], Code] = {}
        changes: dict[tuple[int, Code], Change] = {}
        seen: dict[int, tuple[list[int], list[State], dict[int, str]]] = {}
        for item, part in rows:
            outcome, index = outcomes[part.key], item.index
            state, group = outcome.state, item.group
            code = codes.get((state, id(group)))
            if code is None:
                code = codes[state, id(group)] = self._judge(outcome, group, now).code
            change = changes.get((item.work, code))
            if change is None:
                change = changes[item.work, code] = Change(
                    work=item.work, batch=item.batch, destination=self._destination, members=[], code=code, group=None
                )
                seen.setdefault(item.batch, ([], [], {}))
            change.members.append(index)
            members, said, named = seen[item.batch]
            members.append(index)
            said.append(state)
            if outcome.provider_event_id is not None:
                named[index] = outcome.provider_event_id
        attempts: list[AttemptRow] = []
        for batch, (members, said, named) in seen.items():
            ((usual, times),) = Counter(said).most_common(1)
            odd = () if times == len(said) else zip(members, said, strict=True)
            others: dict[int, tuple[str, ErrorItem | None]] = {
                index: (state.value, None) for index, state in odd if state is not usual
            }
            attempts.append(self._attempt(batch, members, reply, began, now, (usual.value, None), others, named))
        return list(changes.values()), attempts

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

    async def _turn(self, rows: int) -> datetime | None:
        """Wait until the vendor's rate limits have room for a request, and count it; for none there always is.

        Returns until when nothing may leave, where the lane pauses.
        """
        while (until := self._paused(now := self._clock.now())) is None and rows:
            if not (wait := await self._pace.take(rows, now)):
                return self._paused(self._clock.now())  # others may have heard something meanwhile
            await self._clock.wait(asyncio.Event(), now + wait)
        return until

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
        for item in items:
            if any(part.key not in item.verdicts for part in item.rows()):
                continue
            following = combined(item.parts, item.verdicts)
            item.verdicts = {}
            state = _STATES.get(following.code)
            # What certainly never arrived may be rendered anew.
            untouched = following.doubt == 0 and all(part.code is Code.PENDING for part in item.parts)
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
                    parts=[] if keep else None,
                )
            change.members.append(item.index)
            deadlines.setdefault(id(change), []).append(item.deadline)
            if change.parts is not None:
                change.parts.append(item.parts)
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


_DONE = frozenset({State.ACCEPTED, State.DUPLICATE})
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


def _plainly(what: tuple[str, ErrorItem | None]) -> tuple[str, bytes]:
    state, error = what
    return state, msgspec.json.encode(error)


def _items(rows: Sequence[Row]) -> list[Item]:
    return list({id(item): item for item, _ in rows}.values())
