"""Deliveries on their way: packed into requests, sent, judged row by row, and written down."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

import msgspec

from adapters import AnyAdapter, Fault, Outcome, Reply, Sent, State, settle
from adapters._spec import JsonValue
from canonical_schema import ErrorItem
from gateway.ledger import AttemptRow, Change, Code, Group, Part, WorkState
from gateway.pace import Pace
from gateway.times import Clock, to_micros
from gateway.transport import Transport
from gateway.verdict import Next, combined, error_item

__all__ = ["Item", "Shipper", "kept", "packed"]

FRAME = 64
"""Bytes kept free for what stands around the rows of a request."""


@dataclass(slots=True)
class Item:
    """One delivery on its way."""

    work: int
    batch: int
    index: int
    group: Group
    """As it was when the delivery was taken, with the attempts and the doubt of this way added."""
    parts: list[Part]
    verdicts: dict[str, Next] = field(default_factory=dict[str, Next])
    """By key: what the rows that were answered become."""

    def rows(self) -> list[Part]:
        """Return the rows that still have to be sent."""
        return [part for part in self.parts if part.code is Code.PENDING]


Row = tuple[Item, Part]


def packed(items: Sequence[Item], max_rows: int, max_bytes: int) -> list[list[Item]]:
    """Fill requests up to the limits, in order; the rows of one event are never parted."""
    shipments: list[list[Item]] = []
    count = size = 0
    for item in items:
        rows = item.rows()
        more = sum(len(row.row) + 1 for row in rows)
        if not shipments or count + len(rows) > max_rows or size + more > max_bytes - FRAME:
            shipments.append([])
            count = size = 0
        shipments[-1].append(item)
        count += len(rows)
        size += more
    return shipments


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
    )


_STATES = {
    Code.RETRYING: WorkState.READY,
    Code.BLOCKED: WorkState.HELD,
    Code.UNKNOWN: WorkState.UNKNOWN,
    Code.REJECTED: WorkState.REJECTED,
    Code.DEAD: WorkState.DEAD,
}


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
        judge: Callable[[Outcome, Group, datetime], Next],
        write: Callable[[Sequence[Change], Sequence[AttemptRow]], Awaitable[None]],
        noted: Callable[[Reply | Fault, Mapping[str, Outcome], datetime, datetime], None],
        pace: Pace,
    ) -> None:
        self._destination = destination
        self._adapter = adapter
        self._transport = transport
        self._clock = clock
        self._slots = asyncio.Semaphore(max_in_flight)
        self._judge = judge
        self._write = write
        self._noted = noted
        self._pace = pace

    async def ship(self, items: Sequence[Item]) -> None:
        """Send what was intended. Returns when every delivery is settled or scheduled again."""
        rows = [(item, part) for item in items for part in item.rows()]
        if self._adapter.door.max_rows == 1:
            await asyncio.gather(*(self._send([row]) for row in rows))
        else:
            await self._send(rows, counted=True)

    async def _send(self, rows: Sequence[Row], *, counted: bool = False) -> None:
        """Send rows as one request. `counted`: the rate limits know of it."""
        items = _items(rows)
        for item in items:
            item.group = msgspec.structs.replace(item.group, attempts=item.group.attempts + 1)
        async with self._slots:
            if not counted:
                await self._turn(len(rows))
            began = self._clock.now()
            reply = await self._transport.send(self._adapter.request([part.row for _, part in rows]))
        now = self._clock.now()
        sent = [Sent(key=part.key, row=_Undecoded(part.row)) for _, part in rows]
        outcomes = settle(self._adapter.door, reply, sent, now=now, hide=self._adapter.secrets)
        self._noted(reply, outcomes, began, now)

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
        if split:
            middle = len(split) // 2
            await self._send(split[:middle])
            await self._send(split[middle:])
        if again:
            await self._send(again)

    async def _turn(self, rows: int) -> None:
        """Wait until the vendor's rate limits have room for a request, and count it."""
        while wait := self._pace.wait(rows, now := self._clock.now()):
            await self._clock.wait(asyncio.Event(), now + wait)
        self._pace.spend(rows)

    def _changes(self, items: Iterable[Item], now: datetime) -> list[Change]:
        """Return what becomes of the deliveries whose every row has a verdict; alike ones share a change."""
        changes: dict[tuple[object, ...], Change] = {}
        for item in items:
            if any(part.key not in item.verdicts for part in item.rows()):
                continue
            following = combined(item.parts, item.verdicts)
            item.verdicts = {}
            state = _STATES.get(following.code)
            # Refused credentials spend no attempt, and what certainly never arrived may be rendered anew.
            spent = item.group.attempts - (state is WorkState.HELD)
            untouched = following.doubt == 0 and all(part.code is Code.PENDING for part in item.parts)
            anew = state is WorkState.HELD and untouched
            keep = (state is not None and not anew) or len(item.parts) > 1
            why = following.error["message"] if following.error else ""
            key = (item.work, following.code, why, item.group.doubt, following.doubt, spent, item.group.sent, keep)
            change = changes.get(key)
            if change is None:
                group = msgspec.structs.replace(item.group, attempts=spent)
                change = changes[key] = Change(
                    work=item.work,
                    batch=item.batch,
                    destination=self._destination,
                    members=[],
                    code=following.code,
                    group=None if state is None else kept(group, following, state, now),
                    parts=[] if keep else None,
                )
            change.members.append(item.index)
            if change.parts is not None:
                change.parts.append(item.parts)
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
            made.append(
                AttemptRow(
                    batch=batch,
                    destination=self._destination,
                    members=list(seen),
                    at=to_micros(began),
                    duration_ms=round((now - began).total_seconds() * 1000),
                    http_status=None if isinstance(reply, Fault) else reply.status,
                    outcome=most[0],
                    error=most[1],
                    others={index: what for index, what in said.items() if _plainly(what) != usual},
                    provider_event_ids=named.get(batch, {}),
                )
            )
        return made


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


def _plainly(what: tuple[str, ErrorItem | None]) -> tuple[str, str]:
    state, error = what
    return state, "" if error is None else f"{error['code']} {error['message']}"


def _items(rows: Sequence[Row]) -> list[Item]:
    return list({id(item): item for item, _ in rows}.values())
