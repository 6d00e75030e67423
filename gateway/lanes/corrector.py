"""Carries out corrections at one destination: takes back what never left, and renders what goes."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime

import msgspec

from adapters import AnyAdapter, TakeBack
from canonical_schema import ErrorCode, ErrorItem, Event
from gateway.catalogue import Catalogue
from gateway.chain import LedgerReader, Stand, correction_id, has_corrections
from gateway.lanes.correcting import SOON, Rows, Situation, Waits, named_since, needs_rows, rendered, situation
from gateway.lanes.rendering import Turned
from gateway.lanes.restored import Restored
from gateway.lanes.verdict import doubtful
from gateway.ledger import AttemptRow, Change, Code, Ledger, Moved, Part, Work, WorkState, ref_of
from gateway.times import from_micros, to_micros

__all__ = ["Corrector", "withdrawing"]

Write = Callable[[Sequence[Change], Sequence[AttemptRow]], Awaitable[None]]

AT_A_TURN = 50
"""Corrections that one destination decides before others have a turn."""

_HOLDS = frozenset(WorkState) - {WorkState.SENDING, WorkState.UNKNOWN}


def withdrawing(adapter: AnyAdapter) -> AnyAdapter | None:
    """Return the adapter by the door that takes whole rows back, where it has one."""
    way = adapter.door.corrections
    return adapter.through(way.door) if isinstance(way, TakeBack) else None


class Corrector:
    """One destination's corrections. Called between the steps of its lane: nothing is being intended meanwhile.

    What was done is in the ledger after each call, and every call begins from there: a process that ends between
    two of them leaves deliveries that the next one decides again.
    """

    def __init__(
        self, destination: str, catalogue: Catalogue, ledger: Ledger, write: Write, restored: Restored
    ) -> None:
        self._destination = destination
        self._restored = restored
        self._catalogue = catalogue
        self._ledger = ledger
        self._write = write
        known = catalogue.destinations.get(destination)
        self._withdraws = known is not None and isinstance(known.adapter.door.corrections, TakeBack)

    def withdraws(self, work: Work) -> bool:
        """Return whether the rows of a piece of work go to the door that takes whole rows back."""
        return self._withdraws and work.parts is not None and _void(work.events[0])

    def once(self, work: Work) -> bool:
        """Return whether nobody vouches for a second request with the rows of a piece of work."""
        return self.withdraws(work) or self._restored.other(work)

    async def prepared(self, works: Sequence[Work], now: datetime) -> list[Work]:
        """Return what can be sent, corrections rendered and those that go another way apart.

        Corrections that are not sent, or not yet, are settled, and what they take back with them.
        """
        made: list[Work] = []
        round_ = _Round(LedgerReader(self._ledger))
        for work in works:
            if not has_corrections(work):
                made.append(work)
                continue
            await round_.reader.learn(work.tenant, _before(work.events))
            parts: dict[int, list[Part]] = {}
            made += _some(work, [place for place, event in enumerate(work.events) if event.corrects is None], None)
            for place, index in enumerate(work.members):
                if work.events[place].corrects is None:
                    continue
                if place % AT_A_TURN == 0:
                    await asyncio.sleep(0)
                kept = None if work.parts is None else work.parts[place]
                found = kept if kept is not None else await self._decided(work, place, round_, now)
                round_.decided.add(ref_of(work.batch, index))
                if found is not None:
                    parts[place] = found
            apart = {place for place in parts if self._withdraws and _void(work.events[place])}
            made += _some(work, [place for place in parts if place not in apart], parts)
            made += _some(work, [place for place in parts if place in apart], parts)
        if round_.back or round_.changes:
            try:  # of a ledger in parts one may be written and another not: what is not taken back would be sent
                await self._write(_together(round_.back), [])
                await self._write(_together(round_.changes), [])
            except Moved:  # somebody decided about one of them meanwhile: all of them are looked at again
                return [work for work in made if not has_corrections(work)]
        return made

    async def _decided(self, work: Work, place: int, round_: "_Round", now: datetime) -> list[Part] | None:
        """Return the rows of one correction; `None` where it is settled, or waits."""
        event, index = work.events[place], work.members[place]
        if ref_of(work.batch, index) in round_.gone:
            return None
        found = await self._found(work.tenant, event, round_, now)
        if isinstance(found, Situation):
            if (waits := await self._taken_back(found.unsent, round_, now)) is not None:
                found = waits
            elif self._destination in self._catalogue.destinations or not needs_rows(event, found):
                received = from_micros(work.received_at(place))
                named = await named_since(
                    self._catalogue, round_.reader, self._destination, work.tenant, event, found.carrier
                )
                await self._catalogue.learn([(work.tenant, [event.customer])])
                made = rendered(self._catalogue, self._destination, work.tenant, event, found, received, now, named)
                if isinstance(made, Rows):
                    return made.parts
                found = made
            else:
                return None
        round_.changes.append(_settled(work, index, self._destination, found, now))
        return None

    async def _found(self, tenant: str, event: Event, round_: "_Round", now: datetime) -> Situation | Waits | Turned:
        assert event.corrects is not None
        chain = await round_.reader.chain(tenant, event.corrects.of, before=event.corrects.number)
        if chain is None or len(chain.events) < event.corrects.number:
            message = "what it corrects is no longer kept: correct it at the provider"
            return Turned(Code.REJECTED, ErrorItem(code=ErrorCode.UNSUPPORTED, message=message, retryable=False))
        stands = self._restored.seen(chain, await round_.reader.stands(chain, self._destination))
        stands = [stand for stand in stands if not round_.took(stand)]
        if any(ref_of(stand.batch, stand.index) in round_.decided for stand in stands):
            message = "it waits for an earlier correction of the same event"
            return Waits(now + SOON, ErrorItem(code=ErrorCode.CONFLICT, message=message, retryable=True))
        return situation(stands, event, now)

    async def _taken_back(self, unsent: Sequence[Stand], round_: "_Round", now: datetime) -> Waits | None:
        """Take back deliveries that never left; returns why that has to wait, where it has."""
        changes: list[Change] = []
        for stand in unsent:
            work = await round_.reader.holder(stand, self._destination)
            if work is None or work.group.state not in _HOLDS or work.group.doubt:
                message = "what it corrects is on its way"
                return Waits(now + SOON, ErrorItem(code=ErrorCode.CONFLICT, message=message, retryable=True))
            changes.append(
                Change(
                    work=work.id,
                    batch=stand.batch,
                    destination=self._destination,
                    members=[stand.index],
                    code=Code.VOIDED,
                    group=None,
                    waiting=True,
                )
            )
        round_.back += changes
        round_.gone.update(ref_of(stand.batch, stand.index) for stand in unsent)
        return None


class _Round:
    """What one call has seen and decided."""

    def __init__(self, reader: LedgerReader) -> None:
        self.reader = reader
        self.back: list[Change] = []
        """What takes back; before anything that says so."""
        self.changes: list[Change] = []
        """What becomes of corrections that are not sent now."""
        self.gone: set[int] = set()
        """Refs that are taken back."""
        self.decided: set[int] = set()
        """Refs of corrections that were looked at: what became of them is seen in the next."""

    def took(self, stand: Stand) -> bool:
        return ref_of(stand.batch, stand.index) in self.gone


def _before(events: Sequence[Event]) -> list[str]:
    """Return the ids of what corrections among events correct, and of their earlier corrections."""
    said = [event.corrects for event in events if event.corrects is not None]
    return [
        *(each.of for each in said),
        *(correction_id(each.of, number) for each in said for number in range(1, each.number)),
    ]


def _together(changes: Sequence[Change]) -> list[Change]:
    """Return changes with those joined that do the same to members of one piece of work."""
    made: dict[tuple[int, Code, bytes], Change] = {}
    for change in changes:
        key = (change.work, change.code, msgspec.json.encode(change.group))
        if key in made:
            made[key].members.extend(change.members)
        else:
            made[key] = change
    return list(made.values())


def _settled(work: Work, index: int, destination: str, found: Waits | Turned, now: datetime) -> Change:
    """Return what becomes of a correction that is not sent now."""
    error = found.error
    if isinstance(found, Waits):
        due, state, code = to_micros(found.until), WorkState.READY, Code.PENDING
        if work.group.attempts:
            code = Code.RETRYING
    else:
        due, state, code = to_micros(now), _STATES.get(found.code), found.code
        if work.group.doubt and code in {Code.REJECTED, Code.DEAD}:  # it may have been carried out before a restore
            state, code, error = WorkState.UNKNOWN, Code.UNKNOWN, doubtful(error)
    group = None if state is None else msgspec.structs.replace(work.group, state=state, due=due, error=error)
    return Change(
        work=work.id, batch=work.batch, destination=destination, members=[index], code=code, group=group, waiting=True
    )


_STATES = {Code.BLOCKED: WorkState.BLOCKED, Code.REJECTED: WorkState.REJECTED, Code.DEAD: WorkState.DEAD}


def _void(event: Event) -> bool:
    return event.corrects is not None and not event.corrects.after


def _some(work: Work, places: Sequence[int], parts: Mapping[int, list[Part]] | None) -> list[Work]:
    """Return some members of a piece of work, with their rows; those that it has where `parts` is None."""
    if not places:
        return []
    some = work.some(places)
    if parts is not None:
        some.parts = [parts[place] for place in places]
    return [some]
