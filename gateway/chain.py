"""An event and everything that corrected it since, in order: what it says now, and how it stands at a destination."""

from collections.abc import Sequence
from decimal import Decimal
from hashlib import sha256

import msgspec

from adapters import State
from canonical_schema import PLAIN, Event, Quantities
from gateway.ledger import Code, Group, Ledger, Part, Snapshot, StoredEvents, Track, Work, snapshot_of, split_ref

__all__ = ["LONGEST_ID", "Chain", "LedgerReader", "Stand", "correction_id", "has_corrections", "quantities_of"]

LONGEST_ID = 128
"""Characters of an event's id."""
TRAIL = 500
"""Lines of the audit trail that are read at once."""


def correction_id(original: str, number: int) -> str:
    """Return the id of an event's correction: the same whenever it is asked for."""
    named = f"{original}~c{number}"
    if len(named) <= LONGEST_ID:
        return named
    return f"cor_{sha256(original.encode()).hexdigest()[:32]}~c{number}"


def quantities_of(event: Event) -> Quantities:
    """Return what an event that was sent says in numbers; one that only counts says 1."""
    if event.quantities is not None:
        return event.quantities
    return {PLAIN: Decimal(1) if event.quantity is None else event.quantity}


def has_corrections(work: Work) -> bool:
    """Return whether a piece of work carries corrections, among other events perhaps."""
    if isinstance(work.events, StoredEvents) and work.events.lacks("corrects"):
        return False
    return any(event.corrects is not None for event in work.events)


class Stand(msgspec.Struct, kw_only=True):
    """How one event of a chain stands at one destination."""

    event: Event
    batch: int
    index: int
    code: Code
    group: Group | None
    """Where it is not done."""
    parts: Sequence[Part]
    """Where it is several rows and one of them was answered."""
    theirs: str | None
    """The provider's id of its only row."""
    sent: int
    """When it was first sent, as far as is known; 0 where it is not."""
    last: int
    """When it was last sent; 0 where it was not, or that is not known."""
    unheard: bool = False
    """Whether it was sent without being told what became of it: a repeat may have been given another id."""

    @property
    def partly(self) -> bool:
        """Whether some of its rows are, or may be, at the provider while others are not."""
        there = [part.code.status.success or part.code is Code.UNKNOWN for part in self.parts]
        return any(there) and not all(there)


class Chain(msgspec.Struct, frozen=True, kw_only=True):
    """An event that was sent, and its corrections."""

    tenant: str
    received: int
    """When the event that was sent came."""
    events: tuple[Event, ...]
    """The event, then its corrections by number."""
    refs: tuple[int, ...]

    @property
    def original(self) -> Event:
        """The event as it was sent."""
        return self.events[0]

    @property
    def value(self) -> Quantities:
        """What it says now."""
        last = self.events[-1].corrects
        return quantities_of(self.original) if last is None else last.after

    @property
    def halved(self) -> bool:
        """Whether it was refunded in order to be replaced, and is not: only some destinations know of the refund."""
        last = self.events[-1].corrects
        return last is not None and last.action == "refund"


class LedgerReader:
    """Reads the ledger and remembers what it read, so it is to be thrown away soon."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._snapshots: dict[int, Snapshot] = {}
        self._tracks: dict[tuple[int, str], _Standing] = {}
        self._pieces: dict[tuple[int, str], Sequence[Work]] = {}
        self._refs: dict[tuple[str, str], int | None] = {}
        self.named: dict[tuple[str, ...], int] = {}
        """Since when destinations name customers and meters as they do: for whoever asks."""
        self._remaps: dict[str, tuple[int, dict[tuple[str, str | None], int]]] = {}

    async def learn(self, tenant: str, ids: Sequence[str]) -> None:
        """Look up in one go what is about to be asked for."""
        found = await self._ledger.refs(tenant, ids)
        self._refs.update(((tenant, one), found.get(one)) for one in ids)

    async def ref(self, tenant: str, event_id: str) -> int | None:
        """Return the ref of an id, if it is known; if it was, where it has been learned."""
        if (tenant, event_id) in self._refs:
            return self._refs[tenant, event_id]
        return await self._ledger.find(tenant, event_id)

    async def snapshot(self, batch: int) -> Snapshot | None:
        """Return a batch as it stood when it was first looked at."""
        if batch not in self._snapshots:
            found = await snapshot_of(self._ledger, batch)
            if found is None:
                return None
            self._snapshots[batch] = found
        return self._snapshots[batch]

    async def event(self, tenant: str, event_id: str, *, erased: bool = False) -> tuple[int, Snapshot, Event] | None:
        """Return an event with its ref and its batch; `None` where it is unknown, or not kept any more.

        `erased`: or where its customer is not known any more, but what it came to is.
        """
        ref = await self.ref(tenant, event_id)
        if ref is None:
            return None
        batch, index = split_ref(ref)
        snapshot = await self.snapshot(batch)
        if snapshot is None or index >= len(snapshot.events):
            return None
        if not erased and snapshot.remains is not None and index in snapshot.remains.erased:
            return None  # nobody can be told any more whose usage it was
        return ref, snapshot, snapshot.events[index]

    async def erased(self, tenant: str, event_id: str) -> bool:
        """Return whether an event is there, but nobody can be told whose usage it was."""
        ref = await self.ref(tenant, event_id)
        if ref is None:
            return False
        batch, index = split_ref(ref)
        snapshot = await self.snapshot(batch)
        left = None if snapshot is None else snapshot.remains
        return left is not None and not left.trimmed and index in left.erased

    async def chain(
        self, tenant: str, original: str, before: int | None = None, *, erased: bool = False
    ) -> Chain | None:
        """Return an event with its corrections, or those numbered below `before`.

        `None` where it is unknown, or one of them is not kept any more: nobody can say what it says. `erased`: one
        whose customer was erased is kept.
        """
        found = await self.event(tenant, original, erased=erased)
        if found is None:
            return None
        events, refs = [found[2]], [found[0]]
        while before is None or len(events) < before:
            following = correction_id(original, len(events))
            more = await self.event(tenant, following, erased=erased)
            if more is None and await self.ref(tenant, following) is not None:
                return None
            if more is None or more[2].corrects is None or more[2].corrects.of != original:
                break
            events.append(more[2])
            refs.append(more[0])
        return Chain(
            tenant=tenant, received=found[1].received_at(split_ref(found[0])[1]), events=tuple(events), refs=tuple(refs)
        )

    async def stands(self, chain: Chain, destination: str) -> list[Stand]:
        """Return how the events of a chain stand at a destination; those without a delivery there are left out."""
        made: list[Stand] = []
        for event, ref in zip(chain.events, chain.refs, strict=True):
            batch, index = split_ref(ref)
            standing = await self._standing(batch, destination)
            if standing is not None and (code := standing.code(index)) is not Code.NONE:
                made.append(standing.stand(event, batch, index, code))
        return made

    async def remapped(self, tenant: str, event_id: str, destination: str, since: int) -> bool:
        """Return whether somebody had a delivery rendered anew at an instant or later, by the audit trail."""
        known = self._remaps.get(tenant)
        if known is None or since < known[0]:
            found: dict[tuple[str, str | None], int] = {}
            below: int | None = None
            while rows := await self._ledger.trail(tenant, below, TRAIL):
                for _, row in rows:
                    if row.action == "remap":
                        found.setdefault((row.target, row.destination), row.at)
                below, oldest = rows[-1]
                if oldest.at < since:
                    break
            known = self._remaps[tenant] = since, found
        return known[1].get((event_id, destination), -1) >= since

    async def holder(self, stand: Stand, destination: str) -> Work | None:
        """Return the piece of work that holds a delivery, as it is at this moment."""
        key = (stand.batch, destination)
        if key not in self._pieces:
            self._pieces[key] = await self._ledger.pieces(*key)
        return next((work for work in self._pieces[key] if stand.index in work.members), None)

    async def _standing(self, batch: int, destination: str) -> "_Standing | None":
        key = (batch, destination)
        if key not in self._tracks:
            snapshot = await self.snapshot(batch)
            if snapshot is None:
                return None
            track = next((track for track in snapshot.tracks if track.destination == destination), None)
            if track is None:
                return None
            self._tracks[key] = _Standing(track)
        return self._tracks[key]


class _Standing:
    """A track, read by index."""

    def __init__(self, track: Track) -> None:
        self._track = track
        self._groups = {index: group for group, members in track.work for index in members}
        self._theirs: dict[int, str] = {}
        self._sent: dict[int, int] = {}
        self._last: dict[int, int] = {}
        self._unheard: set[int] = set()
        for attempt in track.attempts:
            self._theirs.update(attempt.provider_event_ids)
            for index in attempt.members:
                self._sent.setdefault(index, attempt.at)
                self._last[index] = attempt.at
                outcome, _ = attempt.others.get(index, (attempt.outcome, None))
                if outcome == State.UNKNOWN:
                    self._unheard.add(index)

    def code(self, index: int) -> Code:
        return Code(self._track.codes[index])

    def stand(self, event: Event, batch: int, index: int, code: Code) -> Stand:
        return Stand(
            event=event,
            batch=batch,
            index=index,
            code=code,
            group=self._groups.get(index),
            parts=self._track.parts.get(index, ()),
            theirs=self._theirs.get(index),
            sent=self._sent.get(index, 0),
            last=self._last.get(index, 0),
            unheard=index in self._unheard,
        )
