"""Claim, store and enqueue: what the requests of one flush bring, in one atomic step."""

import sqlite3
from collections.abc import Callable, Sequence
from typing import NamedTuple

from canonical_schema import Event, encode_events
from gateway.ledger._claims import Claim, ClaimKind, Run
from gateway.ledger._deliveries import fresh
from gateway.ledger._events import StoredEvents
from gateway.ledger._ids import DIGEST, Ids
from gateway.ledger._keeping import Content
from gateway.ledger._kept import AuditRow
from gateway.ledger._model import Plan
from gateway.ledger._refs import ref_of, split_ref
from gateway.ledger._rows import pack_text, pack_times
from gateway.ledger._trail import note

__all__ = ["Entry", "Load", "Recorder", "prepare", "verified"]

SHARED = 1_000
"""Events of several requests that may share a batch: stored and sent together, as many as most providers take."""
LOOKS = 256 * 256
"""Events times requests of a batch that is shared, at most: whoever waits for a delivery has all of it looked at."""

Load = Callable[[sqlite3.Connection, int], Sequence[Event]]
"""Gives the events of a batch."""
Held = Callable[[sqlite3.Connection, int], Content]
"""Gives what repeats of a batch's ids are held against."""
Keep = Callable[[int, StoredEvents], None]


class Entry(NamedTuple):
    """What one request wants recorded."""

    tenant: str
    received: int
    events: Sequence[Event]
    plans: Sequence[Plan]
    digests: Sequence[bytes]
    text: bytes
    """The events as they are stored: written where they are at hand, not by the thread that commits."""
    audit: Sequence[AuditRow] = ()
    """Appended where all of it is new."""


class _Batch:
    """What is to be one batch: the new events of one request, or of several small ones of a tenant."""

    def __init__(self, number: int, tenant: str) -> None:
        self.number = number
        self.tenant = tenant
        self.events: list[Event] = []
        self.plans: list[Plan] = []
        self.digests: list[bytes] = []
        self.receipts: list[tuple[int, int]] = []
        """When each request was received, and how many events it brought."""
        self.texts: list[bytes] = []
        """The events as they are stored, piece by piece."""
        self.requests = 0

    def takes(self, entry: Entry) -> bool:
        """Return whether a request's events may join: a destination counts for a whole batch, or for none of it."""
        size = len(self.events) + len(entry.events)
        if size > SHARED or size * (self.requests + 1) > LOOKS:
            return False
        if not self.plans or entry.plans.count(self.plans[-1]) == len(entry.plans):
            return True
        ours, theirs = _sides(self.plans), _sides(entry.plans)
        return ours.live.isdisjoint(theirs.shadow) and ours.shadow.isdisjoint(theirs.live)

    def next_ref(self) -> int:
        return ref_of(self.number, len(self.events))

    def add(self, entry: Entry) -> None:
        self.events += entry.events
        self.plans += entry.plans
        self.digests += entry.digests
        self.texts.append(entry.text)
        self.receipts.append((entry.received, len(entry.events)))

    def add_one(self, entry: Entry, place: int) -> None:
        self.events.append(entry.events[place])
        self.plans.append(entry.plans[place])
        self.digests.append(entry.digests[place])
        self.texts.append(encode_events([entry.events[place]]))
        self.receipts.append((entry.received, 1))

    @property
    def text(self) -> bytes:
        """The events as they are stored."""
        return b"".join(self.texts)

    def row(self) -> tuple[object, ...]:
        """Return the batch as `arrivals` takes it."""
        receipts = [when for when, count in self.receipts for _ in range(count)]
        received = min(when for when, _ in self.receipts)
        apart = any(when != received for when, _ in self.receipts)
        return (
            self.number,
            self.tenant,
            received,
            len(self.events),
            pack_text(self.text),
            pack_times(receipts) if apart else None,
            b"".join(self.digests),
            *fresh(self.events, self.plans, receipts),
        )


class _Ready(NamedTuple):
    """What is left to do: to store rows, and to answer."""

    answers: list[Sequence[Claim]]
    rows: list[tuple[object, ...]]


class _Sides(NamedTuple):
    live: set[str]
    shadow: set[str]


def _sides(plans: Sequence[Plan]) -> _Sides:
    """Return the destinations that count for some of the events, and those that look on for some."""
    sides = _Sides(set(), set())
    for plan in set(plans):
        sides.live.update(plan.live, (destination for destination, _ in plan.filtered))
        sides.shadow.update(plan.shadow)
    return sides


class Recorder:
    """Records what is new. It knows every id: the first of one wins, in a request as in the ledger."""

    def __init__(self, ids: Ids, last: int, held: Held, keep: Keep) -> None:
        """`last` is the newest batch, `held` gives what a batch's ids stand for, `keep` is told of new events."""
        self._ids = ids
        self._last = last
        self._held = held
        self._keep = keep
        self._made: list[_Batch] = []
        self._ready: _Ready | None = None

    def prepare(self, entries: Sequence[Entry]) -> None:
        """Do what the next `write`, which is of these entries, can have done beforehand. Not while one is in flight."""
        answers = self._all_new(entries)
        if answers is not None:
            self._ready = _Ready(answers, [batch.row() for batch in self._made])

    def write(self, connection: sqlite3.Connection, entries: Sequence[Entry]) -> list[Sequence[Claim]]:
        """Store what is new, in one statement, and return each entry's claims; then call `kept` or `lost`."""
        if self._ready is None:
            answers = self._all_new(entries) or self._judged(connection, entries)
            self._ready = _Ready(answers, [batch.row() for batch in self._made])
        answers, rows = self._ready
        if rows:
            marks = ", ".join("(" + ", ".join("?" * len(row)) + ")" for row in rows)
            # One statement: the interpreter's lock would be handed over around each of many.
            connection.execute(f"INSERT INTO arrivals VALUES {marks}", [value for row in rows for value in row])
        for entry, claims in zip(entries, answers, strict=True):
            if entry.audit and all(claim.kind is ClaimKind.NEW for claim in claims):
                note(connection, entry.audit)
        return answers

    def kept(self) -> None:
        """Take what was written into account: it is durable."""
        for batch in self._made:
            self._keep(batch.number, StoredEvents(batch.text, len(batch.events)))
            self._last = batch.number
        self._made, self._ready = [], None

    def lost(self) -> None:
        """Know nothing of what was written: it was taken back."""
        self._ready = None
        while self._made:
            batch = self._made.pop()
            self._ids.take_back(batch.number, b"".join(batch.digests))

    def _all_new(self, entries: Sequence[Entry]) -> list[Sequence[Claim]] | None:
        """Return claims that all are new, and batches made; `None`, and none made, where that is not certain."""
        made: list[_Batch] = []
        shared: dict[str, _Batch] = {}
        answers: list[Sequence[Claim]] = []
        for entry in entries:
            batch = self._room_for(entry, made, shared)
            answers.append(Run(batch.next_ref(), len(entry.events)))
            batch.add(entry)
        for batch in made:
            if not batch.events:
                continue
            if not self._ids.add(batch.number, b"".join(batch.digests), if_new=True):
                self.lost()
                return None
            self._made.append(batch)
        return answers

    def _judged(self, connection: sqlite3.Connection, entries: Sequence[Entry]) -> list[Sequence[Claim]]:
        """Return claims, each event held against what is known of its id, and batches made of the new ones."""
        known = verified(connection, self._ids, [digest for entry in entries for digest in entry.digests])
        made: list[_Batch] = []
        shared: dict[str, _Batch] = {}
        contents: dict[int, Content] = {}
        answers: list[Sequence[Claim]] = []
        for entry in entries:
            batch = self._room_for(entry, made, shared)
            contents.setdefault(batch.number, Content(batch.events))
            places = range(len(entry.events))
            answers.append([self._claim(connection, entry, place, batch, known, contents) for place in places])
        for batch in made:
            if batch.events:
                self._ids.add(batch.number, b"".join(batch.digests))
                self._made.append(batch)
        return answers

    def _room_for(self, entry: Entry, made: list[_Batch], shared: dict[str, _Batch]) -> _Batch:
        """Return the batch that an entry's new events go to: the tenant's last one, or another."""
        batch = shared.get(entry.tenant)
        if batch is None or not batch.takes(entry):
            batch = shared[entry.tenant] = _Batch(self._last + 1 + len(made), entry.tenant)
            made.append(batch)
        batch.requests += 1
        return batch

    def _claim(
        self,
        connection: sqlite3.Connection,
        entry: Entry,
        place: int,
        batch: _Batch,
        known: dict[bytes, int],
        contents: dict[int, Content],
    ) -> Claim:
        ref = known.setdefault(entry.digests[place], batch.next_ref())
        if ref == batch.next_ref():
            batch.add_one(entry, place)
            return Claim(ref, ClaimKind.NEW)
        held_in, index = split_ref(ref)
        if held_in not in contents:  # repeats come by the batch: it is decoded once, not once an event
            contents[held_in] = self._held(connection, held_in)
        differing = contents[held_in].differing(index, entry.events[place])
        return Claim(ref, ClaimKind.REPLAY) if differing is None else Claim(ref, ClaimKind.CONFLICT, differing)


def verified(connection: sqlite3.Connection, ids: Ids, digests: Sequence[bytes]) -> dict[bytes, int]:
    """Return the refs of the ids that are known."""
    known: dict[bytes, int] = {}
    held: dict[int, bytes] = {}
    for place, refs in ids.candidates(b"".join(digests)).items():
        for ref in refs:
            batch, index = split_ref(ref)
            if batch not in held:
                row = connection.execute("SELECT digests FROM ids WHERE batch = ?", (batch,)).fetchone()
                held[batch] = b"" if row is None else row[0]
            if held[batch][index * DIGEST : (index + 1) * DIGEST] == digests[place]:
                known[digests[place]] = ref
    return known


_ARRIVALS = """
CREATE TEMP VIEW arrivals AS SELECT 0 AS batch, 0 AS tenant, 0 AS received, 0 AS size, 0 AS body, 0 AS receipts,
    0 AS digests, 0 AS deliveries, 0 AS codes, 0 AS members, 0 AS unrouted;
CREATE TEMP TRIGGER arrive INSTEAD OF INSERT ON arrivals BEGIN
    INSERT INTO batches (batch, tenant, received, size, body, receipts)
        VALUES (NEW.batch, NEW.tenant, NEW.received, NEW.size, NEW.body, NEW.receipts);
    INSERT INTO ids (batch, digests) VALUES (NEW.batch, NEW.digests);
    INSERT INTO tracks (batch, destination, shadow, codes)
        SELECT NEW.batch, json_extract(value, '$[0]'), json_extract(value, '$[1]'),
            substr(NEW.codes, key * NEW.size + 1, NEW.size)
        FROM json_each(NEW.deliveries);
    INSERT INTO work (destination, batch, members, state, due, attempts, doubt, since, window, deadline)
        SELECT json_extract(value, '$[0]'), NEW.batch,
            substr(NEW.members, json_extract(value, '$[2]'), json_extract(value, '$[3]')),
            'ready', NEW.received, 0, 0, NEW.received, json_extract(value, '$[4]'), json_extract(value, '$[5]')
        FROM json_each(NEW.deliveries) WHERE json_extract(value, '$[3]') > 0;
    INSERT INTO unrouted SELECT NEW.batch, NEW.unrouted WHERE NEW.unrouted IS NOT NULL;
END;
"""


def prepare(connection: sqlite3.Connection) -> None:
    """Give the connection `arrivals`, which puts a new batch and its deliveries where they belong."""
    connection.executescript(_ARRIVALS)
