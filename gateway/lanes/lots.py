"""Deliveries on their way: many of one piece of work at once, or one by one where they differ."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import repeat

import msgspec

from canonical_schema import ErrorItem
from gateway.lanes.verdict import Next
from gateway.ledger import LOST_ANSWER, Change, Code, Group, Part, Rendered, Sheet, Work, WorkState, some_of
from gateway.times import to_micros

__all__ = ["FRAME", "STATES", "Item", "Lot", "closing", "deadline_of", "kept", "moved", "packed", "regroup", "shelved"]

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


@dataclass(slots=True)
class Lot:
    """Deliveries of one piece of work that leave in one request."""

    work: int
    batch: int
    members: list[int]
    group: Group
    """As it was when they were taken, with the attempts and the doubt of this way added."""
    parts: Rendered
    """In the order of `members`."""
    deadlines: Sequence[int | None] = ()
    """In the order of `members`, where there is an acceptance window: when it closes."""

    @property
    def count(self) -> int:
        """How many rows have to be sent."""
        return len(self.members) if isinstance(self.parts, Sheet) else len(self.rows())

    @property
    def size(self) -> int:
        """Bytes of the rows that have to be sent, each with what parts it from the next."""
        return self.parts.size if isinstance(self.parts, Sheet) else sum(len(row) + 1 for row in self.rows())

    def rows(self) -> Sequence[bytes]:
        """Return the rows that have to be sent."""
        if isinstance(self.parts, Sheet):
            return self.parts.rows
        return [part.row for parts in self.parts for part in parts if part.code is Code.PENDING]

    def items(self) -> list[Item]:
        """Return the deliveries one by one."""
        return [
            Item(self.work, self.batch, index, self.group, parts, deadline)
            for index, parts, deadline in zip(self.members, self.parts, self.deadlines or repeat(None), strict=False)
        ]

    def slice(self, begin: int, end: int) -> "Lot":
        """Return some of them that stand one after the other."""
        if end - begin == len(self.members):
            return self
        return Lot(
            self.work, self.batch, self.members[begin:end], self.group, self.parts[begin:end], self.deadlines[begin:end]
        )


def packed(lots: Sequence[Lot], max_rows: int, max_bytes: int) -> list[list[Lot]]:
    """Fill requests up to the limits, in order; the rows of one event are never parted."""
    requests: list[list[Lot]] = []
    count = size = 0
    most = max_bytes - FRAME
    for lot in lots:
        begin, end = 0, len(lot.members)
        while isinstance(lot.parts, Sheet) and begin < end:  # as many as there is room for, where bytes allow it
            if not requests or count >= max_rows:
                requests.append([])
                count = size = 0
            some = lot.slice(begin, min(end, begin + max_rows - count))
            if size + some.size > most:
                if not count:  # nor are they the first of another request
                    requests.pop()
                    count = max_rows
                break
            requests[-1].append(some)
            count, size, begin = count + some.count, size + some.size, begin + some.count
        if begin == end:
            continue
        rest, begin = lot.slice(begin, end), 0
        for place, (more, bytes_) in enumerate(_sizes(rest)):
            if not requests or count + more > max_rows or size + bytes_ > most:
                if place > begin:
                    requests[-1].append(rest.slice(begin, place))
                requests.append([])
                begin, count, size = place, 0, 0
            count, size = count + more, size + bytes_
        requests[-1].append(rest.slice(begin, len(rest.members)))
    return requests


def _sizes(lot: Lot) -> Iterable[tuple[int, int]]:
    """Return rows and bytes of each delivery."""
    if isinstance(lot.parts, Sheet):
        return [(1, len(row) + 1) for row in lot.parts.rows]
    waiting = [[part.row for part in parts if part.code is Code.PENDING] for parts in lot.parts]
    return [(len(rows), sum(map(len, rows)) + len(rows)) for rows in waiting]


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
    parts = None if work.parts is None else some_of(work.parts, places)
    if following.code is Code.UNKNOWN and parts is not None:
        parts = list(parts)
        for part in (part for rows in parts for part in rows if part.code is Code.PENDING):
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


def shelved(work: Work, error: ErrorItem, now: datetime) -> Change:
    """Return what becomes of what was being sent to a destination that is there no more: it is held, in doubt."""
    following = Next(code=Code.BLOCKED, doubt=LOST_ANSWER, error=error)
    before = msgspec.structs.replace(work.group, attempts=work.group.attempts + 1)
    return Change(
        work=work.id,
        batch=work.batch,
        destination=work.destination,
        members=work.members,
        code=Code.BLOCKED,
        group=kept(before, following, WorkState.HELD, now),
        parts=work.parts,
    )


def closing(group: Group, deadlines: Iterable[int | None]) -> None:
    """Give a group the deadline of its own members; what would be sent again after it is looked at then."""
    group.deadline = min((one for one in deadlines if one is not None), default=None)
    if group.deadline is not None and group.state is WorkState.READY:
        group.due = min(group.due, group.deadline)


STATES = {
    Code.PENDING: WorkState.READY,
    Code.RETRYING: WorkState.READY,
    Code.BLOCKED: WorkState.HELD,
    Code.UNKNOWN: WorkState.UNKNOWN,
    Code.REJECTED: WorkState.REJECTED,
    Code.DEAD: WorkState.DEAD,
}


_LOOKED_AT = {**STATES, Code.PENDING: WorkState.WAITING, Code.BLOCKED: WorkState.BLOCKED}
